"""Loads what a run prunes: images, a trained network, and the groups of its channels."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cprune_rl.accuracy.data import ImageData, load_data, load_inputs, loop_name
from cprune_rl.accuracy.labels import check_task, labelled_by_network, n_answers
from cprune_rl.accuracy.loop_trainer import LoopTrainer, TrainingLoop
from cprune_rl.accuracy.oracle import FinetuneEvaluation
from cprune_rl.accuracy.task import load_task
from cprune_rl.accuracy.trainer import ImageTrainer, Trainer, accuracy_on
from cprune_rl.accuracy.training import TrainSettings, train, train_device
from cprune_rl.core.network import Plan
from cprune_rl.core.scheme import Scheme
from cprune_rl.models.copies import copy_network
from cprune_rl.models.registry import build_model, check_output, has_own_weights
from cprune_rl.models.weights import load_weights, network_hash
from cprune_rl.models.wrappers import unwrap
from cprune_rl.pipeline.given import Given
from cprune_rl.pipeline.preflight.objective import Objective
from cprune_rl.pipeline.preflight.run import CheckSettings, require_sound_network
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.trained_cache import CachedTraining
from cprune_rl.pruning.groups import CoupledGroups, GroupSettings, find_groups
from cprune_rl.pruning.scheme_masks import apply_masks, increase_sparsity
from cprune_rl.pruning.surgery import prune

__all__ = [
    "GRADUAL_PRUNING",
    "LoadSettings",
    "TrainedModel",
    "gradual_pruning",
    "load_trained_model",
    "load_untrained_model",
]

_SPARSER_EVERY = 10  # steps of a full fine-tune
_FINAL_DENSITY_AT = 0.6  # share of the steps after which the scheme's density holds
GRADUAL_PRUNING = f"by steps of {_SPARSER_EVERY} to {_FINAL_DENSITY_AT}, cubic"
"""Names the schedule of the density, in the keys of the caches."""


def gradual_pruning(
    model: nn.Module, plan: Plan, n_steps: int
) -> Callable[[int, float], None] | None:
    """Unmask a network's layers, and give the hook that prunes them while it is trained.

    Args:
        model: of the plan, as `TrainedModel.pruned` gives it; changed in place.
        plan: whose schemes hold from 0.6 of the training on.
        n_steps: of the training.

    Returns:
        To be called with the number of steps done and the loss. None where the plan has no scheme.
    """
    schemes = {layer: Scheme.parse(text) for layer, text in plan.schemes}
    if not schemes:
        return None
    increase_sparsity(model, schemes, 0.0)
    n_pruning = _FINAL_DENSITY_AT * n_steps

    def on_step(step: int, _: float) -> None:
        is_due = step % _SPARSER_EVERY == 0 or step == n_steps
        if is_due and step < n_pruning + _SPARSER_EVERY:
            increase_sparsity(model, schemes, min(1.0, step / n_pruning))

    return on_step


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A trained dense network with its groups, and what trains and judges it.

    Attributes:
        name: of the network, as `build_model` takes it.
        trainer: of its pruned copies too.
        example: one blank image as a batch.
        coupled: groups of channels that go together.
    """

    name: str
    trainer: Trainer
    model: nn.Module
    example: torch.Tensor
    coupled: CoupledGroups

    @functools.cached_property
    def weights(self) -> str:
        """Hash of the weights and of the ranking of the channels."""
        identity = [network_hash(self.model), sorted(self.coupled.ranking.items())]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:20]

    @functools.cached_property
    def dense_accuracy(self) -> float:
        """Accuracy of the dense network on the search images."""
        return accuracy_on(self.trainer, self.model, "search")

    def pruned(self, plan: Plan) -> nn.Module:
        """Prune a copy of the dense network."""
        return self.pruned_of(self.model, plan)

    def pruned_of(self, model: nn.Module, plan: Plan) -> nn.Module:
        """Prune a copy of another network of the same shape.

        Masks keep the layers at their schemes while the copy is trained.

        Raises:
            PlanError: a layer cannot be pruned by its scheme.
        """
        narrow = prune(model, self.coupled, plan)
        if not plan.schemes:
            return narrow
        return apply_masks(narrow, {layer: Scheme.parse(text) for layer, text in plan.schemes})

    def finetuned(self, settings: TrainSettings, is_gradual: bool = False) -> FinetuneEvaluation:
        """Give the evaluation that fine-tunes plans of this network.

        Args:
            settings: of the training.
            is_gradual: whether schemes prune step by step, as in the full fine-tune. Otherwise they
                hold from the first step on.
        """
        return FinetuneEvaluation(
            pruner=self.pruned,
            weights=self.weights,
            trainer=self.trainer,
            settings=settings,
            teacher=self.model,
            gradual_pruning=gradual_pruning if is_gradual else None,
            gradual_pruning_name=GRADUAL_PRUNING if is_gradual else "",
        )


@dataclass(frozen=True, kw_only=True)
class LoadSettings:
    """Which network, which images, and what of the network may be pruned.

    Attributes:
        network: name, as `build_model` takes it.
        data: name, as `--data` takes it.
        weights: file of trained weights; None to train the network.
        training: of the network, where no weights are given.
        groups: what may be pruned, and in which order.
        train_device: torch's name.
        seed: of the starting weights.
        top: an image counts as right where its label is among so many most likely classes.
        labels: "given", or "teacher" for those of the network with its weights.
        task: name of a task of the user's; None where each image has a class.
        is_fast: whether fewer images are read.
        is_compiled: whether the run compiles the network; one on a recording does not.
    """

    network: str
    data: str
    weights: Path | None
    training: TrainSettings
    groups: GroupSettings
    train_device: str
    seed: int
    top: int
    labels: str
    task: str | None
    is_fast: bool
    is_compiled: bool = True


