"""Statistics of a comparison: scores of methods over cases, standings, pairs.

A score is a share: a method's log gain over the best log gain known of the case. The headline is
its interquartile mean over problems, floors and seeds (Agarwal et al., "Deep reinforcement learning
at the edge of the statistical precipice", NeurIPS 2021), with an interval over problems and the
seeds within them. Pairs are compared case by case: under one seed, all methods meet the same true
losses.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cprune_rl.comparison.bootstrap import band, exp_interval, interval, iqm, mean
from cprune_rl.comparison.records import COSTS, Case, RunRecord
from cprune_rl.core.intervals import Interval
from cprune_rl.errors import ConfigError

__all__ = [
    "EXACT",
    "UNRANKED",
    "ProblemStanding",
    "Scores",
    "Standing",
    "improvement",
    "problem_standings",
    "rank_methods",
    "score",
]

# Where this method ends by itself, it proves that nothing better exists among the widths that it
# may choose.
EXACT = "exact"
UNRANKED = (EXACT, "reference")  # know what no search may know
_CLEARLY = float(np.log(1.01))  # log gain of 1 %
_TIE = 1e-9  # of log gains: the same plan

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Log gains and shares of methods over cases, NaN where a method has no record of a case.

    Attributes:
        methods: that are ranked, by name.
        cases: sorted.
        records: by method and case; also of methods that are not ranked.
        log_gain: `(n_methods, n_cases)`.
        share: `(n_methods, n_cases)`, log gain over the reference's.
        reference: `(n_cases,)`, the best log gain of any method, the exact one among them.
        is_proven: `(n_cases,)`, whether the best is proven, and no method passed it by stepping by
            other widths.
        problem: `(n_cases,)`, which problem, counted from 0.
        stratum: `(n_cases,)`, which problem, floor and kind of losses, counted from 0.
    """

    methods: tuple[str, ...]
    cases: tuple[Case, ...]
    records: dict[tuple[str, Case], RunRecord]
    log_gain: Array
    share: Array
    reference: Array
    is_proven: NDArray[np.bool_]
    problem: NDArray[np.int64]
    stratum: NDArray[np.int64]

    def records_of(self, method: str) -> list[RunRecord | None]:
        """List the method's records, one for each case."""
        return [self.records.get((method, case)) for case in self.cases]


def score(records: Collection[RunRecord]) -> Scores:
    """Put records into one table.

    Args:
        records: in any order, at least one of a ranked method.

    Raises:
        ConfigError: no record is of a ranked method, or two are of the same run.
    """
    table = {(r.method, r.case): r for r in records}
    if len(table) < len(records):
        raise ConfigError("two rows are of the same method and case: remove one of them.")
    methods = tuple(sorted({r.method for r in records} - set(UNRANKED)))
    if not methods:
        names = ", ".join(sorted(UNRANKED))
        raise ConfigError(f"nothing to compare: no row is of a method other than {names}.")
    cases = tuple(sorted({r.case for r in records}))
    column = {case: at for at, case in enumerate(cases)}
    log_gain = np.full((len(methods), len(cases)), np.nan)
    reference = np.full(len(cases), -np.inf)
    proof = np.full(len(cases), -np.inf)
    for record in records:
        at = column[record.case]
        reference[at] = max(reference[at], record.log_gain)
        if record.method in methods:
            log_gain[methods.index(record.method), at] = record.log_gain
        if record.method == EXACT and record.ended == "itself":
            proof[at] = record.log_gain
    # Where nothing is to be gained, finding nothing is all of it.
    share = np.where(np.isnan(log_gain), np.nan, log_gain >= reference)
    np.divide(log_gain, reference, out=share, where=np.broadcast_to(reference > 0, share.shape))
    return Scores(
        methods=methods,
        cases=cases,
        records=table,
        log_gain=log_gain,
        share=share,
        reference=reference,
        is_proven=proof >= reference - _TIE,
        problem=_number(cases, lambda case: case.problem),
        stratum=_number(cases, lambda case: case[:3]),
    )


