"""Records of runs that nobody made, for tests of what is made of records."""

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cprune_rl.comparison.records import COSTS, Case, RunRecord

METHODS = (
    "agent",
    "cprune",
    "proxy-greedy",
    "surrogate",
    "random",
    "annealing",
    "evolution",
    "bayesian",
)


def make_record(
    method: str = "agent",
    speedup: float = 2.0,
    problem: str = "a@x",
    seed: int = 0,
    floor: float = -0.01,
    **changes: Any,
) -> RunRecord:
    """A run that holds its floor; half of its gain is there at a quarter of its costs."""
    trials = 300.0
    evaluations = 20.0
    gain = math.log(speedup)
    cost = dict.fromkeys(COSTS, 1.0)
    record = RunRecord(
        problem=problem,
        floor=floor,
        seed=seed,
        method=method,
        dense_s=0.004,
        latency_s=0.004 / speedup,
        accuracy=0.9 + 0.9 * floor,
        dense_accuracy=0.9,
        floor_accuracy=0.9 + floor,
        holds=True,
        plan=(8, 16),
        cost=cost | {"fresh_trials": trials, "accuracy_evaluations": evaluations},
        curve=(
            (0.0, 0.0, 0.0),
            (trials / 4, evaluations / 4, 0.5 * gain),
            (trials, evaluations, gain),
        ),
        ended="itself",
        error=None,
        budget={"trials": 1000.0, "evaluations": 60.0, "minutes": None},
        losses="drawn",
        commit="0123abc",
        versions={"numpy": "2.0"},
    )
    return replace(record, **changes)


def failed(record: RunRecord) -> RunRecord:
    """The same run, had it failed."""
    return replace(
        record,
        ended="error",
        error="it broke",
        latency_s=record.dense_s,
        plan=(),
        curve=(),
    )


def synthetic(
    methods: Sequence[str] = METHODS,
    n_problems: int = 6,
    floors: Sequence[float] = (-0.01, -0.02),
    n_seeds: int = 3,
) -> list[RunRecord]:
    """Runs by a seeded generator, the last one failed: better methods come first."""
    rng = random.Random(0)
    records = []
    for p in range(n_problems):
        hardness = rng.uniform(0.5, 1.3)
        for floor, seed in itertools.product(floors, range(n_seeds)):
            case = Case(f"net{p}@synthetic-{p % 4 + 1}t", floor, losses="drawn", seed=seed)
            best = hardness * (1 + 12 * abs(floor)) * rng.uniform(0.85, 1.15)
            for rank, method in enumerate(methods):
                luck = 0.04 * math.sin(7 * p + rank)
                records.append(_draw_record(rng, case, method, rank=rank, best=best, luck=luck))
    records[-1] = failed(records[-1])
    return records


def _draw_record(
    rng: random.Random, case: Case, method: str, *, rank: int, best: float, luck: float
) -> RunRecord:
    share = min(1.0, max(0.05, 0.96 - 0.025 * rank + rng.gauss(0, 0.05) + luck))
    gain = share * best
    trials = rng.uniform(200, 900) * (1 + 0.05 * rank)
    evaluations = rng.uniform(15, 30) * (1 + 0.08 * rank)
    curve = [(0.0, 0.0, 0.0)]
    for part in (0.05, 0.1, 0.2, 0.35, 0.5, 0.75):
        reached = gain * (1 - math.exp(-3.5 * part))
        curve.append((part * trials, part * evaluations, reached))
    record = make_record(
        method,
        math.exp(gain),
        case.problem,
        seed=case.seed,
        floor=case.floor,
        curve=(*curve, (trials, evaluations, gain)),
        accuracy=0.9 + case.floor * rng.uniform(0.7, 1),
    )
    spent = {
        "fresh_trials": trials,
        "accuracy_evaluations": evaluations,
        "tasks": 90.0,
        "measure_s": trials / 3,
        "train_s": 25 * evaluations,
    }
    return replace(record, cost=record.cost | spent)
