"""What a reader must know before believing a comparison, found in its rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from cprune_rl.comparison.records import Case, RunRecord
from cprune_rl.comparison.scores import EXACT, Scores

__all__ = ["find_caveats"]

_FEW_PROBLEMS = 8  # below it a bootstrap over them is known to be too narrow


def find_caveats(rows: Sequence[RunRecord], scores: Scores) -> list[str]:
    """Sentences, none where nothing is odd.

    Args:
        rows: all of them.
        scores: what they come to.
    """
    found: list[str] = []
    proven = {
        case for case, is_proven in zip(scores.cases, scores.is_proven, strict=True) if is_proven
    }
    n_problems, n_cases = int(scores.problem.max()) + 1, len(scores.cases)
    networks = {c.problem.partition("@")[0] for c in scores.cases}
    if len(networks) < min(n_problems, _FEW_PROBLEMS):
        found.append(
            f"The {n_problems} problems are of {len(networks)} networks: they are not independent, and intervals over them are too narrow."
        )
    if n_problems < _FEW_PROBLEMS:
        found.append(
            f"There {'is one problem' if n_problems == 1 else f'are {n_problems} problems'} only: intervals over problems are too narrow, or none at all."
        )
    lacking = {
        m: int(np.isfinite(own).sum())
        for m, own in zip(scores.methods, scores.log_gain, strict=True)
        if np.isnan(own).any()
    }
    if lacking:
        found.append(
            f"Shown but not ranked, because they lack cases: {', '.join(f'{m} ({n} of {n_cases})' for m, n in lacking.items())}."
        )
    failed, broken = (
        Counter(r.method for r in rows if r.error is not None),
        Counter(r.method for r in rows if r.error is None and not r.holds),
    )
    if failed:
        found.append(f"Runs that failed count as no gain: {_listed(failed)}.")
    if broken:
        found.append(
            f"Runs whose plan does not hold its floor count as no gain: {_listed(broken)}."
        )
    budgets: dict[Case, set[tuple[tuple[str, float | None], ...]]] = defaultdict(set)
    for row in rows:
        if row.method in scores.methods:
            budgets[row.case].add(tuple(sorted(row.budget.items())))
    uneven = sum(len(b) > 1 for b in budgets.values())
    if uneven:
        found.append(
            f"Budgets are not equal: in {uneven} of {n_cases} cases methods were allowed different ones."
        )
    for what, values in (
        ("commits", {r.commit for r in rows}),
        ("sets of package versions", {tuple(sorted(r.versions.items())) for r in rows}),
    ):
        if len(values) > 1:
            found.append(f"The runs are of {len(values)} {what}.")
    if len({r.losses for r in rows}) > 1:
        found.append("Cases with drawn and with recorded losses are pooled.")
    passed = sum(r.case not in proven for r in rows if r.method == EXACT and r.ended == "itself")
    if passed:
        found.append(
            f"In {passed} cases a method was faster than {EXACT!r}, which is proven for the widths alone that the dense network's programs make legal: "
            "methods that step by other programs choose among others."
        )
    return found


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{method} ({n})" for method, n in sorted(counts.items()))
