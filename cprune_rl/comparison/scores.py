"""Rows as one table of scores, methods over cases, so that every statistic is a few lines of NumPy."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cprune_rl.comparison.records import Case, RunRecord

__all__ = ["EXACT", "UNRANKED", "Scores", "score"]

# the method whose end by itself is a proof that nothing better exists among the widths that it may
# choose
EXACT = "exact"
UNRANKED = (EXACT, "reference")  # know what no search may know
_TIE = 1e-9  # of log gains


@dataclass(frozen=True)
class Scores:
    """Log gains and shares, NaN where a method has no row of a case.

    Attributes:
        methods: that are ranked, by name.
        cases: sorted.
        rows: by method and case; also of methods that are not ranked.
        log_gain: `(n_methods, n_cases)`.
        share: `(n_methods, n_cases)`, log gain over the reference's.
        reference: `(n_cases,)`, the best log gain that any method found, the proven one among them.
        is_proven: `(n_cases,)`, whether the best is a proven one, that nothing passed by stepping
            by other widths.
        problem: `(n_cases,)`, which problem, counted from 0.
        stratum: `(n_cases,)`, which problem, floor and kind of losses.
    """

    methods: tuple[str, ...]
    cases: tuple[Case, ...]
    rows: dict[tuple[str, Case], RunRecord]
    log_gain: NDArray[np.float64]
    share: NDArray[np.float64]
    reference: NDArray[np.float64]
    is_proven: NDArray[np.bool_]
    problem: NDArray[np.int64]
    stratum: NDArray[np.int64]

    def records_of(self, method: str) -> list[RunRecord | None]:
        """The method's rows, one for each case."""
        return [self.rows.get((method, case)) for case in self.cases]


def score(rows: Sequence[RunRecord], unranked: Collection[str] = UNRANKED) -> Scores:
    """Puts rows into one table.

    Args:
        rows: in any order, at least one of a ranked method.
        unranked: methods that only serve as a reference.
    """
    table = {(r.method, r.case): r for r in rows}
    methods = tuple(sorted({r.method for r in rows} - set(unranked)))
    cases = tuple(sorted({r.case for r in rows}))
    log_gain = np.array(
        [[table[m, c].log_gain if (m, c) in table else np.nan for c in cases] for m in methods]
    ).reshape(len(methods), len(cases))
    best = dict.fromkeys(cases, -np.inf)
    for row in rows:
        best[row.case] = max(best[row.case], row.log_gain)
    proofs = {r.case: r.log_gain for r in rows if r.method == EXACT and r.ended == "itself"}
    reference = np.array([best[c] for c in cases])
    is_proven = np.array([c in proofs and proofs[c] >= best[c] - _TIE for c in cases])
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(
            reference > 0,
            log_gain / reference,
            np.where(np.isnan(log_gain), np.nan, log_gain >= reference),
        )
    problem, stratum = _numbers([c.problem for c in cases]), _numbers([c[:3] for c in cases])
    return Scores(methods, cases, table, log_gain, share, reference, is_proven, problem, stratum)


def _numbers(keys: Sequence[object]) -> NDArray[np.int64]:
    known = {key: at for at, key in enumerate(dict.fromkeys(keys))}
    return np.array([known[key] for key in keys], dtype=np.int64)
