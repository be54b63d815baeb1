"""Writes down each candidate of a search while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.utils.tensorboard import SummaryWriter

from cprune_rl.core.search_result import TABLE_PREFIX, SearchStep
from cprune_rl.envs.problem import Problem
from cprune_rl.pipeline.progress import Advance, ProgressLog

__all__ = ["SearchLogger"]

_TAGS = {
    "latency_ms": "latency/estimate_ms",
    "accuracy": "prune/accuracy",
    "accepted": "prune/accepted",
    "fresh_trials": "cache/fresh_trials",
    "predicted_share": "latency/predicted_share",
}
"""TensorBoard's names of what `metrics.csv` calls by the keys."""


class SearchLogger:
    """Prints a line for each candidate, and writes its figures to two files.

    Args:
        problem: that is searched.
        label: of the search.
        progress: prints the lines.
        log_metrics: adds rows to `metrics.csv`: `(phase, step, **values)`.
        writer: of TensorBoard events.
        advance: takes the share of the slack that the candidate uses, in percent.
    """

    def __init__(
        self,
        problem: Problem,
        label: str,
        *,
        progress: ProgressLog,
        log_metrics: Callable[..., None],
        writer: SummaryWriter,
        advance: Advance,
    ) -> None:
        self._problem = problem
        self._label = label
        self._progress = progress
        self._log_metrics = log_metrics
        self._writer = writer
        self._advance = advance
        self._n_candidates = 0

    def __call__(self, step: SearchStep) -> None:
        """Write a candidate down."""
        self._n_candidates += 1
        self._progress.print(self._line(step))
        reasons = step.why.split("; ")
        if len(reasons) > 1:  # the steps of a walk through a model
            for reason in reasons:
                self._progress.print(f"            {reason}")
        if step.accuracy is not None:
            self._advance(self._used_slack(step.accuracy))
        values = self._values(step)
        self._log_metrics(self._label, self._n_candidates, **values)
        for name, value in values.items():
            if math.isfinite(value):
                tag = f"{_TAGS[name]}/{self._label}"
                self._writer.add_scalar(tag, value, self._n_candidates)

    def _line(self, step: SearchStep) -> str:
        words = [f"    {self._n_candidates:3} {step.what:28} {step.latency_s * 1e3:8.3f} ms"]
        if step.accuracy is None:
            words.append("accuracy       -")
        else:
            to_floor = 100 * (step.accuracy - self._problem.floor)
            words.append(f"accuracy {step.accuracy:7.4f} ({to_floor:+.2f} to the floor)")
        words.append(self._verdict(step) + self._details(step))
        return "  ".join(words)

    def _verdict(self, step: SearchStep) -> str:
        if step.n_looks:
            return "passed the gate" if step.accepted else "refused by the gate"
        if step.accepted:
            return "kept"
        if step.what.startswith(TABLE_PREFIX):
            return ""
        if step.accuracy is None:
            return "too slow"
        return "below the floor" if step.accuracy < self._problem.floor else "refused"

    def _details(self, step: SearchStep) -> str:
        details = ""
        # A fallback plan is meant to be slower: nothing is expected of it.
        if step.gain is not None and step.expected_gain is not None and step.expected_gain > 0:
            gain = math.expm1(step.gain)
            details += f", faster by {gain:.1%} of {math.expm1(step.expected_gain):.1%} expected"
        if step.predicted_share:
            details += f", {step.predicted_share:.0%} of it predicted"
        if step.why and "; " not in step.why:
            details += f" ({step.why})"
        return details

    def _used_slack(self, accuracy: float) -> int:
        """Percent of the accuracy that may be lost, which this candidate loses."""
        dense = self._problem.dense_accuracy
        share = (dense - accuracy) / max(dense - self._problem.floor, 1e-9)
        return round(100 * min(max(share, 0.0), 1.0))

    def _values(self, step: SearchStep) -> dict[str, float]:
        values = {
            "latency_ms": step.latency_s * 1e3,
            "accepted": float(step.accepted),
            "fresh_trials": float(self._problem.latency.spending.fresh_trials),
            "predicted_share": step.predicted_share,
        }
        if step.accuracy is not None:
            values["accuracy"] = step.accuracy
        return values
