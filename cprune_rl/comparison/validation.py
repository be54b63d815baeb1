"""Whether a row of a comparison holds:

its figures worked out again from its plan, and its search run again.

Called by `cprune-rl validate` and for the leaderboard.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cprune_rl.agents.core.searcher import Budget
from cprune_rl.agents.registry import METHODS
from cprune_rl.comparison.cases import open_case
from cprune_rl.comparison.policy_store import PolicyStore
from cprune_rl.comparison.records import RunRecord, read_record
from cprune_rl.comparison.run_case import run_case
from cprune_rl.core.check import Check
from cprune_rl.core.network import Plan
from cprune_rl.errors import ConfigError, CPruneError

__all__ = ["check_record", "is_valid"]

_TOLERANCE = 1e-9  # of a latency or an accuracy: both are worked out by the same formulas


def check_record(path: Path) -> list[Check]:
    """Checks every claim of a row.

    Args:
        path: of the file, in the `rows` folder of a comparison.

    Raises:
        ConfigError: it is no row, its method is not known to this version, or its recording is not
            there.
    """
    row = read_record(path)
    if row.method not in METHODS:
        raise ConfigError(f"{path}: there is no method {row.method!r} in this version")
    checks = _figures(row) + _budget(row)
    return [*checks, _again(row, path.parent.parent)]


def is_valid(path: Path) -> bool:
    """Whether every claim of a row holds; False of a file that is none."""
    try:
        return all(check.passed for check in check_record(path))
    except CPruneError:
        return False


def _figures(row: RunRecord) -> list[Check]:
    """Latency, accuracy and floor, from the plan alone."""
    replay = open_case(row.case, perfect_information=True)
    problem, plan = replay.problem, Plan(row.plan, tuple(row.schemes.items()))
    dense_s, latency_s = (problem.measured_s(p) for p in (problem.network.dense, plan))
    holds = plan == problem.network.dense or replay.holds(plan)
    return [
        Check(
            "latency of the dense network",
            f"{dense_s * 1e3:.4f} ms",
            _is_near(row.dense_s, dense_s),
        ),
        Check(
            "latency of the plan", f"{latency_s * 1e3:.4f} ms", _is_near(row.latency_s, latency_s)
        ),
        Check(
            "true accuracy of the plan",
            f"{replay.accuracy(plan):.4%}",
            _is_near(row.accuracy, replay.accuracy(plan)),
        ),
        Check(
            "whether it holds the floor",
            f"{'holds' if holds else 'does not hold'} {problem.floor:.4%}",
            row.holds == holds,
        ),
    ]


def _budget(row: RunRecord) -> list[Check]:
    if METHODS[row.method].role == "reference":
        return []
    limits = (("trials", "fresh_trials"), ("evaluations", "accuracy_evaluations"))
    return [
        Check(
            f"{cost} within the budget",
            f"{row.cost[cost]:.0f} of {limit:.0f}",
            row.cost[cost] <= limit,
        )
        for name, cost in limits
        if (limit := row.budget[name]) is not None
    ]


def _again(row: RunRecord, folder: Path) -> Check:
    """The same search once more; by the clock no two are alike."""
    claim = "the same search comes to the same plan"
    way = METHODS[row.method]
    if row.budget["minutes"] is not None:
        return Check(claim, "not checked: it was limited by the clock", None)
    policies = PolicyStore(folder / "policies")
    if (
        way.policy is not None
        and not (policies.path(way.policy, row.problem) / "policy.json").is_file()
    ):
        return Check(
            claim,
            f"not checked: the policy is not there, {policies.path(way.policy, row.problem).name}",
            None,
        )
    budget = Budget(
        *(
            None if (limit := row.budget[name]) is None else int(limit)
            for name in ("trials", "evaluations")
        )
    )
    try:
        found = run_case(row.case, row.method, budget, policies)
    except Exception as error:  # as the row says it did, or not
        return Check(
            claim if row.error is None else "the run fails, and counts as the dense network",
            f"{type(error).__name__}: {error}",
            row.error is not None,
        )
    figures = (
        "fresh_trials",
        "tasks",
        "accuracy_evaluations",
        "full_finetunes",
        "measure_s",
        "train_s",
    )
    is_same = replace(
        found, cost=row.cost, versions=row.versions, commit=row.commit
    ) == row and all(found.cost[n] == row.cost[n] for n in figures)
    return Check(
        claim,
        f"{found.speedup:.4f}x with {found.cost['accuracy_evaluations']:.0f} evaluations",
        is_same,
    )


def _is_near(a: float, b: float) -> bool:
    return abs(a - b) <= _TOLERANCE * max(abs(a), abs(b))
