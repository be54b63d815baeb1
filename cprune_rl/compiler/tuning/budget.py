"""Says how hard tasks are tuned: these are the most trials that a task gets.

A network has no total that is split over its tasks.

`pipeline/efforts.py` has the numbers of each effort. `trace_search` stops earlier where a trial is
not worth its seconds.

No compiler is loaded here: the configuration of a run holds these records.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DENSE_WORTH_S", "TuningBudget", "TuningSettings"]

DENSE_WORTH_S = 3.0
"""`TuningBudget.worth_s` of the dense network's tasks: every later search starts from them."""


@dataclass(frozen=True, kw_only=True)
class TuningBudget:
    """How many trials a task gets.

    Attributes:
        n_pool: schedules transferred from the pool.
        n_random: random schedules.
        n_max: trials at most, evolution included.
        worth_s: seconds of tuning that 1 % of the network's latency is worth. Evolution stops when
            the expected gain of a trial is worth less than the trial costs.
        n_batch: schedules of one generation that are tried.
        n_mutants: schedules of one generation that are ranked.
    """

    n_pool: int
    n_random: int
    n_max: int
    worth_s: float = 1.0
    n_batch: int = 4
    n_mutants: int = 16

    @property
    def key(self) -> str:
        """What the cost cache calls it: the values in the order above."""
        return ":".join(str(value) for value in vars(self).values())


@dataclass(frozen=True, kw_only=True)
class TuningSettings:
    """How hard the tasks of a network are tuned.

    Attributes:
        survey: tasks of the dense network in every layout variant, to see which variants pay.
        dense: tasks of the dense network in the variants that the survey left. The random schedules
            are those of the survey.
        near: tasks at other shapes, which start from the pool.
        transpose: of feature maps, between subgraphs in different layouts.
        variant_tolerance: a variant that was slower than another by more than this factor is not
            tried on nearby shapes.
        n_shared: best schedules that each task offers to the other tasks of its family.
        seed: of the random schedules.
    """

    survey: TuningBudget = TuningBudget(n_pool=4, n_random=12, n_max=12)
    dense: TuningBudget = TuningBudget(n_pool=4, n_random=12, n_max=64, worth_s=DENSE_WORTH_S)
    near: TuningBudget = TuningBudget(n_pool=4, n_random=3, n_max=16)
    transpose: TuningBudget = TuningBudget(n_pool=0, n_random=6, n_max=6)
    variant_tolerance: float = 1.4
    n_shared: int = 4
    seed: int = 0
