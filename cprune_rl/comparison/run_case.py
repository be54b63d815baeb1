"""One method on one case:

a search within its budget, the plan that a run would keep of it, and what it cost, as a row.

Called by `runner`, and once more by `validation`.
"""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cprune_rl
from cprune_rl.agents.baselines.exact import PROVEN
from cprune_rl.agents.core.budget_guard import search_within
from cprune_rl.agents.core.searcher import Budget
from cprune_rl.agents.registry import METHODS, MethodContext
from cprune_rl.comparison.cases import EVALUATION_S, FINETUNE_S, TRIAL_S, kept, open_case
from cprune_rl.comparison.policy_store import PolicyStore
from cprune_rl.comparison.records import COSTS, Case, RunRecord
from cprune_rl.core.search_result import AcceptedPlan, SearchStep
from cprune_rl.core.system_info import describe_system
from cprune_rl.envs.problems.replay import Replay

__all__ = ["code_version", "failed_record", "run_case"]

_LINKED = (
    "agents",
    "envs",
    "cost_cache",
)  # folders that a glob does not follow where they are links


def run_case(case: Case, method: str, budget: Budget, policies: PolicyStore) -> RunRecord:
    """One method on one case.

    Args:
        case: what it is tried on.
        method: a key of `METHODS`.
        budget: that no look may pass; what is measured for the method beforehand is taken off it.
        policies: has the policy that it brings along.

    Raises:
        CPruneError: of the method; the runner makes a row of it.
    """
    way = METHODS[method]
    perfect_information = way.role == "reference"
    replay = open_case(case, way.warm_start, perfect_information, way.has_schemes)
    before = replay.charged_trials
    policy_s = 0.0 if way.policy is None else policies.seconds(way.policy, case.problem)
    left = (
        Budget()
        if perfect_information
        else Budget(
            None if budget.fresh_trials is None else max(0, budget.fresh_trials - before),
            budget.accuracy_evaluations,
            budget.minutes,
        )
    )
    searcher = way.make(
        MethodContext(lambda: policies.load(str(way.policy), case.problem), case.seed, replay.truth)
    )
    problem, spent_at = replay.problem, list[tuple[int, int]]()

    def note(step: SearchStep) -> None:
        if step.accepted:
            spent_at.append(
                (
                    before + problem.latency.spending.fresh_trials - n_known,
                    problem.oracle.spending.accuracy_evaluations,
                )
            )

    n_known = problem.latency.spending.fresh_trials
    started = time.perf_counter()
    found, is_stopped = search_within(
        searcher,
        problem,
        left,
        note,
        lambda: (
            policy_s
            + TRIAL_S * (before + problem.latency.spending.fresh_trials - n_known)
            + EVALUATION_S * problem.oracle.spending.accuracy_evaluations
        ),
    )
    think_s = time.perf_counter() - started
    best, n_finetuned = kept(replay, found.accepted)
    trials = 0 if perfect_information else before + int(found.cost["fresh_trials"])
    evaluations = int(found.cost["accuracy_evaluations"])
    cost = {
        "fresh_trials": trials,
        "tasks": 0 if perfect_information else replay.n_charged_tasks + found.cost["cached_trials"],
        "accuracy_evaluations": evaluations,
        "full_finetunes": n_finetuned,
        "measure_s": TRIAL_S * trials,
        "train_s": EVALUATION_S * evaluations + FINETUNE_S * n_finetuned,
        "policy_s": policy_s,
        "think_s": think_s,
    }
    cost["wall_s"] = sum(value for name, value in cost.items() if name.endswith("_s"))
    is_stopped = is_stopped or (
        perfect_information and all(step.why != PROVEN for step in found.history)
    )  # the solver's time was up
    curve = (
        ()
        if perfect_information
        else _curve(replay, found.accepted, spent_at, before, (trials, evaluations))
    )
    return _row(
        case, method, budget, replay, best, cost, curve, "budget" if is_stopped else "itself"
    )


def _curve(
    replay: Replay,
    accepted: Sequence[AcceptedPlan],
    spent_at: Sequence[tuple[int, int]],
    before: int,
    total: tuple[int, int],
) -> tuple[tuple[float, float, float], ...]:
    """What would be kept by when."""
    points = [(float(before), 0.0, 0.0)]
    for at, (trials, evaluations) in enumerate(spent_at, start=2):
        gain = _log_gain(accepted, kept(replay, accepted[:at])[0])
        if gain != points[-1][2]:
            points.append((float(trials), float(evaluations), gain))
    return (
        *points,
        (float(total[0]), float(total[1]), _log_gain(accepted, kept(replay, accepted)[0])),
    )


def _log_gain(accepted: Sequence[AcceptedPlan], plan: AcceptedPlan) -> float:
    return math.log(accepted[0].latency_s / plan.latency_s)


def _row(
    case: Case,
    method: str,
    budget: Budget,
    replay: Replay,
    best: AcceptedPlan,
    cost: dict[str, float],
    curve: tuple[tuple[float, float, float], ...],
    ended: Any,
    error: str | None = None,
) -> RunRecord:
    problem = replay.problem
    dense_s = problem.measured_s(problem.network.dense)
    return RunRecord(
        case.problem,
        case.floor,
        case.seed,
        method,
        dense_s,
        best.latency_s,
        replay.accuracy(best.plan),
        problem.dense_accuracy,
        problem.floor,
        best.plan == problem.network.dense or replay.holds(best.plan),
        best.plan.widths,
        {name: float(value) for name, value in cost.items()},
        curve,
        ended,
        error,
        {
            "trials": _as_float(budget.fresh_trials),
            "evaluations": _as_float(budget.accuracy_evaluations),
            "minutes": budget.minutes,
        },
        "recorded" if case.losses == "recorded" else "drawn",
        code_version(),
        _versions(),
        dict(best.plan.schemes),
    )


def _as_float(value: int | None) -> float | None:
    return None if value is None else float(value)


def failed_record(case: Case, method: str, budget: Budget, error: str) -> RunRecord:
    """The dense network: what a failed run is worth.

    Args:
        case: what it was tried on.
        method: a key of `METHODS`.
        budget: that it had.
        error: what failed.
    """
    replay = open_case(case, warm_start=False)
    problem = replay.problem
    dense = problem.network.dense
    dense_s = problem.measured_s(dense)
    return _row(
        case,
        method,
        budget,
        replay,
        AcceptedPlan(dense, dense_s, problem.dense_accuracy),
        dict.fromkeys(COSTS, 0.0),
        (),
        "error",
        error,
    )


@functools.cache
def code_version() -> str:
    """Version of this package and a hash of its sources."""
    root = Path(cprune_rl.__file__).parent
    sources = sorted(
        (path.relative_to(root).as_posix(), path.read_bytes())
        for path in (
            *root.glob("**/*.py"),
            *(p for name in _LINKED for p in (root / name).glob("**/*.py")),
        )
    )
    digest = hashlib.sha256(
        repr(
            [(name, hashlib.sha256(text).hexdigest()) for name, text in dict(sources).items()]
        ).encode()
    ).hexdigest()
    return f"{cprune_rl.__version__}, sources {digest[:12]}"


@functools.cache
def _versions() -> dict[str, str]:
    return {str(k): str(v) for k, v in describe_system()["packages"].items()}
