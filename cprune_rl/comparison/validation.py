"""Checks a record of a comparison: its figures follow from its plan, its search gives that plan."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

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
_LIMITED = {
    "trials": "fresh_trials",
    "evaluations": "accuracy_evaluations",
    "finetunes": "full_finetunes",
}
_CLOCK_COSTS = ("policy_s", "think_s", "wall_s")


def check_record(path: Path) -> list[Check]:
    """Check every claim of a record.

    Args:
        path: of the file, in the `rows` folder of a comparison.

    Raises:
        ConfigError: it is no record, its method is not known to this version, or its recording is
            not there.
    """
    record = read_record(path)
    if record.method not in METHODS:
        raise ConfigError(f"{path}: there is no method {record.method!r} in this version")
    search = _check_search(record, path.parent.parent)
    return [*_check_figures(record), *_check_budget(record), search]


def is_valid(path: Path) -> bool:
    """Whether every claim of a record holds; False of a file that is none."""
    try:
        return all(check.passed for check in check_record(path))
    except CPruneError:
        return False


def _check_figures(record: RunRecord) -> Iterator[Check]:
    """Work out latency, accuracy and floor from the plan alone."""
    replay = open_case(record.case, perfect_information=True)
    problem = replay.problem
    dense = problem.network.dense
    plan = Plan(record.plan, tuple(record.schemes.items()))
    for name, stated_s, of_plan in (
        ("dense network", record.dense_s, dense),
        ("plan", record.latency_s, plan),
    ):
        latency_s = problem.measured_s(of_plan)
        is_same = _is_near(stated_s, latency_s)
        yield Check(f"latency of the {name}", f"{latency_s * 1e3:.4f} ms", is_same)
    accuracy = replay.accuracy(plan)
    yield Check("true accuracy of the plan", f"{accuracy:.4%}", _is_near(record.accuracy, accuracy))
    holds = replay.holds(plan)
    verdict = "holds" if holds else "does not hold"
    yield Check(
        "whether it holds the floor", f"{verdict} {replay.floor:.4%}", record.holds == holds
    )


def _check_budget(record: RunRecord) -> Iterator[Check]:
    if METHODS[record.method].role == "reference":
        return
    for name, cost in _LIMITED.items():
        limit = record.budget.get(name)
        spent = record.cost[cost]
        if limit is not None:
            yield Check(f"{cost} within the budget", f"{spent:.0f} of {limit:.0f}", spent <= limit)


def _check_search(record: RunRecord, folder: Path) -> Check:
    """Run the same search once more; by the clock no two are alike."""
    claim = "the same search comes to the same plan"
    if record.budget["minutes"] is not None:
        return Check(claim, "not checked: it was limited by the clock", None)
    policies = PolicyStore(folder / "policies")
    kind = METHODS[record.method].policy
    if kind is not None and not policies.has(kind, record.problem):
        name = policies.path(kind, record.problem).name
        return Check(claim, f"not checked: the policy is not there, {name}", None)
    try:
        again = run_case(record.case, record.method, budget=_budget(record), policies=policies)
    except Exception as error:  # as the record says it did, or not
        has_failed = record.error is not None
        if has_failed:
            claim = "the run fails, and counts as the dense network"
        return Check(claim, f"{type(error).__name__}: {error}", has_failed)
    evaluations = again.cost["accuracy_evaluations"]
    outcome = f"{again.speedup:.4f}x with {evaluations:.0f} evaluations"
    return Check(claim, outcome, _is_same(record, again))


def _is_same(record: RunRecord, again: RunRecord) -> bool:
    """Whether two runs are alike in all but code, versions and what was timed by the clock."""
    by_clock = {name: record.cost[name] for name in _CLOCK_COSTS}
    copy = replace(
        again, cost={**again.cost, **by_clock}, versions=record.versions, commit=record.commit
    )
    return _is_near(asdict(record), asdict(copy))


def _budget(record: RunRecord) -> Budget:
    trials = record.budget["trials"]
    evaluations = record.budget["evaluations"]
    finetunes = record.budget.get("finetunes")
    return Budget(
        fresh_trials=None if trials is None else int(trials),
        accuracy_evaluations=None if evaluations is None else int(evaluations),
        full_finetunes=None if finetunes is None else int(finetunes),
    )


def _is_near(a: Any, b: Any) -> bool:
    """Whether two values are equal, but for the rounding of their numbers."""
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=_TOLERANCE)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_is_near(value, b[key]) for key, value in a.items())
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(_is_near, a, b))
    return bool(a == b)
