"""Training and evaluation of a classifier on in-memory images: one function each.

Called by the job (base network, finalists) and the fine-tuning oracle. Batches come from a seeded
generator of our own, so two plans judged with the same seed see the same images in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from cprune_rl.accuracy.data import ImageData, Split

__all__ = ["TrainSettings", "accumulate_gradients", "bf16_is_fast", "evaluate", "recalibrate", "right_answers", "train"]

_EVAL_BATCH = 500
_TEMPERATURE = 2.0  # at which a teacher's answers are compared


@dataclass(frozen=True)
class TrainSettings:
    """One run of SGD with Nesterov momentum and a one-cycle learning rate.

    Attributes:
        n_steps: optimiser steps.
        batch_size: images in a step.
        learning_rate: the peak of the cycle.
        weight_decay: L2 penalty.
        label_smoothing: mass moved from the label to all classes, in [0, 1).
        warmup: share of the steps before the peak, in (0, 1).
        seed: order of the images.
        bf16: train under bfloat16 autocast; None where the CPU has it.
        distillation: share of the loss that is the difference to a teacher's answers, in [0, 1); the labels have the rest.
    """

    n_steps: int
    batch_size: int = 64
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05
    warmup: float = 0.2
    seed: int = 0
    bf16: bool | None = None
    distillation: float = 0.0


def bf16_is_fast() -> bool:
    """Whether this CPU has bfloat16 instructions (about 1.65x faster training where it does)."""
    return bool(torch.backends.cpu.get_cpu_capability().startswith("AVX512") and torch.cpu._is_avx512_bf16_supported())


def train(model: nn.Module, data: ImageData, settings: TrainSettings, on_step: Callable[[int, float], None] | None = None, teacher: nn.Module | None = None) -> None:
    """Trains `model` in place and leaves it in evaluation mode.

    Args:
        model: classifier of `(n, channels, height, width)` float32 images.
        data: whose training images it learns from, shifted and flipped where the data set says so.
        settings: steps, rates and seed.
        on_step: called with the number of steps done and the loss after each step.
        teacher: in evaluation mode; asked where `settings.distillation` is not 0 (Hinton et al., 2015).
    """
    split, y = data.train, data.train.targets
    bf16 = bf16_is_fast() if settings.bf16 is None else settings.bf16
    generator = torch.Generator().manual_seed(settings.seed)
    augment = torch.Generator().manual_seed(settings.seed + 1) if data.is_augmented else None
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this form
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), settings.learning_rate, momentum=0.9, nesterov=True, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=settings.n_steps + 1, pct_start=settings.warmup)
    order = torch.empty(0, dtype=torch.int64)
    for step in range(settings.n_steps):
        if len(order) < settings.batch_size:
            order = torch.randperm(len(y), generator=generator)
        batch, order = order[: settings.batch_size], order[settings.batch_size :]
        images = split.batch(batch, augment)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            logits = model(images)
        loss = functional.cross_entropy(logits.float(), y[batch], label_smoothing=settings.label_smoothing)
        if teacher is not None and settings.distillation > 0:
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                taught = teacher(images)
            loss = (1 - settings.distillation) * loss + settings.distillation * _difference(logits.float(), taught.float())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        optimizer.step()
        schedule.step()
        if on_step is not None:
            on_step(step + 1, float(loss.detach()))
    model.eval()


def _difference(logits: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    """Of two softened answers, in the scale of a loss on labels."""
    answer, wanted = functional.log_softmax(logits / _TEMPERATURE, 1), functional.softmax(taught / _TEMPERATURE, 1)
    return functional.kl_div(answer, wanted, reduction="batchmean") * _TEMPERATURE**2


def accumulate_gradients(model: nn.Module, data: ImageData, n_images: int = 512) -> None:
    """Fills in the gradients of the loss on training images; weights and statistics stay as they are.

    Args:
        model: in evaluation mode afterwards.
        data: images.
        n_images: at most.
    """
    model.eval()
    for start in range(0, min(n_images, len(data.train)), 128):
        batch = slice(start, start + 128)
        functional.cross_entropy(model(data.train.batch(batch)), data.train.targets[batch]).backward()  # type: ignore[no-untyped-call]  # torch's own


@torch.no_grad()
def right_answers(model: nn.Module, split: Split) -> torch.Tensor:
    """Which images are classified rightly, as the split says (`Split.top`), `(n,)` bool."""
    model.eval()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    guesses = torch.cat([model(split.batch(slice(i, i + _EVAL_BATCH))).topk(split.top).indices for i in range(0, len(split), _EVAL_BATCH)])
    return (guesses == split.targets[:, None]).any(1)


def evaluate(model: nn.Module, split: Split) -> float:
    """Share of images classified rightly, in [0, 1]."""
    return float(right_answers(model, split).double().mean())


@torch.no_grad()
def recalibrate(model: nn.Module, split: Split, n_images: int = 1024) -> None:
    """Recomputes batch-norm statistics from `n_images` training images, weights untouched."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average over the batches below
    model.train()
    for start in range(0, min(n_images, len(split)), 256):
        model(split.batch(slice(start, start + 256)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
