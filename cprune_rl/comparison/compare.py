"""A comparison of methods: all statistics that a page shows, from the records of their runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cprune_rl.comparison.bootstrap import N_RESAMPLES, resample_problems, resample_seeds
from cprune_rl.comparison.caveats import find_caveats
from cprune_rl.comparison.profiles import COSTS_OVER, Curve, Front, cost_curves, fronts, profiles
from cprune_rl.comparison.records import RunRecord
from cprune_rl.comparison.statistics import (
    ProblemStanding,
    Scores,
    Standing,
    improvement,
    problem_standings,
    rank_methods,
    score,
)

__all__ = ["AGENT", "MethodComparison", "compare"]

AGENT = "agent"


@dataclass(frozen=True, kw_only=True)
class MethodComparison:
    """Everything that a page shows of a comparison.

    Attributes:
        agent: method that the others are compared with.
        scores: what standings, pairs, profiles and cost curves are from.
        floor: the one that those are at, because more problems were tried at it than at others;
            None where they are at all floors.
        standings: best first, then those without a rank.
        problem_standings: by problem and floor, best first.
        improvement: `(k, k, 3)`, probability that one method beats another, with its interval; in
            the order of `standings`.
        profiles: by method.
        costs: by cost, then by method; a cost that nobody had is left out.
        fronts: by method.
        caveats: what a reader must know before believing it.
    """

    agent: str
    scores: Scores
    floor: float | None
    standings: tuple[Standing, ...]
    problem_standings: tuple[ProblemStanding, ...]
    improvement: NDArray[np.float64]
    profiles: dict[str, Curve]
    costs: dict[str, dict[str, Curve]]
    fronts: dict[str, Front]
    caveats: tuple[str, ...]

    @property
    def n_problems(self) -> int:
        """How many clusters the intervals are over."""
        return int(self.scores.problem.max()) + 1

    @property
    def problems(self) -> list[str]:
        """Names of all problems, sorted; also of those that were tried at other floors alone."""
        return sorted({s.problem for s in self.problem_standings})


def compare(
    records: Sequence[RunRecord],
    *,
    agent: str = AGENT,
    controls: Collection[str] = (),
    n_resamples: int = N_RESAMPLES,
) -> MethodComparison:
    """Compute all statistics of a comparison; the order of the records does not matter.

    Args:
        records: of any methods and cases, not two of the same.
        agent: method that the others are compared with.
        controls: methods that get no rank, because they are one of the others without some of its
            information.
        n_resamples: of each bootstrap.

    Raises:
        ConfigError: no record is of a ranked method, or two are of the same run.
    """
    everything = score(records)
    floor = _main_floor(records)
    scores = everything if floor is None else score([r for r in records if r.floor == floor])
    over_problems = resample_problems(scores.problem, scores.stratum, n_resamples)
    standings = rank_methods(
        scores,
        agent,
        over_problems=over_problems,
        over_seeds=resample_seeds(scores.stratum, n_resamples),
        controls=controls,
    )
    costs = {}
    for cost in COSTS_OVER:
        curves = cost_curves(scores, over_problems, cost)
        if curves:
            costs[cost] = curves
    all_seeds = resample_seeds(everything.stratum, n_resamples)
    all_problems = resample_problems(everything.problem, everything.stratum, n_resamples)
    return MethodComparison(
        agent=agent,
        scores=scores,
        floor=floor,
        standings=standings,
        problem_standings=problem_standings(everything, all_seeds),
        improvement=improvement(scores, [s.method for s in standings], over_problems),
        profiles=profiles(scores, over_problems),
        costs=costs,
        fronts=fronts(everything, all_problems),
        caveats=tuple(find_caveats(records, everything)),
    )


def _main_floor(records: Sequence[RunRecord]) -> float | None:
    """Find the floor that most problems were tried at; None where several are.

    Problems tried at more floors than others would weigh more.
    """
    problems: dict[float, set[str]] = {}
    for record in records:
        problems.setdefault(record.floor, set()).add(record.problem)
    most = max(len(tried) for tried in problems.values())
    floors = [floor for floor, tried in problems.items() if len(tried) == most]
    return floors[0] if len(floors) == 1 and len(problems) > 1 else None
