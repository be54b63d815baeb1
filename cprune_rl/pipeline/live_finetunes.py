"""Full fine-tunes within a run's search: trained networks that the final gate judges."""

from __future__ import annotations

from cprune_rl.core.gate_model import GateModel
from cprune_rl.core.network import Plan
from cprune_rl.core.protocols import Accuracy, FullAnswer, Spending
from cprune_rl.pipeline.finalize import FinalGate
from cprune_rl.pipeline.progress import ProgressLog

__all__ = ["LiveFinetunes"]


class LiveFinetunes:
    """Fine-tunes plans of one search in full (a `FullFinetunes`).

    The trained networks are kept in the cache folder, so the run has the chosen one at once.

    Args:
        gate: judges, and says how it will.
        progress: told of each.
    """

    def __init__(self, gate: FinalGate, progress: ProgressLog) -> None:
        self._gate = gate
        self._progress = progress
        # The search shows how far it is; a second bar within it would not fit a terminal.
        self._silent = ProgressLog(listener=lambda _: None)
        self.spending = Spending()

    @property
    def gate(self) -> GateModel:
        """What is known of the gate before it is asked."""
        return self._gate.model

    def look(self, plan: Plan, n_looks: int) -> FullAnswer:
        """Fine-tune a plan's network, judge it on the gate images, and find its accuracy on others.

        Args:
            plan: not the dense one.
            n_looks: how often at most the search asks.
        """
        network, train_s = self._gate.train(plan, self._silent, "Fine-tuning a plan in full")
        value = float(self._gate.trainer.judge(network, "search").mean())
        verdict = self._gate.judge(network, n_looks)
        if train_s > 0:  # else the cache had it before the run
            self.spending.full_finetunes += 1
            self.spending.train_s += train_s
        self._progress.print(
            f"    fine-tuned in full: the gate's lower bound {verdict.lower_bound:.4f}, "
            f"the floor {verdict.floor:.4f}"
        )
        accuracy = Accuracy(
            value=value,
            standard_error=self._gate.search_error(value),
            n_images=self._gate.trainer.n_images["search"],
            cost_s=train_s,
        )
        return FullAnswer(accuracy=accuracy, holds=verdict.passed)
