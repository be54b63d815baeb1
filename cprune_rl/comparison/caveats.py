"""What a reader must know before believing a comparison, found in its records."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from cprune_rl.comparison.records import Case, RunRecord
from cprune_rl.comparison.statistics import EXACT, Scores

__all__ = ["find_caveats"]

_FEW_PROBLEMS = 8  # below it a bootstrap over them is known to be too narrow


def find_caveats(records: Sequence[RunRecord], scores: Scores) -> list[str]:
    """Write a sentence on each oddity, none where nothing is odd.

    Args:
        records: all of them.
        scores: of those records.
    """
    return [
        *_few_problems(scores),
        *_lacking_cases(scores),
        *_lost_runs(records),
        *_uneven_budgets(records, scores),
        *_mixed_sources(records),
        *_passed_proofs(records, scores),
        *_final_gate(records),
    ]


def _final_gate(records: Sequence[RunRecord]) -> Iterator[str]:
    numbers = sorted({record.gate_images for record in records if record.gate_images is not None})
    if any(record.gate_images is None for record in records):
        yield (
            "The truth decides whether a plan holds: the final gate's own margin, which a live run "
            "asks for on so many images, is left out."
        )
    for number in numbers:
        of_gate = [record for record in records if record.gate_images == number]
        n_below = sum(not record.holds for record in of_gate)
        yield (
            f"A final gate of {number:,} drawn images decides. {n_below} of {len(of_gate)} kept "
            "plans passed it and are below the floor in truth: they count as the dense network."
        )


def _few_problems(scores: Scores) -> Iterator[str]:
    n_problems = int(scores.problem.max()) + 1
    n_networks = len({case.problem.partition("@")[0] for case in scores.cases})
    if n_networks < min(n_problems, _FEW_PROBLEMS):
        yield (
            f"The {n_problems} problems are of {n_networks} networks: they are not independent, "
            "and intervals over them are too narrow."
        )
    if n_problems < _FEW_PROBLEMS:
        number = "is one problem" if n_problems == 1 else f"are {n_problems} problems"
        yield (f"There {number} only: intervals over problems are too narrow, or none at all.")


def _lacking_cases(scores: Scores) -> Iterator[str]:
    n_cases = len(scores.cases)
    n_known = np.isfinite(scores.log_gain).sum(axis=1)
    lacking = [
        f"{method} ({n} of {n_cases})"
        for method, n in zip(scores.methods, n_known, strict=True)
        if n < n_cases
    ]
    if lacking:
        yield f"Shown but not ranked, because they lack cases: {', '.join(lacking)}."


def _lost_runs(records: Sequence[RunRecord]) -> Iterator[str]:
    failed = Counter(r.method for r in records if r.error is not None)
    broken = Counter(r.method for r in records if r.error is None and not r.holds)
    if failed:
        yield f"Runs that failed count as no gain: {_listed(failed)}."
    if broken:
        yield f"Runs whose plan does not hold its floor count as no gain: {_listed(broken)}."


def _uneven_budgets(records: Sequence[RunRecord], scores: Scores) -> Iterator[str]:
    budgets: dict[Case, set[tuple[tuple[str, float | None], ...]]] = defaultdict(set)
    for record in records:
        if record.method in scores.methods:
            budgets[record.case].add(tuple(sorted(record.budget.items())))
    n_uneven = sum(len(allowed) > 1 for allowed in budgets.values())
    if n_uneven:
        yield (
            f"Budgets are not equal: in {n_uneven} of {len(scores.cases)} cases methods were "
            "allowed different ones."
        )


def _mixed_sources(records: Sequence[RunRecord]) -> Iterator[str]:
    n_commits = len({r.commit for r in records})
    if n_commits > 1:
        yield f"The runs are of {n_commits} commits."
    n_versions = len({tuple(sorted(r.versions.items())) for r in records})
    if n_versions > 1:
        yield f"The runs are of {n_versions} sets of package versions."
    if len({r.losses for r in records}) > 1:
        yield "Cases with drawn and with recorded losses are pooled."


def _passed_proofs(records: Sequence[RunRecord], scores: Scores) -> Iterator[str]:
    is_proven = dict(zip(scores.cases, scores.is_proven, strict=True))
    proofs = [r for r in records if r.method == EXACT and r.ended == "itself"]
    n_passed = sum(not is_proven[proof.case] for proof in proofs)
    if n_passed:
        yield (
            f"In {n_passed} cases a method was faster than {EXACT!r}. That one is proven for the "
            "widths alone that the dense network's schedules make legal: methods that step by "
            "other schedules choose among others."
        )


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{method} ({n})" for method, n in sorted(counts.items()))
