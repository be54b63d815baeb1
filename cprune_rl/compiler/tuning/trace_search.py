"""Searches the schedules of one task: from the pool, at random, then by evolution.

The evolution ends when a trial no longer pays. What a trial is, and what is kept of it, is for the
caller to say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from numpy.typing import NDArray

from cprune_rl.compiler.tuning.budget import TuningBudget
from cprune_rl.compiler.tuning.cost_model import ScheduleCostModel, features
from cprune_rl.compiler.tuning.schedule import (
    Candidate,
    ScheduleTrace,
    mutate,
    random_candidates,
    transfer_schedule,
)

__all__ = ["SearchTask", "TraceSearch"]

Measure = Callable[[Sequence[Candidate]], list[float]]

_FIRST_GAIN = 0.04  # log gain expected of a trial before anything is known of this task
_WINDOW = 12  # trials whose gain is averaged
# What a trial costs, about. The true figure would make a search depend on the machine's mood.
_TRIAL_S = 0.2
_N_PARENTS = 4


@dataclass(frozen=True, kw_only=True)
class SearchTask:
    """What is to be tuned.

    Attributes:
        module: one function named `main`.
        target: what it will run on.
        pool: schedules of the family, best first.
        share: of the network's work, in [0, 1].
        seed: of everything random.
    """

    module: tvm.IRModule
    target: tvm.target.Target
    pool: Sequence[ScheduleTrace]
    share: float
    seed: int


class TraceSearch:
    """One search for the schedules of a task.

    Args:
        task: what is to be tuned.
        budget: how hard.
        cost_model: ranks the family's schedules; it learns from the trials of this search.
    """

    def __init__(
        self, task: SearchTask, budget: TuningBudget, cost_model: ScheduleCostModel
    ) -> None:
        self._task = task
        self._budget = budget
        self._cost_model = cost_model
        self._rng = np.random.default_rng(task.seed)
        self._tried: dict[str, Candidate] = {}
        self._latencies: dict[str, float] = {}
        self._n_learnt = 0
        # Seconds of the fastest schedule, before the evolution and after each of its trials.
        self._course: list[float] = []

    def run(self, measure: Measure) -> list[Candidate]:
        """Try schedules on the task.

        Args:
            measure: tries schedules and gives their seconds, infinite where one failed.

        Returns:
            Everything that was tried.
        """
        first = self._first_generation()
        if not first:
            return []
        self._course.append(min(self._try(first, measure)))
        while len(self._tried) < self._budget.n_max and self._is_trial_worthwhile():
            self._teach()
            batch = self._next_generation()
            if not batch:
                break
            latencies = self._try(batch, measure)
            self._course += [min(self._course[-1], *latencies)] * len(batch)
        return list(self._tried.values())

    def _try(self, batch: dict[str, Candidate], measure: Measure) -> list[float]:
        latencies = measure(list(batch.values()))
        self._tried |= batch
        self._latencies |= zip(batch, latencies, strict=True)
        return latencies

    def _is_trial_worthwhile(self) -> bool:
        gain_percent = 100 * _expected_gain(self._course) * self._task.share
        return gain_percent >= _TRIAL_S / self._budget.worth_s

    def _first_generation(self) -> dict[str, Candidate]:
        task = self._task
        transferred = []
        for trace in task.pool[: self._budget.n_pool]:
            candidate = transfer_schedule(trace, task.module, task.target)
            if candidate is not None:
                transferred.append(candidate)
        n_random = min(self._budget.n_random, self._budget.n_max - len(transferred))
        drawn = random_candidates(task.module, task.target, count=n_random, seed=task.seed)
        return _by_digest([*transferred, *drawn])

    def _teach(self) -> None:
        """Show the cost model the trials that it has not seen."""
        fresh = list(self._tried)[self._n_learnt :]
        if fresh:
            self._cost_model.learn(
                self._features([self._tried[digest] for digest in fresh]),
                [self._latencies[digest] for digest in fresh],
                best_s=min(self._latencies.values()),
            )
            self._n_learnt += len(fresh)

    def _next_generation(self) -> dict[str, Candidate]:
        """Pick the most promising mutants of the best schedules, and one blindly.

        The blind pick keeps the ranking from leading the search into a corner.
        """
        mutants = self._mutants()
        count = min(self._budget.n_batch, self._budget.n_max - len(self._tried), len(mutants))
        if count == 0:
            return {}
        digests = list(mutants)
        if self._cost_model.is_ready:
            order = self._cost_model.rank(self._features(list(mutants.values())))
        else:
            order = self._rng.permutation(len(digests))
        picked = [digests[i] for i in order[: max(1, count - 1)]]
        rest = [digest for digest in digests if digest not in picked]
        if len(picked) < count and rest:
            picked.append(rest[int(self._rng.integers(len(rest)))])
        return {digest: mutants[digest] for digest in picked}

    def _mutants(self) -> dict[str, Candidate]:
        working = [digest for digest, s in self._latencies.items() if math.isfinite(s)]
        parents = sorted(working, key=self._latencies.__getitem__)[:_N_PARENTS]
        mutants = mutate(
            [self._tried[digest] for digest in parents],
            self._task.module,
            self._task.target,
            count=self._budget.n_mutants,
            seed=int(self._rng.integers(2**31)),
        )
        return {d: c for d, c in _by_digest(mutants).items() if d not in self._tried}

    def _features(self, candidates: Sequence[Candidate]) -> NDArray[np.float64]:
        return features(self._task.module, self._task.target, candidates)


def _expected_gain(course: Sequence[float]) -> float:
    """Return the log gain to be expected of a trial: recent gains, and a prior that fades.

    Args:
        course: seconds of the fastest schedule, before the evolution and after each of its trials.
    """
    if not math.isfinite(course[-1]):
        return 0.0  # nothing runs: there is nothing to evolve from
    recent = course[-1 - _WINDOW :]
    return math.log(recent[0] / recent[-1]) / max(len(recent) - 1, 1) + _FIRST_GAIN / len(course)


def _by_digest(candidates: Iterable[Candidate]) -> dict[str, Candidate]:
    distinct: dict[str, Candidate] = {}
    for candidate in candidates:
        distinct.setdefault(candidate.trace.digest, candidate)
    return distinct
