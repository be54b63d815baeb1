"""What a run says of a search while it searches:

a line for each candidate, and its figures in `metrics.csv` and TensorBoard.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from cprune_rl.core.search_result import TABLE_PREFIX, SearchStep
from cprune_rl.envs.problem import Problem
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.run_folder import RunFolder

__all__ = ["SearchLogger"]


class SearchLogger:
    """Told of each candidate.

    Args:
        problem: that is searched.
        folder: whose `metrics.csv` gets a line.
        progress: prints a line.
        writer: of TensorBoard events.
        method: name of the search.
        advance: told which share of the slack is used, in percent.
    """

    def __init__(
        self,
        problem: Problem,
        folder: RunFolder,
        progress: ProgressLog,
        writer: SummaryWriter,
        method: str,
        advance: Callable[[int], None],
    ) -> None:
        self._advance = advance
        self._problem, self._folder, self._progress, self._writer, self._method = (
            problem,
            folder,
            progress,
            writer,
            method,
        )
        self._n = 0

    def __call__(self, step: SearchStep) -> None:
        self._n += 1
        accuracy = "      -" if step.accuracy is None else f"{step.accuracy:7.4f}"
        slack = (
            ""
            if step.accuracy is None
            else f" ({100 * (step.accuracy - self._problem.floor):+.2f} to the floor)"
        )
        verdict = self._verdict(step)
        hope = ""
        if (
            step.gain is not None and step.expected_gain is not None and step.expected_gain > 0
        ):  # a fallback is meant to be slower
            hope = f", faster by {math.expm1(step.gain):.1%} of {math.expm1(step.expected_gain):.1%} expected"
        reasons = step.why.split("; ")
        why = f" ({step.why})" if step.why and len(reasons) == 1 else ""
        predicted = f", {step.predicted_share:.0%} of it predicted" if step.predicted_share else ""
        self._progress.print(
            f"    {self._n:3} {step.what:28} {step.latency_s * 1e3:8.3f} ms  accuracy {accuracy}{slack}  {verdict}{hope}{predicted}{why}"
        )
        for reason in reasons if len(reasons) > 1 else ():  # a walk through a model
            self._progress.print(f"            {reason}")
        spent = self._problem.latency.spending
        values: dict[str, float] = {
            "latency_ms": step.latency_s * 1e3,
            "accepted": float(step.accepted),
            "fresh_trials": float(spent.fresh_trials),
            "predicted_share": step.predicted_share,
        }
        if step.accuracy is not None:
            values["accuracy"] = step.accuracy
            whole = self._problem.dense_accuracy - self._problem.floor
            self._advance(
                round(
                    100
                    * min(
                        max((self._problem.dense_accuracy - step.accuracy) / max(whole, 1e-9), 0.0),
                        1.0,
                    )
                )
            )
        self._folder.log(self._method, self._n, **values)
        tags = {
            "latency_ms": "latency/estimate_ms",
            "accuracy": "prune/accuracy",
            "accepted": "prune/accepted",
            "fresh_trials": "cache/fresh_trials",
            "predicted_share": "latency/predicted_share",
        }
        for name, value in values.items():
            if np.isfinite(value):
                self._writer.add_scalar(f"{tags[name]}/{self._method}", value, self._n)

    def _verdict(self, step: SearchStep) -> str:
        if step.accepted or step.what.startswith(TABLE_PREFIX):
            return "kept" if step.accepted else ""
        return (
            "too slow"
            if step.accuracy is None
            else "below the floor"
            if step.accuracy < self._problem.floor
            else "refused"
        )