def _number(cases: Sequence[Case], key: Callable[[Case], Hashable]) -> NDArray[np.int64]:
    """Number cases of equal keys alike, from 0, in the order of their first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key(case), len(numbers)) for case in cases])


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One method over all cases.

    Intervals are over problems and seeds unless a name says seeds alone.

    Attributes:
        method: its name.
        rank: from 1, by `iqm`; None of a control, and where it lacks cases that others have.
        n_cases: that it has records of.
        n_errors: runs that failed.
        n_broken: runs whose plan does not hold its floor.
        iqm: interquartile mean of the share.
        iqm_seeds: the same, with its interval over seeds within each problem and floor.
        share: mean share.
        speedup: geometric mean.
        speedup_seeds: the same, over seeds.
        gap: mean of what the share lacks to 1, on cases whose best is proven; None where none is.
        beats_agent: probability that it ends faster than the agent on a case, ties as halves; None
            of the agent, or without one.
        agent_over: the agent's mean share less its own, case by case; None likewise.
        faster: share of cases in which it ends more than 1 % faster than the agent; None likewise.
        slower: share of those in which it ends more than 1 % slower; None likewise.
        cost: mean of each of `COSTS`.
    """

    method: str
    rank: int | None = None
    n_cases: int
    n_errors: int
    n_broken: int
    iqm: Interval
    iqm_seeds: Interval
    share: Interval
    speedup: Interval
    speedup_seeds: Interval
    gap: Interval | None = None
    beats_agent: Interval | None = None
    agent_over: Interval | None = None
    faster: float | None = None
    slower: float | None = None
    cost: dict[str, float]


def rank_methods(
    scores: Scores,
    agent: str,
    *,
    over_problems: Array,
    over_seeds: Array,
    controls: Collection[str] = (),
) -> tuple[Standing, ...]:
    """Rank the methods, best first; those without a rank come last.

    Args:
        scores: of all methods.
        agent: method that the others are compared with.
        over_problems: resamples of problems and seeds, `(n, n_cases)`.
        over_seeds: resamples of seeds alone, `(n, n_cases)`.
        controls: methods that get no rank.
    """
    standings = []
    for method in scores.methods:
        standing = _standing(scores, method, over_problems=over_problems, over_seeds=over_seeds)
        if agent in scores.methods and method != agent:
            standing = _with_agent(standing, scores, agent, weights=over_problems)
        standings.append(standing)

    def has_rank(standing: Standing) -> bool:
        return standing.n_cases == len(scores.cases) and standing.method not in controls

    standings.sort(key=lambda s: (not has_rank(s), -round(s.iqm.value, 12), s.method))
    return tuple(
        replace(standing, rank=rank if has_rank(standing) else None)
        for rank, standing in enumerate(standings, start=1)
    )


def _standing(scores: Scores, method: str, *, over_problems: Array, over_seeds: Array) -> Standing:
    at = scores.methods.index(method)
    log_gain = scores.log_gain[at]
    share = scores.share[at]
    records = [r for r in scores.records_of(method) if r is not None]
    n_errors = sum(r.error is not None for r in records)
    n_broken = sum(r.error is None and not r.holds for r in records)
    lacking = np.where(scores.is_proven, 1 - np.minimum(share, 1), np.nan)
    return Standing(
        method=method,
        n_cases=len(records),
        n_errors=n_errors,
        n_broken=n_broken,
        iqm=interval(iqm, share, over_problems),
        iqm_seeds=interval(iqm, share, over_seeds),
        share=interval(mean, share, over_problems),
        speedup=exp_interval(interval(mean, log_gain, over_problems)),
        speedup_seeds=exp_interval(interval(mean, log_gain, over_seeds)),
        gap=interval(mean, lacking, over_problems) if np.isfinite(lacking).any() else None,
        cost=_mean_cost(records),
    )


