"""What a reader must know before believing a comparison, found in its rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from cprune_rl.comparison.rows import Case, Row
from cprune_rl.comparison.scores import EXACT, Scores

__all__ = ["remarks"]

_FEW_PROBLEMS = 8  # below it a bootstrap over them is known to be too narrow


def remarks(rows: Sequence[Row], scores: Scores) -> list[str]:
    """Sentences, none where nothing is odd.

    Args:
        rows: all of them.
        scores: what they come to.
    """
    found = []
    n_problems, n_cases = int(scores.problem.max()) + 1, len(scores.cases)
    if n_problems < _FEW_PROBLEMS:
        found.append(f"There {'is one problem' if n_problems == 1 else f'are {n_problems} problems'} only: intervals over problems are too narrow, or none at all.")
    lacking = {m: int(np.isfinite(own).sum()) for m, own in zip(scores.methods, scores.log_gain, strict=True) if np.isnan(own).any()}
    if lacking:
        found.append(f"Shown but not ranked, because they lack cases: {', '.join(f'{m} ({n} of {n_cases})' for m, n in lacking.items())}.")
    failed, broken = Counter(r.method for r in rows if r.error is not None), Counter(r.method for r in rows if r.error is None and not r.holds)
    if failed:
        found.append(f"Runs that failed count as no gain: {_listed(failed)}.")
    if broken:
        found.append(f"Runs whose plan does not hold its floor count as no gain: {_listed(broken)}.")
    budgets: dict[Case, set[tuple[tuple[str, float | None], ...]]] = defaultdict(set)
    for row in rows:
        if row.method in scores.methods:
            budgets[row.case].add(tuple(sorted(row.budget.items())))
    uneven = sum(len(b) > 1 for b in budgets.values())
    if uneven:
        found.append(f"Budgets are not equal: in {uneven} of {n_cases} cases methods were allowed different ones.")
    for what, values in (("commits", {r.commit for r in rows}), ("sets of package versions", {tuple(sorted(r.versions.items())) for r in rows})):
        if len(values) > 1:
            found.append(f"The runs are of {len(values)} {what}.")
    if len({r.losses for r in rows}) > 1:
        found.append("Cases with drawn and with recorded losses are pooled.")
    beyond = int((np.nan_to_num(scores.share[:, scores.is_proven]) > 1 + 1e-6).any(axis=0).sum())
    if beyond:
        found.append(f"In {beyond} cases a method is above what {EXACT!r} calls proven: one of them is wrong.")
    return found


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{method} ({n})" for method, n in sorted(counts.items()))
