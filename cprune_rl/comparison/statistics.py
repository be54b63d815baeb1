"""What rows of many methods on many problems say:

standings, pairs, each problem. The page and the leaderboard show it.

A score is a share: a method's log gain over the best log gain that is known of the case. The
headline is its interquartile mean
over problems, floors and seeds (Agarwal et al., "Deep reinforcement learning at the edge of the
statistical precipice", NeurIPS
2021), with an interval over problems and the seeds within them. Pairs are compared case by case,
because methods meet the same true losses under one seed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cprune_rl.comparison.bootstrap import (
    N_RESAMPLES,
    band,
    interval,
    iqm,
    mean,
    over_problems,
    over_seeds,
)
from cprune_rl.comparison.caveats import find_caveats
from cprune_rl.comparison.profiles import COSTS_OVER, Curve, Front, cost_curves, fronts, profiles
from cprune_rl.comparison.records import COSTS, RunRecord
from cprune_rl.comparison.scores import UNRANKED, Scores, score
from cprune_rl.core.intervals import Interval
from cprune_rl.errors import ConfigError

__all__ = ["AGENT", "Cell", "Comparison", "Standing", "compare"]

AGENT = "agent"
_CLEARLY = float(np.log(1.01))  # more than 1 % faster
_TIE = 1e-9  # of log gains: the same plan

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Standing:
    """One method over all cases.

    Intervals are over problems and seeds unless a name says seeds alone.

    Attributes:
        method: its name.
        rank: from 1, by `iqm`; None of a control, and where it lacks cases that others have.
        n_cases: that it has rows of.
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
        slower: in which more than 1 % slower; None likewise.
        cost: mean of each of `COSTS`.
    """

    method: str
    rank: int | None
    n_cases: int
    n_errors: int
    n_broken: int
    iqm: Interval
    iqm_seeds: Interval
    share: Interval
    speedup: Interval
    speedup_seeds: Interval
    gap: Interval | None
    beats_agent: Interval | None
    agent_over: Interval | None
    faster: float | None
    slower: float | None
    cost: dict[str, float]


@dataclass(frozen=True)
class Cell:
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


@dataclass(frozen=True)
class Comparison:
    """Everything that is shown.

    Attributes:
        agent: method that the others are set against.
        scores: what standings, pairs, profiles and cost curves are from.
        floor: the one that those are at, because more problems were tried at it than at others;
            None where they are at all floors.
        standings: best first, then those without a rank.
        cells: by problem and floor, best first.
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
    cells: tuple[Cell, ...]
    improvement: Array
    profiles: dict[str, Curve]
    costs: dict[str, dict[str, Curve]]
    fronts: dict[str, Front]
    caveats: tuple[str, ...]

    @property
    def n_problems(self) -> int:
        """Clusters that the intervals are over."""
        return int(self.scores.problem.max()) + 1


def compare(
    rows: Sequence[RunRecord],
    *,
    agent: str = AGENT,
    unranked: Collection[str] = UNRANKED,
    controls: Collection[str] = (),
    n_resamples: int = N_RESAMPLES,
) -> Comparison:
    """All statistics of a comparison; the order of the rows does not matter.

    Args:
        rows: of any methods and cases, not two of the same.
        agent: method that the others are set against.
        unranked: methods that only serve as a reference.
        controls: methods that are shown beside the others without a rank, because they are one of
            them, crippled.
        n_resamples: of each bootstrap.

    Raises:
        ConfigError: no row is of a ranked method, or two are of the same run.
    """
    if len({(r.method, r.case) for r in rows}) < len(rows):
        raise ConfigError("two rows are of the same method and case: remove one of them.")
    if all(r.method in unranked for r in rows):
        raise ConfigError(
            f"nothing to compare: no row is of a method other than {', '.join(sorted(unranked))}."
        )
    everything, floor = score(rows, unranked), _main_floor(rows)
    scores = everything if floor is None else score([r for r in rows if r.floor == floor], unranked)
    clusters, seeds = (
        over_problems(scores.problem, scores.stratum, n_resamples),
        over_seeds(scores.stratum, n_resamples),
    )
    standings = _ranked(
        [_standing(scores, at, agent, clusters, seeds) for at in range(len(scores.methods))],
        len(scores.cases),
        controls,
    )
    costs = {cost: cost_curves(scores, clusters, cost) for cost in COSTS_OVER}
    return Comparison(
        agent,
        scores,
        floor,
        standings,
        _cells(everything, over_seeds(everything.stratum, n_resamples)),
        _improvement(scores, [s.method for s in standings], clusters),
        profiles(scores, clusters),
        {cost: found for cost, found in costs.items() if found},
        fronts(everything, over_problems(everything.problem, everything.stratum, n_resamples)),
        tuple(find_caveats(rows, everything)),
    )