def _with_agent(standing: Standing, scores: Scores, agent: str, *, weights: Array) -> Standing:
    """Compare a method with the agent on the cases that both have; without any, do nothing."""
    at = scores.methods.index(standing.method)
    of_agent = scores.methods.index(agent)
    ahead = scores.log_gain[at] - scores.log_gain[of_agent]
    shared = ahead[np.isfinite(ahead)]
    if not len(shared):
        return standing
    return replace(
        standing,
        agent_over=interval(mean, scores.share[of_agent] - scores.share[at], weights),
        beats_agent=interval(mean, _wins(ahead), weights),
        faster=float((shared > _CLEARLY).mean()),
        slower=float((shared < -_CLEARLY).mean()),
    )


@dataclass(frozen=True, kw_only=True)
class ProblemStanding:
    """One method on one problem at one floor, over seeds.

    Attributes:
        problem: its name.
        floor: as asked for.
        losses: drawn or recorded.
        method: its name.
        n: seeds.
        n_failed: runs that failed, or whose plan does not hold the floor.
        speedup: geometric mean.
        share: mean share.
        points: mean change of accuracy, in percentage points, of runs that did not fail.
        cost: mean of each of `COSTS`.
        is_proven: whether the best is proven at every seed.
    """

    problem: str
    floor: float
    losses: str
    method: str
    n: int
    n_failed: int
    speedup: Interval
    share: Interval
    points: float | None
    cost: dict[str, float]
    is_proven: bool


def problem_standings(scores: Scores, over_seeds: Array) -> tuple[ProblemStanding, ...]:
    """Compare the methods on each problem and floor, best first.

    Args:
        scores: of all methods.
        over_seeds: resamples of seeds alone, `(n, n_cases)`.
    """
    standings: list[ProblemStanding] = []
    for stratum in range(int(scores.stratum.max()) + 1):
        is_here = scores.stratum == stratum
        of_stratum = [
            _problem_standing(scores, method, is_here, weights=over_seeds[:, is_here])
            for method in scores.methods
            if np.isfinite(scores.log_gain[scores.methods.index(method), is_here]).any()
        ]
        standings += sorted(of_stratum, key=lambda s: (-round(s.share.value, 12), s.method))
    return tuple(standings)


def _problem_standing(
    scores: Scores, method: str, is_here: NDArray[np.bool_], *, weights: Array
) -> ProblemStanding:
    at = scores.methods.index(method)
    case = scores.cases[int(np.argmax(is_here))]
    everywhere = scores.records_of(method)
    own = [everywhere[c] for c in np.flatnonzero(is_here)]
    records = [r for r in own if r is not None]
    points = [100 * (r.accuracy - r.dense_accuracy) for r in records if r.error is None]
    return ProblemStanding(
        problem=case.problem,
        floor=case.floor,
        losses=case.losses,
        method=method,
        n=len(records),
        n_failed=sum(r.error is not None or not r.holds for r in records),
        speedup=exp_interval(interval(mean, scores.log_gain[at, is_here], weights)),
        share=interval(mean, scores.share[at, is_here], weights),
        points=float(np.mean(points)) if points else None,
        cost=_mean_cost(records),
        is_proven=bool(scores.is_proven[is_here].all()),
    )


def improvement(scores: Scores, methods: Sequence[str], weights: Array) -> Array:
    """Compute the probability that each method beats each other, with its interval.

    Args:
        scores: of all methods.
        methods: in the order of the answer's axes.
        weights: resamples of the cases, `(n, n_cases)`.

    Returns:
        `(k, k, 3)`: value, low and high; NaN where two share no case.
    """
    log_gain = scores.log_gain[[scores.methods.index(m) for m in methods]]
    k = len(log_gain)
    ahead = log_gain[:, None] - log_gain[None, :]
    return band(_wins(ahead).reshape(k * k, -1), weights).T.reshape(k, k, 3)


def _wins(ahead: Array) -> Array:
    """1 where ahead, 0 where behind, a half at a tie, NaN where unknown."""
    return 0.5 + 0.5 * np.sign(np.where(np.abs(ahead) < _TIE, 0.0, ahead))


def _mean_cost(records: Sequence[RunRecord]) -> dict[str, float]:
    costs = [[record.cost[name] for name in COSTS] for record in records]
    return dict(zip(COSTS, np.mean(costs, axis=0).tolist(), strict=True))
