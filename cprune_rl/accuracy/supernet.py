"""A supernet: one set of weights that works at every width, so that a plan is judged without
training it.

Trained by the sandwich rule with in-place distillation (Yu and Huang, ICCV 2019): each step trains
the whole network on
the labels, and the narrowest plan and some random ones on what the whole network says. A plan is
evaluated by pruning
the trained network and recomputing its batch-norm statistics (`oracle.RecalibrationEvaluation`). Called by the
job.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from cprune_rl.accuracy.data import ImageData
from cprune_rl.accuracy.training import autocast, fast_depthwise_strides, placed, seeded
from cprune_rl.core.network import Plan

__all__ = ["PlanSpace", "SupernetSettings", "train_supernet"]

Masks = Callable[[Plan], Mapping[str, torch.Tensor]]
_SAVE_EVERY = 200  # steps


@dataclass(frozen=True)
class SupernetSettings:
    """Training of a supernet, which starts from the dense network's weights.

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
class PlanSpace:
    """The plans that a supernet is to work at.

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

    def draw(self, rng: np.random.Generator) -> Plan:
        """A random plan: groups scatter around a ratio that is drawn first, so that narrow networks
        come as often as wide ones.
        """
        ratio = rng.uniform(
            min(m / c for m, c in zip(self.minimum, self.channels, strict=True)), 1.0
        )
        kept = ratio ** np.exp(rng.normal(0.0, 0.5, len(self.channels)))
        return Plan(
            tuple(
                int(np.clip(round(c * k), m, c))
                for c, m, k in zip(self.channels, self.minimum, kept, strict=True)
            )
        )


def train_supernet(
    model: nn.Module,
    masks: Masks,
    space: PlanSpace,
    data: ImageData,
    settings: SupernetSettings,
    checkpoint: Path | None = None,
    on_step: Callable[[int], None] | None = None,
) -> None:
    """Trains a network in place, from the weights it has, to work at every width;

    leaves it in evaluation mode.

    Args:
        model: the dense network.
        masks: of its weights for a plan; the names are of its parameters.
        space: the plans.
        data: images.
        settings: steps, rates and seed.
        checkpoint: file that a training which was stopped goes on from; removed in the end. None
            for none.
        on_step: called with the number of steps done after each.
    """
    device = data.train.device
    with placed(model.train(), device), fast_depthwise_strides(model, device):
        optimizer = torch.optim.SGD(
            model.parameters(),
            settings.learning_rate,
            momentum=0.9,
            nesterov=True,
            weight_decay=settings.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, total_steps=settings.n_steps + 1, pct_start=0.1
        )
        for step in range(_restore(checkpoint, model, optimizer, schedule), settings.n_steps):
            rng = np.random.default_rng(
                [settings.seed, step]
            )  # a step draws the same whether or not the training was stopped before it
            batch = torch.from_numpy(rng.integers(len(data.train), size=settings.batch_size))
            augment = (
                torch.Generator().manual_seed(int(rng.integers(2**31)))
                if data.is_augmented
                else None
            )
            plans = [space.narrowest, *(space.draw(rng) for _ in range(settings.n_random))]
            optimizer.zero_grad(set_to_none=True)
            with seeded(int(rng.integers(2**31)), device):
                _accumulate(
                    model,
                    [masks(plan) for plan in plans],
                    data.train.batch(batch, augment),
                    data.train.targets[batch],
                )
            optimizer.step()
            schedule.step()
            if (
                checkpoint is not None
                and (step + 1) % _SAVE_EVERY == 0
                and step + 1 < settings.n_steps
            ):
                _save(checkpoint, step + 1, model, optimizer, schedule)
            if on_step is not None:
                on_step(step + 1)
        model.eval()
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)


def _accumulate(
    model: nn.Module,
    masks: Sequence[Mapping[str, torch.Tensor]],
    images: torch.Tensor,
    labels: torch.Tensor,
) -> None:
    """Gradients of a sandwich:

    the whole network learns from the labels, the masked ones from what it says.
    """
    with autocast(images.device):
        logits = model(images)
    functional.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]  # torch's own
    taught = logits.detach().float().softmax(1)
    for mask_of in masks:
        weights = dict(model.named_parameters())
        masked = {name: weights[name] * mask.to(images.device) for name, mask in mask_of.items()}
        with autocast(images.device):
            narrow = functional_call(model, masked, (images,))
        functional.cross_entropy(narrow.float(), taught).backward()  # type: ignore[no-untyped-call]  # torch's own


def _save(
    checkpoint: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    temporary = checkpoint.with_suffix(".part")
    torch.save(
        {
            "step": step,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
        },
        temporary,
    )
    temporary.replace(checkpoint)


def _restore(
    checkpoint: Path | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> int:
    """Steps that are done already."""
    if checkpoint is None or not checkpoint.exists():
        return 0
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        return int(state["step"])
    except Exception:  # a damaged checkpoint costs the steps it held, no more
        checkpoint.unlink(missing_ok=True)
        return 0
