"""Rows of a comparison that nobody ran, for tests of what is made of rows."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cprune_rl.comparison.records import COSTS, RunRecord

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
    """A run that is made up."""
    evaluations, trials = 20.0, 300.0
    row = RunRecord(
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
        cost=dict.fromkeys(COSTS, 1.0)
        | {"fresh_trials": trials, "accuracy_evaluations": evaluations},
        curve=(
            (0.0, 0.0, 0.0),
            (trials / 4, evaluations / 4, 0.5 * math.log(speedup)),
            (trials, evaluations, math.log(speedup)),
        ),
        ended="itself",
        error=None,
        budget={"trials": 1000.0, "evaluations": 60.0, "minutes": None},
        losses="drawn",
        commit="0123abc",
        versions={"numpy": "2.0"},
    )
    return replace(row, **changes)


def failed(row: RunRecord) -> RunRecord:
    return replace(row, ended="error", error="it broke", latency_s=row.dense_s, plan=(), curve=())


def synthetic(
    methods: Sequence[str] = METHODS,
    n_problems: int = 6,
    floors: Sequence[float] = (-0.01, -0.02),
    n_seeds: int = 3,
) -> list[RunRecord]:
    """Runs by a seeded generator, of no search: better methods come first."""
    rng = random.Random(0)
    rows = []
    for p in range(n_problems):
        hardness = rng.uniform(0.5, 1.3)
        for floor in floors:
            for seed in range(n_seeds):
                best = hardness * (1 + 12 * abs(floor)) * rng.uniform(0.85, 1.15)
                for at, method in enumerate(methods):
                    share = min(
                        1.0,
                        max(
                            0.05,
                            0.96 - 0.025 * at + rng.gauss(0, 0.05) + 0.04 * math.sin(7 * p + at),
                        ),
                    )
                    costs = (
                        rng.uniform(200, 900) * (1 + 0.05 * at),
                        rng.uniform(15, 30) * (1 + 0.08 * at),
                    )
                    shape = [(f, 1 - math.exp(-3.5 * f)) for f in (0.05, 0.1, 0.2, 0.35, 0.5, 0.75)]
                    curve = (
                        (0.0, 0.0, 0.0),
                        *((f * costs[0], f * costs[1], share * best * g) for f, g in shape),
                        (*costs, share * best),
                    )
                    row = make_record(
                        method,
                        math.exp(share * best),
                        f"net{p}@synthetic-{p % 4 + 1}t",
                        seed,
                        floor,
                        curve=curve,
                        accuracy=0.9 + floor * rng.uniform(0.7, 1),
                    )
                    spent = dict(
                        zip(("fresh_trials", "accuracy_evaluations"), costs, strict=True)
                    ) | {"tasks": 90.0, "measure_s": costs[0] / 3, "train_s": 25 * costs[1]}
                    rows.append(replace(row, cost=row.cost | spent))
    rows[-1] = failed(rows[-1])
    return rows
