"""Accuracy of plans inside a search:

one of three cheap evaluations, calibrated against full fine-tunes, and kept.

All three prune physically and judge on the search images: `recalibrate` recomputes batch-norm
statistics alone,
`finetune` trains a few steps, `supernet` takes the weights of a network that was trained to be
pruned. Each is biased
and ranks plans: a monotone map fitted on plans that were fine-tuned in full mends the bias. Several
plans are looked at
together where that is faster: one on each core. Called by searches through
`protocols.AccuracyOracle`.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from torch import nn

from cprune_rl.accuracy.calibration import Calibrations
from cprune_rl.accuracy.data import ImageData
from cprune_rl.accuracy.training import (
    TrainSettings,
    evaluate,
    recalibrate,
    single_threaded_pool,
    train,
)
from cprune_rl.core.network import Plan
from cprune_rl.core.protocols import Accuracy, Spending
from cprune_rl.cost_cache import CostStore

__all__ = ["Evaluation", "FinetuneEvaluation", "PlanOracle", "RecalibrationEvaluation"]

Pruner = Callable[[Plan], nn.Module]
OnPlan = Callable[[int], None]
OnStep = Callable[[int, float], None]
GradualPruning = Callable[[nn.Module, Plan, int], "OnStep | None"]


class Evaluation(Protocol):
    """One way of looking at a plan; deterministic."""

    @property
    def name(self) -> str:
        """As `--oracle` calls it."""

    @property
    def identity(self) -> str:
        """Names it with its settings and the weights that it starts from:

        part of the key under which answers are kept.
        """

    def __call__(self, plan: Plan) -> float:
        """Accuracy on the search images, in [0, 1]."""

    def many(self, plans: Sequence[Plan]) -> Iterator[float]:
        """The same for several plans, in order, each as soon as it is there."""


@dataclass(frozen=True)
class RecalibrationEvaluation:
    """Prunes and recomputes batch-norm statistics:

    with a supernet's weights, its evaluation; with the dense network's, the cheapest look there is.

    Attributes:
        pruner: plan -> smaller network.
        weights: names the weights it prunes, and the ranking of channels.
        data: images.
        name: see `Evaluation`.
    """

    pruner: Pruner
    weights: str
    data: ImageData
    name: str = "recalibrate"

    @property
    def identity(self) -> str:
        """See `Evaluation`."""
        return f"recalibrate:{self.weights}"

    def __call__(self, plan: Plan) -> float:
        """See `Evaluation`."""
        model = self.pruner(plan)
        recalibrate(model, self.data.train)
        return evaluate(model, self.data.search)

    def many(self, plans: Sequence[Plan]) -> Iterator[float]:
        """See `Evaluation`; on a CPU one plan on each core."""
        if self.data.search.device.type != "cpu" or len(plans) < 2:
            yield from map(self, plans)
            return
        with single_threaded_pool() as pool:
            yield from pool.map(self, plans)


@dataclass(frozen=True)
class FinetuneEvaluation:
    """Prunes, recalibrates and trains for a while, on the same batches for every plan.

    Attributes:
        pruner: plan -> smaller network with the dense network's weights.
        weights: names the weights it prunes, and the ranking of channels.
        data: images.
        settings: of the training.
        teacher: the dense network, where `settings.distillation` asks for one.
        gradual_pruning: what lowers the density of a plan's layers step by step while it is trained,
            given the network, the plan and
            the number of steps; None: they have it from the first step on.
        gradual_pruning_name: names how, for what is kept of the answers.
    """

    pruner: Pruner
    weights: str
    data: ImageData
    settings: TrainSettings
    teacher: nn.Module | None = None
    gradual_pruning: GradualPruning | None = None
    gradual_pruning_name: str = ""

    @property
    def name(self) -> str:
        """See `Evaluation`."""
        return f"finetune:{self.settings.n_steps}"

    @property
    def identity(self) -> str:
        """See `Evaluation`."""
        return f"finetune:{self.weights}:{json.dumps(asdict(self.settings))}{f':{self.gradual_pruning_name}' if self.gradual_pruning else ''}"

    def __call__(self, plan: Plan) -> float:
        """See `Evaluation`."""
        model = self.pruner(plan)
        on_step = (
            self.gradual_pruning(model, plan, self.settings.n_steps)
            if self.gradual_pruning
            else None
        )
        recalibrate(model, self.data.train)
        train(model, self.data, self.settings, on_step, self.teacher)
        return evaluate(model, self.data.search)

    def many(self, plans: Sequence[Plan]) -> Iterator[float]:
        """See `Evaluation`; one after another:

        a training that has fewer cores adds up in another order, and ends elsewhere.
        """
        yield from map(self, plans)


class PlanOracle:
    """An evaluation whose answers are calibrated, counted, and kept in the cost cache (see
    `protocols.AccuracyOracle`).

    Args:
        evaluation: how a plan is looked at.
        data: images.
        store: keeps every answer.
        dense_accuracy: of the dense network on the search images.
        reference: what the evaluation gives for the dense network, from which losses are counted;
            the dense
            accuracy where not given. A supernet is some points below.
        calibrations: map its losses to those after the full fine-tune; the default changes nothing.
        since: answers that the store got after this moment are counted as fresh (see
            `compiler.tuner.Tuner`).

    Attributes:
        note: what speaks for believing it; empty where nothing was asked.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        data: ImageData,
        store: CostStore,
        dense_accuracy: float,
        reference: float | None = None,
        calibrations: Calibrations | None = None,
        since: float = math.inf,
    ) -> None:
        self._evaluation, self._data, self._store, self._since = evaluation, data, store, since
        self._dense_accuracy = dense_accuracy
        self._answers: dict[tuple[str, Plan], float] = {}
        self.reference = dense_accuracy if reference is None else reference
        self.calibrations = calibrations or Calibrations()
        self.spending = Spending()
        self.note = ""

    @property
    def name(self) -> str:
        """As `--oracle` calls it."""
        return self._evaluation.name

    def view(self, calibrations: Calibrations) -> PlanOracle:
        """The same oracle, calibrated, with counters of its own."""
        return PlanOracle(
            self._evaluation,
            self._data,
            self._store,
            self._dense_accuracy,
            self.reference,
            calibrations,
            self._since,
        )

    def accuracy(self, plan: Plan) -> Accuracy:
        """The calibrated accuracy of a plan (see `protocols.AccuracyOracle`)."""
        return self.accuracies([plan])[0]

    def accuracies(self, plans: Sequence[Plan]) -> list[Accuracy]:
        """The calibrated accuracies of plans that are looked at together (see
        `protocols.AccuracyOracle`).
        """
        before = self.spending.train_s
        values = self.evaluate_all(plans)
        cost_s = (self.spending.train_s - before) / max(len(plans), 1)
        n = len(self._data.search)
        answers = []
        for plan, raw in zip(plans, values, strict=True):
            lost, unknown = self.calibrations.full_loss(plan, self.reference - raw)
            sampling = math.sqrt(max(raw * (1 - raw), 0.0) / n)
            answers.append(
                Accuracy(
                    value=self._dense_accuracy - lost,
                    standard_error=math.hypot(sampling, unknown),
                    n_images=n,
                    cost_s=cost_s,
                )
            )
        return answers

    def loss(self, plan: Plan) -> float:
        """What the evaluation sees lost by one plan (see `losses`)."""
        return self.losses([plan])[0]

    def losses(self, plans: Sequence[Plan], on_plan: OnPlan | None = None) -> list[float]:
        """What the evaluation sees lost by each plan, uncalibrated, in accuracy."""
        return [self.reference - value for value in self.evaluate_all(plans, on_plan=on_plan)]

    def evaluate(self, plan: Plan, evaluation: Evaluation | None = None) -> float:
        """Accuracy of one plan (see `evaluate_all`)."""
        return self.evaluate_all([plan], evaluation)[0]

    def evaluate_all(
        self,
        plans: Sequence[Plan],
        evaluation: Evaluation | None = None,
        on_plan: OnPlan | None = None,
    ) -> list[float]:
        """Accuracy on the search images of each plan; from the store where it has it.

        Args:
            plans: looked at together where that is faster.
            evaluation: by which; the oracle's own where none is given.
            on_plan: called with the number of plans done after each that had to be evaluated.
        """
        evaluation = evaluation or self._evaluation
        known = {
            plan: value for plan in plans if (value := self._known(plan, evaluation)) is not None
        }
        missing = [plan for plan in dict.fromkeys(plans) if plan not in known]
        started = time.perf_counter()
        for done, (plan, value) in enumerate(
            zip(missing, evaluation.many(missing), strict=True), start=len(plans) - len(missing) + 1
        ):
            now = time.perf_counter()
            self._spend(now - started)
            self._store.put_accuracy(
                self._key(plan, evaluation),
                Accuracy(
                    value=value,
                    standard_error=0.0,
                    n_images=len(self._data.search),
                    cost_s=now - started,
                ),
            )
            self._answers[evaluation.identity, plan] = known[plan] = value
            started = time.perf_counter()
            if on_plan is not None:
                on_plan(done)
        return [known[plan] for plan in plans]

    def _known(self, plan: Plan, evaluation: Evaluation) -> float | None:
        where = evaluation.identity, plan
        if (
            where not in self._answers
            and (kept := self._store.accuracy(self._key(plan, evaluation))) is not None
        ):
            answer, created = kept
            if created >= self._since:
                self._spend(answer.cost_s)
            self._answers[where] = answer.value
        return self._answers.get(where)

    def _key(self, plan: Plan, evaluation: Evaluation) -> str:
        where = (
            [] if self._data.search.device.type == "cpu" else [self._data.search.device.type]
        )  # another processor rounds otherwise
        text = json.dumps(
            [evaluation.identity, plan.widths, plan.schemes, self._data.fingerprint, *where]
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def _spend(self, cost_s: float) -> None:
        self.spending.accuracy_evaluations += 1
        self.spending.train_s += cost_s
