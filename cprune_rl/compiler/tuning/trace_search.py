"""The search for one task's programs:

from the pool, at random, then by evolution, until a trial no longer pays.

Called by the tuner, which says what a trial is and keeps what comes of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tvm

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

Try = Callable[[Sequence[Candidate]], list[float]]


@dataclass(frozen=True)
class SearchTask:
    """What is to be tuned.

    Attributes:
        module: one function named `main`.
        pool: programs of the family, best first.
        share: of the network's work, in [0, 1].
        seed: of everything random.
    """

    module: tvm.IRModule
    pool: Sequence[ScheduleTrace]
    share: float
    seed: int


_FIRST_GAIN = 0.04  # log gain expected of a trial before anything is known of this task
_WINDOW = 12  # trials
_TRIAL_S = (
    0.2  # what one costs, about; the true figure would make a search depend on the machine's mood
)


class TraceSearch:
    """Finds programs for tasks of one device, learning on the way which are worth a trial.

    Args:
        target: what they will run on.
        models: ranking of each family's programs; shared by searches that may learn from each
            other.
    """

    def __init__(
        self, target: tvm.target.Target, models: dict[str, ScheduleCostModel] | None = None
    ) -> None:
        self._target = target
        self._models = {} if models is None else models

    def run(
        self, family: str, task: SearchTask, budget: TuningBudget, attempt: Try
    ) -> list[Candidate]:
        """Tries programs on a task.

        Args:
            family: whose trials the ranking is learnt from.
            task: what is to be tuned.
            budget: how hard.
            attempt: tries programs and gives their seconds, infinite where one failed.

        Returns:
            Everything that was tried.
        """
        carried = [
            c
            for p in task.pool[: budget.n_pool]
            if (c := transfer_schedule(p, task.module, self._target)) is not None
        ]
        n_random = min(budget.n_random, budget.n_max - len(carried))
        first = _distinct(
            [*carried, *random_candidates(task.module, self._target, n_random, task.seed)]
        )
        if not first:
            return []
        tried = dict(zip(first, attempt(list(first.values())), strict=True))
        known = dict(first)
        model = self._models.setdefault(family, ScheduleCostModel())
        learnt: set[str] = set()
        course, rng = [min(tried.values())], np.random.default_rng(task.seed)
        while (
            len(tried) < budget.n_max
            and _expected_gain(course) * 100 * task.share >= _TRIAL_S / budget.worth_s
        ):
            self._teach(model, task.module, known, tried, learnt)
            batch = self._generation(model, task, budget, known, tried, rng)
            if not batch:
                break
            latencies = attempt(list(batch.values()))
            known |= batch
            tried |= dict(zip(batch, latencies, strict=True))
            course += [min(course[-1], *latencies)] * len(batch)
        return list(known.values())

    def _teach(
        self,
        model: ScheduleCostModel,
        module: tvm.IRModule,
        known: dict[str, Candidate],
        tried: dict[str, float],
        learnt: set[str],
    ) -> None:
        fresh = [d for d in tried if d not in learnt]
        if fresh:
            model.learn(
                features(module, self._target, [known[d] for d in fresh]),
                [tried[d] for d in fresh],
                min(tried.values()),
            )
            learnt.update(fresh)

    def _generation(
        self,
        model: ScheduleCostModel,
        task: SearchTask,
        budget: TuningBudget,
        known: dict[str, Candidate],
        tried: dict[str, float],
        rng: np.random.Generator,
    ) -> dict[str, Candidate]:
        """The most promising mutants of the best programs so far, and one picked blindly, so that
        the ranking cannot lead the search into a corner.
        """
        parents = sorted((d for d in tried if math.isfinite(tried[d])), key=tried.__getitem__)[:4]
        mutants = _distinct(
            mutate(
                [known[d] for d in parents],
                task.module,
                self._target,
                budget.n_mutants,
                int(rng.integers(2**31)),
            )
        )
        mutants = {d: c for d, c in mutants.items() if d not in tried}
        count = min(budget.n_batch, budget.n_max - len(tried), len(mutants))
        if count == 0:
            return {}
        digests = list(mutants)
        order = (
            model.rank(features(task.module, self._target, list(mutants.values())))
            if model.is_ready
            else rng.permutation(len(digests))
        )
        picked = [digests[i] for i in order[: max(1, count - 1)]]
        rest = [d for d in digests if d not in picked]
        if len(picked) < count and rest:
            picked.append(rest[int(rng.integers(len(rest)))])
        return {d: mutants[d] for d in picked}


def _expected_gain(course: Sequence[float]) -> float:
    """Log gain to be expected of one more trial: what recent ones gained, and a prior that fades.

    Args:
        course: seconds of the fastest program, before evolution and after each of its trials.
    """
    if not math.isfinite(course[-1]):
        return 0.0  # nothing runs: there is nothing to evolve from
    recent = course[-1 - _WINDOW :]
    return math.log(recent[0] / recent[-1]) / max(len(recent) - 1, 1) + _FIRST_GAIN / len(course)


def _distinct(candidates: Sequence[Candidate]) -> dict[str, Candidate]:
    found: dict[str, Candidate] = {}
    for candidate in candidates:
        found.setdefault(candidate.trace.digest, candidate)
    return found
