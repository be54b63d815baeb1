"""Accuracy by fitted loss curves: the oracle of problems that have no images behind them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cprune_rl.contracts import Accuracy, LossCurves, Spending
from cprune_rl.table import Network, Plan

__all__ = ["CurveOracle"]


class CurveOracle:
    """An accuracy oracle that reads fitted loss curves (see `contracts.AccuracyOracle`).

    Each plan that it was not asked for before counts as an evaluation, as it would be one of a real oracle.

    Args:
        network: whose plans are judged.
        curves: loss of each group.
        dense_accuracy: of the dense network.
        standard_error: to state with each answer.
    """

    def __init__(self, network: Network, curves: LossCurves, dense_accuracy: float, standard_error: float = 0.0) -> None:
        self._dense = np.array(network.dense.widths, float)
        self._curves, self._accuracy, self._standard_error = curves, dense_accuracy, standard_error
        self.spending = Spending()
        self._asked: set[Plan] = set()

    def accuracy(self, plan: Plan) -> Accuracy:
        """Dense accuracy less the loss of every group."""
        if plan not in self._asked:
            self._asked.add(plan)
            self.spending.accuracy_evaluations += 1
        loss = float(self._curves.loss(np.array(plan.widths) / self._dense).sum())
        return Accuracy(max(0.0, self._accuracy - loss), self._standard_error)

    def accuracies(self, plans: Sequence[Plan]) -> list[Accuracy]:
        """Of each plan."""
        return [self.accuracy(plan) for plan in plans]
