"""Runs one method on one case: a search within its budget, and the record of what it came to."""

from __future__ import annotations

import functools
import hashlib
import math
import time
from dataclasses import replace
from pathlib import Path

import cprune_rl
from cprune_rl.agents.baselines.exact import PROVEN
from cprune_rl.agents.core.back_off import fastest_passing, kept_plan
from cprune_rl.agents.core.budget_guard import search_within
from cprune_rl.agents.core.searcher import Budget
from cprune_rl.agents.registry import METHODS, make_searcher
from cprune_rl.comparison.cases import open_case
from cprune_rl.comparison.policy_store import PolicyStore
from cprune_rl.comparison.records import COSTS, Case, RunRecord
from cprune_rl.core.search_result import AcceptedPlan, SearchResult, SearchStep
from cprune_rl.core.system_info import describe_system
from cprune_rl.envs.problems.replay import EVALUATION_S, FINETUNE_S, TRIAL_S, Replay

__all__ = ["code_version", "failed_record", "run_case"]

# Folders that a glob does not follow where they are links.
_LINKED = ("agents", "envs", "cost_cache")

_Point = tuple[float, float, float]


def run_case(case: Case, name: str, *, budget: Budget, policies: PolicyStore) -> RunRecord:
    """Run one method on one case.

    Args:
        case: what it is tried on.
        name: of the method, a key of `METHODS`.
        budget: that nothing may pass; what is measured for the method beforehand is taken off it.
        policies: has the policy that the method wants.

    Raises:
        CPruneError: of the method.
    """
    method = METHODS[name]
    knows_all = method.role == "reference"
    replay = open_case(
        case,
        warm_start=method.warm_start,
        perfect_information=knows_all,
        with_schemes=method.has_schemes,
    )
    policy_s = policies.train_s(method.policy, case.problem) if method.policy else 0.0
    log = _SpendingLog(replay, policy_s)
    searcher = make_searcher(
        name,
        seed=case.seed,
        policy=policies.load(method.policy, case.problem) if method.policy else None,
        truth=replay.true_losses,
    )
    started = time.perf_counter()
    search, is_stopped = search_within(
        searcher,
        replay.problem,
        Budget() if knows_all else log.left(budget),
        on_step=log.note,
        other_s=log.spent_s,
    )
    think_s = time.perf_counter() - started
    passes = (lambda plan, _: replay.holds(plan)) if knows_all else replay.passes
    kept, n_asked = kept_plan(search, passes, budget.full_finetunes)
    if knows_all:
        # Where no step says that it is proven, the solver's time was up.
        is_stopped = is_stopped or all(step.why != PROVEN for step in search.history)
    counts = {
        "fresh_trials": 0 if knows_all else replay.charged_trials + search.cost["fresh_trials"],
        "tasks": 0 if knows_all else replay.n_charged_tasks + search.cost["cached_trials"],
        "accuracy_evaluations": search.cost["accuracy_evaluations"],
        "full_finetunes": search.cost["full_finetunes"] + n_asked,
    }
    record = _dense_record(case, name, budget=budget, replay=replay)
    return replace(
        record,
        latency_s=kept.latency_s,
        accuracy=replay.accuracy(kept.plan),
        holds=replay.holds(kept.plan),
        plan=kept.plan.widths,
        schemes=dict(kept.plan.schemes),
        cost=_with_seconds(counts, policy_s, think_s),
        curve=() if knows_all else log.curve(search, kept),
        ended="budget" if is_stopped else "itself",
    )