def load_trained_model(
    settings: LoadSettings, progress: ProgressLog, given: Given | None = None
) -> TrainedModel:
    """Read the images, train the network or read its weights, and find its groups.

    Where a user's functions train and judge, the network has its weights, and the functions are
    tried on it.

    Args:
        settings: what is loaded.
        given: objects in the place of names.

    Raises:
        CPruneError: an option, the images, the network or its weights are at fault.
    """
    module = None if given is None else given.model
    if given is not None and given.loop is not None:
        assert module is not None, "functions are given beside a module"
        return _load_with_loop(settings, module, given.loop, progress)
    data, model, example = _build(settings, progress, module)
    if settings.weights is not None:
        load_weights(model, settings.weights)
    if settings.weights is None and module is None and not has_own_weights(settings.network):
        _train(settings, data, model, example, progress)
    else:
        _require_sound(settings, data, model, progress)
    model.eval()
    if settings.labels == "teacher":
        with progress.track("Asking the dense network for labels", None):
            data = labelled_by_network(data, model)
        if settings.top > 1:
            data = data.with_top(settings.top)
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stub lacks this form
    return _with_groups(settings, ImageTrainer(data), model, example, progress)


def load_untrained_model(settings: LoadSettings, progress: ProgressLog) -> TrainedModel:
    """Give the network with its starting weights: latencies do not depend on them.

    Raises:
        CPruneError: an option, the images or the network are at fault.
    """
    data, model, example = _build(settings, progress)
    return _with_groups(settings, ImageTrainer(data), model, example, progress)


def _load_with_loop(
    settings: LoadSettings, module: nn.Module, loop: TrainingLoop, progress: ProgressLog
) -> TrainedModel:
    """Copy a caller's network, and try the functions on it that will judge it."""
    images = load_inputs(settings.data)
    model = _copied(module).eval()
    with progress.track("Asking your functions about the dense network", None):
        trainer = LoopTrainer(
            loop, images, name=settings.data, loop_name=loop_name(settings.data), model=model
        )
    example = torch.zeros(trainer.input_shape)
    return _with_groups(settings, trainer, model, example, progress)


def _build(
    settings: LoadSettings, progress: ProgressLog, given: nn.Module | None = None
) -> tuple[ImageData, nn.Module, torch.Tensor]:
    """Give the images, the network with its starting weights, and one blank image."""
    device = train_device(settings.train_device)
    task = None if settings.task is None else load_task(settings.task)
    data = load_data(
        settings.data, settings.is_fast, labels=settings.labels, task=task, track=progress.track
    ).to(device)
    if settings.top > 1 and settings.labels == "given":
        data = data.with_top(settings.top)
    example = torch.zeros(data.input_shape)

    def build(n_classes: int) -> nn.Module:
        if given is not None:
            return _copied(given)
        return build_model(settings.network, n_classes, settings.seed, data.input_shape[1])

    n_classes = data.n_classes or n_answers(settings.data, settings.weights, build, example)
    model = build(n_classes)
    if task is None:
        check_output(model, example, n_classes, settings.network)
    elif settings.labels == "given":
        check_task(model, data)
    return data, model, example


def _copied(given: nn.Module) -> nn.Module:
    """Copy a caller's network to the CPU, in float32 and without wrappers."""
    return unwrap(copy_network(given)).float().cpu()


def _train(
    settings: LoadSettings,
    data: ImageData,
    model: nn.Module,
    example: torch.Tensor,
    progress: ProgressLog,
) -> None:
    training = settings.training
    identity = f"base:{settings.network}:{settings.seed}:{network_hash(model)}"
    cached = CachedTraining(identity=identity, trainer=ImageTrainer(data), settings=training)
    verb = "Reading" if cached.is_done else "Training"
    if not cached.is_done:
        _require_sound(settings, data, model, progress)
    with progress.track(f"{verb} the base network", training.n_steps) as advance:
        cached.load_or_train(
            model, lambda: train(model, data, training, on_step=lambda step, _: advance(step))
        )


def _require_sound(
    settings: LoadSettings, data: ImageData, model: nn.Module, progress: ProgressLog
) -> None:
    """Refuse a network that cannot go the whole way, before minutes of training."""
    if settings.task is not None:
        objective = Objective.of_task(data, model.eval())
    else:
        with torch.no_grad():
            output = model.eval()(torch.zeros(data.input_shape))
        objective = Objective.of_classes(int(output.shape[-1]))
    check = CheckSettings(
        network=settings.network,
        input_shape=tuple(data.input_shape[1:]),
        n_classes=objective.n_classes,
        # The ranking of the channels is of no matter here.
        groups=dataclasses.replace(settings.groups, importance="l2"),
        is_exported=settings.is_compiled,
        n_plans=0,  # the run compares what it compiles itself, and names the layer at fault
    )
    require_sound_network(check, model, objective, progress)


def _with_groups(
    settings: LoadSettings,
    trainer: Trainer,
    model: nn.Module,
    example: torch.Tensor,
    progress: ProgressLog,
) -> TrainedModel:
    with progress.track("Finding groups", None):
        coupled = find_groups(model, example, settings.groups, trainer.accumulate_gradients)
    return TrainedModel(
        name=settings.network, trainer=trainer, model=model, example=example, coupled=coupled
    )
