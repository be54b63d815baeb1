"""A supernet has one set of weights that works at every width: it judges plans without training.

It is trained by the sandwich rule with in-place distillation (Yu and Huang, ICCV 2019). Each step
trains the whole network on the labels, and the narrowest plan and some random ones on the whole
network's predictions. To evaluate a plan, the trained network is pruned and its batch-norm
statistics are recomputed (`oracle.RecalibrationEvaluation`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from cprune_rl.accuracy.data import ImageData
from cprune_rl.accuracy.task import Classification, Task
from cprune_rl.accuracy.training import (
    autocast,
    fast_depthwise_strides,
    on_device,
    one_cycle_sgd,
    seeded,
    side_loss,
)
from cprune_rl.core.network import Plan
from cprune_rl.models.side_heads import SideHeads

__all__ = ["PlanBounds", "Supernet", "SupernetSettings", "train_supernet"]

_SAVE_EVERY = 200  # steps
_PACE_DEVIATION = 0.5  # of the logarithm of how fast a group of a random plan narrows


@dataclass(frozen=True, kw_only=True)
class SupernetSettings:
    """Describes the training of a supernet, which starts from the dense network's weights.

    Attributes:
        n_steps: optimiser steps; each trains `2 + n_random` plans.
        n_random: random plans of a step.
        batch_size: images of a step.
        learning_rate: the peak of the cycle.
        weight_decay: L2 penalty.
        seed: of images and plans.
    """

    n_steps: int = 1200
    n_random: int = 2
    batch_size: int = 64
    learning_rate: float = 0.05
    weight_decay: float = 5e-4
    seed: int = 0


@dataclass(frozen=True)
class PlanBounds:
    """Bounds the plans that a supernet is to work at.

    Attributes:
        channels: of each group.
        minimum: that is kept of each.
    """

    channels: tuple[int, ...]
    minimum: tuple[int, ...]

    @property
    def narrowest(self) -> Plan:
        """Every group at its minimum."""
        return Plan(self.minimum)

    def sample(self, rng: np.random.Generator) -> Plan:
        """Draws a plan whose groups scatter around a ratio that is drawn first.

        So narrow networks come as often as wide ones.
        """
        channels = np.array(self.channels)
        ratio = rng.uniform((np.array(self.minimum) / channels).min(), 1.0)
        kept = ratio ** np.exp(rng.normal(0.0, _PACE_DEVIATION, len(channels)))
        widths = np.clip(np.round(channels * kept), self.minimum, channels)
        return Plan(tuple(widths.astype(int).tolist()))


@dataclass(frozen=True)
class Supernet:
    """Joins a network with the plans that it is to work at.

    Attributes:
        model: a copy of the dense network.
        masks: ones and zeros to multiply its weights with for a plan, by name of the parameter.
        bounds: of these plans.
    """

    model: nn.Module
    masks: Callable[[Plan], Mapping[str, torch.Tensor]]
    bounds: PlanBounds


def train_supernet(
    supernet: Supernet,
    data: ImageData,
    settings: SupernetSettings,
    checkpoint: Path | None = None,
    on_step: Callable[[int], None] | None = None,
) -> None:
    """Trains a supernet in place, and leaves its network in evaluation mode.

    Args:
        supernet: trained from the weights that it has.
        data: whose training images it learns from.
        settings: steps, rates and seed.
        checkpoint: file that a stopped training goes on from; removed in the end. None for none.
        on_step: called with the number of steps done after each.
    """
    model = supernet.model
    device = data.train.device
    with on_device(model.train(), device), fast_depthwise_strides(model, device):
        optimizer, schedule = one_cycle_sgd(
            model,
            settings.n_steps,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            warmup=0.1,
        )
        heads = SideHeads(model)
        state = _TrainingState({"model": model, "optimizer": optimizer, "schedule": schedule})
        for step in range(state.restore(checkpoint), settings.n_steps):
            # a step draws the same whether or not the training was stopped before it
            rng = np.random.default_rng([settings.seed, step])
            optimizer.zero_grad(set_to_none=True)
            _accumulate_gradients(supernet, heads, data, settings=settings, rng=rng)
            optimizer.step()
            schedule.step()
            n_done = step + 1
            if checkpoint is not None and n_done % _SAVE_EVERY == 0 and n_done < settings.n_steps:
                state.save(checkpoint, n_done)
            if on_step is not None:
                on_step(n_done)
        model.eval()
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)


def _accumulate_gradients(
    supernet: Supernet,
    heads: SideHeads,
    data: ImageData,
    *,
    settings: SupernetSettings,
    rng: np.random.Generator,
) -> None:
    """Computes the gradients of a step.

    The whole network learns from the labels, the masked ones from its predictions.
    """
    model = supernet.model
    device = data.train.device
    batch = torch.from_numpy(rng.integers(len(data.train), size=settings.batch_size))
    augment = None
    if data.is_augmented:
        augment = torch.Generator().manual_seed(int(rng.integers(2**31)))
    bounds = supernet.bounds
    plans = [bounds.narrowest, *(bounds.sample(rng) for _ in range(settings.n_random))]
    images = data.train.batch(batch, augment)
    with seeded(int(rng.integers(2**31)), device):
        with autocast(device):
            output = model(images)
        given = heads.split(output, images)
        task = data.task
        targets = data.train.targets[batch]
        main = given.main.float()
        _backward(task.loss(main, targets) + side_loss(given, task, targets))
        teacher_output = main.detach()
        for plan in plans:
            weights = dict(model.named_parameters())
            masked = {
                name: weights[name] * mask.to(device) for name, mask in supernet.masks(plan).items()
            }
            with autocast(device):
                output = functional_call(model, masked, (images,))
            narrow = heads.split(output, images)
            loss = _narrow_loss(task, narrow.main.float(), teacher_output, targets)
            _backward(loss + side_loss(narrow, task, targets))


def _narrow_loss(
    task: Task, output: torch.Tensor, teacher_output: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Compares a narrow network with the whole one, or with the labels where the task has no way.

    Classes have one without a temperature here (Yu and Huang, ICCV 2019).
    """
    if isinstance(task, Classification):
        return functional.cross_entropy(output, teacher_output.softmax(1))
    difference = task.distillation_loss(output, teacher_output)
    return task.loss(output, targets) if difference is None else difference


def _backward(loss: torch.Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]  # torch's own


@dataclass(frozen=True)
class _TrainingState:
    """Saves and restores a training.

    Attributes:
        parts: with `state_dict` and `load_state_dict`, by name.
    """

    parts: Mapping[str, Any]

    def save(self, checkpoint: Path, n_done: int) -> None:
        """Writes the parts and the number of steps done; a file is there in whole or not at all."""
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        temporary = checkpoint.with_suffix(".part")
        states = {name: part.state_dict() for name, part in self.parts.items()}
        torch.save({"step": n_done, **states}, temporary)
        temporary.replace(checkpoint)

    def restore(self, checkpoint: Path | None) -> int:
        """Loads the parts where there is a checkpoint, and gives the number of steps done."""
        if checkpoint is None or not checkpoint.exists():
            return 0
        try:
            states = torch.load(checkpoint, map_location="cpu", weights_only=True)
            for name, part in self.parts.items():
                part.load_state_dict(states[name])
            return int(states["step"])
        except Exception:  # a damaged checkpoint costs the steps it held, no more
            checkpoint.unlink(missing_ok=True)
            return 0
