"""Judges the accuracy of plans inside a search: a cheap evaluation, calibrated, and cached.

All evaluations prune physically and judge on the search images. `recalibrate` recomputes batch-norm
statistics alone. `finetune` trains a few steps. `supernet` takes the weights of a network that was
trained to be pruned. Each is biased but ranks plans. A monotone map corrects the bias: it is fitted
on plans that were fine-tuned in full. Several plans are evaluated together where that is faster,
one on each core.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

from torch import nn

from cprune_rl.accuracy.calibration import Calibrations
from cprune_rl.accuracy.trainer import Trainer, accuracy_on
from cprune_rl.accuracy.training import TrainSettings, single_threaded_pool
from cprune_rl.core.network import Plan
from cprune_rl.core.protocols import Accuracy, Spending
from cprune_rl.cost_cache import CostStore

__all__ = ["Evaluation", "FinetuneEvaluation", "PlanOracle", "RecalibrationEvaluation"]

Pruner = Callable[[Plan], nn.Module]
OnPlan = Callable[[int], None]
OnStep = Callable[[int, float], None]
GradualPruning = Callable[[nn.Module, Plan, int], OnStep | None]


class Evaluation(Protocol):
    """Evaluates plans in one way; deterministic."""

    @property
    def name(self) -> str:
        """As `--oracle` calls it."""

    @property
    def identity(self) -> str:
        """The name with its settings and starting weights: part of the key of a cached answer."""

    def __call__(self, plan: Plan) -> float:
        """Gives the accuracy on the search images, in [0, 1]."""

    def evaluate_many(self, plans: Sequence[Plan]) -> Iterator[float]:
        """Gives the same for several plans, in order, each as soon as it is there."""


@dataclass(frozen=True, kw_only=True)
class RecalibrationEvaluation:
    """Prunes and recomputes batch-norm statistics.

    With a supernet's weights this is how the supernet evaluates. With the dense network's it is the
    cheapest evaluation there is.

    Attributes:
        pruner: plan -> smaller network.
        weights: hash of the weights that it prunes, and of the ranking of channels.
        trainer: judges.
        name: as `--oracle` calls it.
    """

    pruner: Pruner
    weights: str
    trainer: Trainer
    name: str = "recalibrate"

    @property
    def identity(self) -> str:
        return f"recalibrate:{self.weights}"

    def __call__(self, plan: Plan) -> float:
        model = self.pruner(plan)
        self.trainer.recalibrate(model)
        return accuracy_on(self.trainer, model, "search")

    def evaluate_many(self, plans: Sequence[Plan]) -> Iterator[float]:
        """Evaluates one plan on each core of a CPU."""
        if not self.trainer.judges_together or len(plans) < 2:
            yield from map(self, plans)
            return
        with single_threaded_pool() as pool:
            yield from pool.map(self, plans)


@dataclass(frozen=True, kw_only=True)
class FinetuneEvaluation:
    """Prunes, recalibrates and trains for a while, on the same batches for every plan.

    Attributes:
        pruner: plan -> smaller network with the dense network's weights.
        weights: hash of the weights that it prunes, and of the ranking of channels.
        trainer: trains and judges.
        settings: of the training.
        teacher: the dense network, where `settings.distillation` asks for one.
        gradual_pruning: makes what lowers the density of a plan's layers during the training, given
            the network, the plan and the number of steps. None: the layers have their density from
            the first step on.
        gradual_pruning_name: names it in the key of a cached answer.
    """

    pruner: Pruner
    weights: str
    trainer: Trainer
    settings: TrainSettings
    teacher: nn.Module | None = None
    gradual_pruning: GradualPruning | None = None
    gradual_pruning_name: str = ""

    @property
    def name(self) -> str:
        return f"finetune:{self.settings.n_steps}"

    @property
    def identity(self) -> str:
        parts = ["finetune", self.weights, json.dumps(asdict(self.settings))]
        if self.gradual_pruning is not None:
            parts.append(self.gradual_pruning_name)
        return ":".join(parts)

    def __call__(self, plan: Plan) -> float:
        model = self.pruner(plan)
        on_step = None
        if self.gradual_pruning is not None:
            on_step = self.gradual_pruning(model, plan, self.settings.n_steps)
        self.trainer.recalibrate(model)
        self.trainer.train(model, self.settings, on_step, self.teacher)
        return accuracy_on(self.trainer, model, "search")

    def evaluate_many(self, plans: Sequence[Plan]) -> Iterator[float]:
        """Evaluates one plan after another.

        A training on fewer cores would add up in another order, and end elsewhere.
        """
        yield from map(self, plans)


@dataclass(kw_only=True, eq=False)
class PlanOracle:
    """Calibrates, counts and caches the answers of an evaluation (an `AccuracyOracle`).

    Attributes:
        evaluation: of plans.
        trainer: whose images plans are judged on.
        store: keeps every answer.
        dense_accuracy: of the dense network on the search images. Losses after the full fine-tune
            are counted from it.
        reference: what the evaluation gives for the dense network, from which its own losses are
            counted; a supernet is some points below `dense_accuracy`. None where they are the same.
        calibrations: map its losses to those after the full fine-tune; the default changes nothing.
        since: answers that the store got after this moment count as fresh; seconds since the epoch.
        note: what speaks for believing it; empty where nothing was checked.
        spending: running totals.
    """

    evaluation: Evaluation
    trainer: Trainer
    store: CostStore
    dense_accuracy: float
    reference: float | None = None
    calibrations: Calibrations = field(default_factory=Calibrations)
    since: float = math.inf
    note: str = ""
    spending: Spending = field(default_factory=Spending, init=False)
    _answers: dict[tuple[str, Plan], float] = field(default_factory=dict, init=False, repr=False)

    @property
    def name(self) -> str:
        """As `--oracle` calls it."""
        return self.evaluation.name

    def with_calibrations(self, calibrations: Calibrations) -> PlanOracle:
        """The same oracle, calibrated, with counters of its own."""
        return replace(self, calibrations=calibrations)

    def counted_from(self, dense_accuracy: float) -> PlanOracle:
        """The same oracle, whose full losses are counted from another dense network's accuracy.

        What the evaluation itself loses is counted as before: from the network that it begins with.
        """
        return replace(self, dense_accuracy=dense_accuracy, reference=self._base)

    def accuracy(self, plan: Plan) -> Accuracy:
        """The calibrated accuracy of a plan."""
        return self.accuracies([plan])[0]

    def accuracies(self, plans: Sequence[Plan]) -> list[Accuracy]:
        """The calibrated accuracies of plans, evaluated together."""
        before = self.spending.train_s
        values = self.evaluate_all(plans)
        cost_s = (self.spending.train_s - before) / max(len(plans), 1)
        n_images = self.trainer.n_images["search"]
        answers = []
        for plan, value in zip(plans, values, strict=True):
            sampling_error = math.sqrt(max(value * (1 - value), 0.0) / n_images)
            loss, error = self.calibrations.full_loss(plan, self._loss(value), sampling_error)
            answers.append(
                Accuracy(
                    # a fine-tune may gain, and nothing is right more often than always
                    value=min(self.dense_accuracy - loss, 1.0),
                    standard_error=error,
                    n_images=n_images,
                    cost_s=cost_s,
                )
            )
        return answers

    def losses(self, plans: Sequence[Plan], on_plan: OnPlan | None = None) -> list[float]:
        """The loss that the evaluation finds for each plan, uncalibrated, in accuracy."""
        return [self._loss(value) for value in self.evaluate_all(plans, on_plan=on_plan)]

    def evaluate_all(
        self,
        plans: Sequence[Plan],
        evaluation: Evaluation | None = None,
        on_plan: OnPlan | None = None,
    ) -> list[float]:
        """The uncalibrated accuracy of each plan; from the store where it has it.

        Args:
            plans: evaluated together where that is faster.
            evaluation: by which; None for the oracle's own.
            on_plan: called with the number of plans done after each that had to be evaluated.
        """
        evaluation = evaluation or self.evaluation
        identity = evaluation.identity
        missing = [plan for plan in dict.fromkeys(plans) if not self._recall(identity, plan)]
        n_done = len(plans) - len(missing)
        started = time.perf_counter()
        for plan, value in zip(missing, evaluation.evaluate_many(missing), strict=True):
            cost_s = time.perf_counter() - started
            self._spend(cost_s)
            accuracy = Accuracy(
                value=value, n_images=self.trainer.n_images["search"], cost_s=cost_s
            )
            self.store.put_accuracy(self._key(identity, plan), accuracy)
            self._answers[identity, plan] = value
            n_done += 1
            started = time.perf_counter()
            if on_plan is not None:
                on_plan(n_done)
        return [self._answers[identity, plan] for plan in plans]

    @property
    def _base(self) -> float:
        return self.dense_accuracy if self.reference is None else self.reference

    def _loss(self, value: float) -> float:
        return self._base - value

    def _recall(self, identity: str, plan: Plan) -> bool:
        """Takes an answer from the store, where it is not at hand; whether there is one."""
        if (identity, plan) in self._answers:
            return True
        stored = self.store.accuracy(self._key(identity, plan))
        if stored is None:
            return False
        answer, created = stored
        if created >= self.since:
            self._spend(answer.cost_s)
        self._answers[identity, plan] = answer.value
        return True

    def _key(self, identity: str, plan: Plan) -> str:
        parts = [identity, plan.widths, plan.schemes, self.trainer.fingerprint]
        device = self.trainer.device_type
        if device != "cpu":  # another processor rounds otherwise
            parts.append(device)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _spend(self, cost_s: float) -> None:
        self.spending.accuracy_evaluations += 1
        self.spending.train_s += cost_s
