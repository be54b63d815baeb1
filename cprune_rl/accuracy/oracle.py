"""Accuracy of plans inside a search: one of three cheap evaluations, calibrated against full fine-tunes, and kept.

All three prune physically and judge on the search images: `recalibrate` recomputes batch-norm statistics alone,
`finetune` trains a few steps, `supernet` takes the weights of a network that was trained to be pruned. Each is biased
and ranks plans: a monotone map fitted on plans that were fine-tuned in full mends the bias. Called by searches
through `contracts.AccuracyOracle`.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol

from torch import nn

from cprune_rl.accuracy.calibration import Calibration
from cprune_rl.accuracy.data import ImageData
from cprune_rl.accuracy.training import TrainSettings, evaluate, recalibrate, train
from cprune_rl.contracts import Accuracy, Spending
from cprune_rl.cost_cache import CostStore
from cprune_rl.table import Plan

__all__ = ["Evaluation", "Finetuned", "PlanOracle", "Recalibrated"]

Pruner = Callable[[Plan], nn.Module]


class Evaluation(Protocol):
    """One way of looking at a plan; deterministic."""

    @property
    def identity(self) -> str:
        """Names it with its settings and the weights that it starts from: part of the key under which answers are kept."""

    def __call__(self, plan: Plan) -> float:
        """Accuracy on the search images, in [0, 1]."""


@dataclass(frozen=True)
class Recalibrated:
    """Prunes and recomputes batch-norm statistics: with a supernet's weights, its evaluation; with the dense network's, the cheapest look there is.

    Attributes:
        pruner: plan -> smaller network.
        weights: names the weights it prunes, and the ranking of channels.
        data: images.
    """

    pruner: Pruner
    weights: str
    data: ImageData

    @property
    def identity(self) -> str:
        """See `Evaluation`."""
        return f"recalibrate:{self.weights}"

    def __call__(self, plan: Plan) -> float:
        """See `Evaluation`."""
        model = self.pruner(plan)
        recalibrate(model, self.data.train)
        return evaluate(model, self.data.search)


@dataclass(frozen=True)
class Finetuned:
    """Prunes, recalibrates and trains for a while, on the same batches for every plan.

    Attributes:
        pruner: plan -> smaller network with the dense network's weights.
        weights: names the weights it prunes, and the ranking of channels.
        data: images.
        settings: of the training.
        teacher: the dense network, where `settings.distillation` asks for one.
    """

    pruner: Pruner
    weights: str
    data: ImageData
    settings: TrainSettings
    teacher: nn.Module | None = None

    @property
    def identity(self) -> str:
        """See `Evaluation`."""
        return f"finetune:{self.weights}:{json.dumps(asdict(self.settings))}"

    def __call__(self, plan: Plan) -> float:
        """See `Evaluation`."""
        model = self.pruner(plan)
        recalibrate(model, self.data.train)
        train(model, self.data, self.settings, teacher=self.teacher)
        return evaluate(model, self.data.search)


class PlanOracle:
    """An evaluation whose answers are calibrated, counted, and kept in the cost cache (see `contracts.AccuracyOracle`).

    Args:
        evaluation: how a plan is looked at.
        data: images.
        store: keeps every answer.
        dense_accuracy: of the dense network on the search images.
        reference: what the evaluation gives for the dense network, from which losses are counted; the dense
            accuracy where not given. A supernet is some points below.
        calibration: maps its losses to those after the full fine-tune; the default changes nothing.
        since: answers that the store got after this moment are counted as fresh (see `compiler.tuner.Tuner`).
    """

    def __init__(
        self,
        evaluation: Evaluation,
        data: ImageData,
        store: CostStore,
        dense_accuracy: float,
        reference: float | None = None,
        calibration: Calibration | None = None,
        since: float = math.inf,
    ) -> None:
        self._evaluation, self._data, self._store, self._since = evaluation, data, store, since
        self._dense_accuracy = dense_accuracy
        self._answers: dict[tuple[str, Plan], float] = {}
        self.reference = dense_accuracy if reference is None else reference
        self.calibration = calibration or Calibration()
        self.spending = Spending()

    def view(self, calibration: Calibration) -> PlanOracle:
        """The same oracle, calibrated, with counters of its own."""
        return PlanOracle(self._evaluation, self._data, self._store, self._dense_accuracy, self.reference, calibration, self._since)

    def accuracy(self, plan: Plan) -> Accuracy:
        """The calibrated accuracy of a plan (see `contracts.AccuracyOracle`)."""
        before = self.spending.train_s
        loss = self.loss(plan)
        value = self._dense_accuracy - self.calibration(loss)
        n = len(self._data.search)
        raw = self.reference - loss
        sampling = math.sqrt(max(raw * (1 - raw), 0.0) / n)
        return Accuracy(value, math.hypot(sampling, self.calibration.residual), n, self.spending.train_s - before)

    def loss(self, plan: Plan) -> float:
        """What the evaluation sees lost, uncalibrated, in accuracy."""
        return self.reference - self.evaluate(plan)

    def evaluate(self, plan: Plan, evaluation: Evaluation | None = None) -> float:
        """Accuracy on the search images by an evaluation, the oracle's own where none is given; from the store where it has it."""
        evaluation = evaluation or self._evaluation
        known = (evaluation.identity, plan)
        if known not in self._answers:
            self._answers[known] = self._kept(plan, evaluation)
        return self._answers[known]

    def _kept(self, plan: Plan, evaluation: Evaluation) -> float:
        where = [] if self._data.search.device.type == "cpu" else [self._data.search.device.type]  # another processor rounds otherwise
        text = json.dumps([evaluation.identity, plan.widths, plan.schemes, self._data.fingerprint, *where])
        key = hashlib.sha256(text.encode()).hexdigest()
        if (known := self._store.accuracy(key)) is not None:
            answer, created = known
            if created >= self._since:
                self._spend(answer.cost_s)
            return answer.value
        started = time.perf_counter()
        value = evaluation(plan)
        cost = time.perf_counter() - started
        self._spend(cost)
        self._store.put_accuracy(key, Accuracy(value, 0.0, len(self._data.search), cost))
        return value

    def _spend(self, cost_s: float) -> None:
        self.spending.accuracy_evaluations += 1
        self.spending.train_s += cost_s