class _SpendingLog:
    """Notes what was spent whenever a plan was accepted.

    Args:
        replay: that is searched; nothing was spent on it yet.
        policy_s: seconds of training a policy for the problem.
    """

    def __init__(self, replay: Replay, policy_s: float) -> None:
        self._replay = replay
        self._policy_s = policy_s
        self._known_trials = replay.problem.latency.spending.fresh_trials
        self._accepted: list[tuple[SearchStep, float, float]] = []

    def left(self, budget: Budget) -> Budget:
        """Take off the budget what was measured beforehand."""
        if budget.fresh_trials is None:
            return budget
        left = max(0, budget.fresh_trials - self._replay.charged_trials)
        return replace(budget, fresh_trials=left)

    def note(self, step: SearchStep) -> None:
        """Note what was spent by an accepted step."""
        if step.accepted:
            self._accepted.append((step, *self._now()))

    def spent_s(self) -> float:
        """Compute the seconds that a device would have taken so far."""
        trials, evaluations = self._now()
        return self._policy_s + TRIAL_S * trials + EVALUATION_S * evaluations

    def curve(self, search: SearchResult, kept: AcceptedPlan) -> tuple[_Point, ...]:
        """Compute what would be kept by when: trials, evaluations and log gain."""
        accepted = [search.accepted[0]]
        points = [(float(self._replay.charged_trials), 0.0, 0.0)]
        for step, trials, evaluations in self._accepted:
            if step.accuracy is None or (search.looks and not step.n_looks):
                continue
            accepted.append(AcceptedPlan(step.plan, step.latency_s, step.accuracy))
            if search.looks:
                plan = min(accepted, key=lambda a: a.latency_s)
            else:
                plan, _ = fastest_passing(accepted, self._replay.passes)
            gain = self._gain(accepted[0], plan)
            if gain != points[-1][2]:
                points.append((trials, evaluations, gain))
        trials = self._replay.charged_trials + search.cost["fresh_trials"]
        evaluations = search.cost["accuracy_evaluations"]
        return (*points, (float(trials), float(evaluations), self._gain(accepted[0], kept)))

    def _gain(self, dense: AcceptedPlan, plan: AcceptedPlan) -> float:
        """Give the log gain of a plan; nothing where it passed the gate and is below the floor."""
        is_worth = self._replay.holds(plan.plan)
        return math.log(dense.latency_s / plan.latency_s) if is_worth else 0.0

    def _now(self) -> tuple[float, float]:
        problem = self._replay.problem
        fresh = problem.latency.spending.fresh_trials - self._known_trials
        trials = self._replay.charged_trials + fresh
        return float(trials), float(problem.oracle.spending.accuracy_evaluations)


def _with_seconds(counts: dict[str, float], policy_s: float, think_s: float) -> dict[str, float]:
    """Add to counts the seconds that they would have taken, and the sum of all seconds."""
    evaluations_s = EVALUATION_S * counts["accuracy_evaluations"]
    seconds = {
        "measure_s": TRIAL_S * counts["fresh_trials"],
        "train_s": evaluations_s + FINETUNE_S * counts["full_finetunes"],
        "policy_s": policy_s,
        "think_s": think_s,
    }
    cost = {**counts, **seconds, "wall_s": sum(seconds.values())}
    return {name: float(value) for name, value in cost.items()}


def failed_record(case: Case, name: str, *, budget: Budget, error: str) -> RunRecord:
    """Make the record of a run that failed: it is worth the dense network.

    Args:
        case: what it was tried on.
        name: of the method, a key of `METHODS`.
        budget: that it had.
        error: what failed.
    """
    replay = open_case(case, warm_start=False)
    record = _dense_record(case, name, budget=budget, replay=replay)
    return replace(record, ended="error", error=error)


def _dense_record(case: Case, name: str, *, budget: Budget, replay: Replay) -> RunRecord:
    """Make the record of a run that keeps the dense network and spends nothing."""
    problem = replay.problem
    dense = problem.network.dense
    dense_s = problem.measured_s(dense)
    return RunRecord(
        problem=case.problem,
        floor=case.floor,
        seed=case.seed,
        method=name,
        dense_s=dense_s,
        latency_s=dense_s,
        accuracy=replay.accuracy(dense),
        dense_accuracy=problem.dense_accuracy,
        floor_accuracy=replay.floor,
        holds=True,
        plan=dense.widths,
        cost=dict.fromkeys(COSTS, 0.0),
        curve=(),
        ended="itself",
        error=None,
        budget={
            "trials": _as_float(budget.fresh_trials),
            "evaluations": _as_float(budget.accuracy_evaluations),
            "minutes": budget.minutes,
            **_finetunes(budget),
        },
        losses=case.losses,
        gate_images=case.gate_images,
        commit=code_version(),
        versions=_versions(),
    )


def _finetunes(budget: Budget) -> dict[str, float | None]:
    """Name the limit of full fine-tunes, where there is one: rows of 0.2 do not."""
    limit = budget.full_finetunes
    return {} if limit is None else {"finetunes": float(limit)}


def _as_float(value: int | None) -> float | None:
    return None if value is None else float(value)


@functools.cache
def code_version() -> str:
    """Name the version of this package, and a hash of its sources."""
    root = Path(cprune_rl.__file__).parent
    paths = set(root.glob("**/*.py"))
    for name in _LINKED:
        paths.update((root / name).glob("**/*.py"))
    hashes = [
        (path.relative_to(root).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest())
        for path in paths
    ]
    digest = hashlib.sha256(repr(sorted(hashes)).encode()).hexdigest()
    return f"{cprune_rl.__version__}, sources {digest[:12]}"


@functools.cache
def _versions() -> dict[str, str]:
    return {str(k): str(v) for k, v in describe_system()["packages"].items()}