def _main_floor(rows: Sequence[RunRecord]) -> float | None:
    """The floor that most problems were tried at;

    None where several are. Problems tried at more floors than others would weigh more.
    """
    problems: dict[float, set[str]] = {}
    for row in rows:
        problems.setdefault(row.floor, set()).add(row.problem)
    most = max(len(of_floor) for of_floor in problems.values())
    floors = [floor for floor, of_floor in problems.items() if len(of_floor) == most]
    return floors[0] if len(floors) == 1 and len(problems) > 1 else None


def _standing(scores: Scores, at: int, agent: str, clusters: Array, seeds: Array) -> Standing:
    method, gain, share = scores.methods[at], scores.log_gain[at], scores.share[at]
    own = [r for r in scores.records_of(method) if r is not None]
    lacking = np.where(scores.is_proven, 1 - np.minimum(share, 1), np.nan)
    over = beats = faster = slower = None
    if agent in scores.methods and method != agent:
        other = scores.methods.index(agent)
        ahead = gain - scores.log_gain[other]
        if np.isfinite(ahead).any():
            over, beats = (
                interval(mean, scores.share[other] - share, clusters),
                interval(mean, _wins(ahead), clusters),
            )
            known = ahead[np.isfinite(ahead)]
            faster, slower = float((known > _CLEARLY).mean()), float((known < -_CLEARLY).mean())
    return Standing(
        method,
        None,
        len(own),
        sum(r.error is not None for r in own),
        sum(r.error is None and not r.holds for r in own),
        interval(iqm, share, clusters),
        interval(iqm, share, seeds),
        interval(mean, share, clusters),
        _exp(interval(mean, gain, clusters)),
        _exp(interval(mean, gain, seeds)),
        interval(mean, lacking, clusters) if np.isfinite(lacking).any() else None,
        beats,
        over,
        faster,
        slower,
        _mean_cost(own),
    )


def _ranked(
    standings: Sequence[Standing], n_cases: int, controls: Collection[str]
) -> tuple[Standing, ...]:
    able = {s.method: s.n_cases == n_cases and s.method not in controls for s in standings}
    ordered = sorted(
        standings, key=lambda s: (not able[s.method], -round(s.iqm.value, 12), s.method)
    )
    return tuple(
        replace(s, rank=at if able[s.method] else None) for at, s in enumerate(ordered, start=1)
    )


def _cells(scores: Scores, seeds: Array) -> tuple[Cell, ...]:
    found = []
    for stratum in range(int(scores.stratum.max()) + 1):
        here = scores.stratum == stratum
        case, weights = scores.cases[int(np.argmax(here))], seeds[:, here]
        of_stratum: list[Cell] = []
        for at, method in enumerate(scores.methods):
            own = [
                r
                for r, is_here in zip(scores.records_of(method), here, strict=True)
                if is_here and r is not None
            ]
            if not own:
                continue
            speedup = _exp(interval(mean, scores.log_gain[at][here], weights))
            points = [100 * (r.accuracy - r.dense_accuracy) for r in own if r.error is None]
            failed = sum(r.error is not None or not r.holds for r in own)
            share = interval(mean, scores.share[at][here], weights)
            lost = float(np.mean(points)) if points else None
            of_stratum.append(
                Cell(
                    case.problem,
                    case.floor,
                    case.losses,
                    method,
                    len(own),
                    failed,
                    speedup,
                    share,
                    lost,
                    _mean_cost(own),
                    bool(scores.is_proven[here].all()),
                )
            )
        found += sorted(of_stratum, key=lambda c: (-round(c.share.value, 12), c.method))
    return tuple(found)


def _improvement(scores: Scores, order: Sequence[str], weights: Array) -> Array:
    gains = scores.log_gain[[scores.methods.index(m) for m in order]]
    k = len(gains)
    ahead = gains[:, None] - gains[None, :]
    return band(_wins(ahead).reshape(k * k, -1), weights).T.reshape(k, k, 3)


def _wins(ahead: Array) -> Array:
    """1 where ahead, 0 where behind, a half at a tie, NaN where not known."""
    return np.where(
        np.isnan(ahead), np.nan, 0.5 + 0.5 * np.sign(np.where(np.abs(ahead) < _TIE, 0.0, ahead))
    )


def _exp(found: Interval) -> Interval:
    return Interval(*(float(np.exp(v)) for v in (found.value, found.low, found.high)))


def _mean_cost(rows: Sequence[RunRecord]) -> dict[str, float]:
    return {name: float(np.mean([r.cost[name] for r in rows])) for name in COSTS}
