"""Trains and evaluates a network on images: one function each.

Batches come from a seeded generator, so two plans that are judged with the same seed see the same
images in the same order. The work is done where the images are (`ImageData.to`). A network is moved
there and back to the CPU, where everything else expects it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from cprune_rl.accuracy.data import ImageData, Split
from cprune_rl.accuracy.memory_format import channels_last_where_possible
from cprune_rl.accuracy.task import Task
from cprune_rl.errors import ConfigError
from cprune_rl.models.side_heads import SIDE_WEIGHT, Heads, SideHeads

__all__ = [
    "TrainSettings",
    "accumulate_gradients",
    "answers",
    "autocast",
    "correct_predictions",
    "evaluate",
    "fast_depthwise_strides",
    "on_device",
    "one_cycle_sgd",
    "pointwise_strides_first",
    "recalibrate",
    "seeded",
    "side_loss",
    "single_threaded_pool",
    "train",
    "train_device",
]

# of one channel, in a batch that is evaluated: larger images come in smaller batches, or memory
# runs out
_BATCH_PIXELS = 500 * 32 * 32


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Describes one run of SGD with Nesterov momentum and a one-cycle learning rate.

    Attributes:
        n_steps: optimiser steps.
        batch_size: images in a step.
        learning_rate: the peak of the cycle.
        weight_decay: L2 penalty.
        label_smoothing: mass moved from the label to all classes, in [0, 1).
        warmup: share of the steps before the peak, in (0, 1).
        seed: of the order of the images.
        bf16: whether to train under bfloat16 autocast; None where the processor has it.
        distillation: share of the loss that is the difference to a teacher's predictions, in
            [0, 1); the labels have the rest. A task of the user's may have no such difference.
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


def train_device(name: str) -> torch.device:
    """Gives a device by torch's name: `cpu`, `cuda`, `cuda:1`.

    Raises:
        ConfigError: it is another kind of device, or torch does not see it.
    """
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise ConfigError(f"networks are trained on cpu or cuda, not on {name!r}")
        torch.empty(1, device=device)
    # for an unknown name, a torch without CUDA, a GPU that is not there
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"networks cannot be trained on {name!r}: {reason}. "
            "Leave --train-device out to train on the CPU."
        ) from error
    return device


@contextlib.contextmanager
def on_device(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Moves a network to a device, channels last if it can be, and back to the CPU in the end.

    On a GPU it asks for cuDNN's deterministic algorithms, without TF32.
    """
    with contextlib.ExitStack() as stack:
        if device.type == "cuda":
            flags = torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            )
            stack.enter_context(flags)
        stack.callback(model.to, "cpu")
        model.to(device)
        stack.enter_context(channels_last_where_possible(model))
        stack.enter_context(pointwise_strides_first(model, device))
        yield


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds what layers draw, such as a dropout, and restores the caller's generators.

    Without it, the draws would depend on what ran before.
    """
    with torch.random.fork_rng([] if device.type == "cpu" else [device]):
        torch.manual_seed(seed)
        yield


def autocast(device: torch.device, bf16: bool | None = None) -> torch.autocast:
    """Casts to bfloat16 as asked for, or where the processor has instructions for it.

    Training on a CPU that has them is about 1.65x as fast.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=_uses_bf16(device, bf16))


def _uses_bf16(device: torch.device, bf16: bool | None) -> bool:
    if bf16 is not None:
        return bf16
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(
        torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and torch.cpu._is_avx512_bf16_supported()
    )


@contextlib.contextmanager
def fast_depthwise_strides(
    model: nn.Module, device: torch.device, bf16: bool | None = None
) -> Iterator[None]:
    """Lets strided depthwise convolutions drop outputs after the sums while a network is trained.

    The function is the same, but its gradients are fast. In bfloat16 on a CPU, oneDNN has no fast
    gradients of such a layer: 60 ms where this way takes 4, half of all of mobilenetv2-small's
    training.

    Args:
        model: changed in place, restored in the end.
        device: where it is trained.
        bf16: as `autocast` takes it.
    """
    strides: dict[nn.Conv2d, tuple[int, ...]] = {}

    def subsample(layer: nn.Conv2d, _: object, output: torch.Tensor) -> torch.Tensor:
        down, across = strides[layer]
        return output[..., ::down, ::across]

    with contextlib.ExitStack() as stack:
        for layer in model.modules() if device.type == "cpu" and _uses_bf16(device, bf16) else ():
            # a subclass may read its stride
            if type(layer) is not nn.Conv2d or not 1 < layer.groups == layer.in_channels:
                continue
            if layer.stride != (1, 1):
                strides[layer] = layer.stride
                stack.callback(setattr, layer, "stride", layer.stride)
                stack.callback(layer.register_forward_hook(subsample).remove)
                layer.stride = (1, 1)
        yield


@contextlib.contextmanager
def pointwise_strides_first(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Lets strided 1x1 convolutions drop inputs before the sums, instead of by their stride.

    The function is the same. In float32 on a CPU, the gradients of oneDNN 3.12 for such a layer
    with few channels write past their buffer: training aborts, or goes on with damaged memory.

    Args:
        model: changed in place, restored in the end.
        device: where it is trained.
    """

    def subsample(
        strides: tuple[int, ...], _: nn.Module, inputs: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        down, across = strides
        return inputs[0][..., ::down, ::across]

    with contextlib.ExitStack() as stack:
        is_at_risk = device.type == "cpu" and not _uses_bf16(device, None)
        for layer in model.modules() if is_at_risk else ():
            # a subclass may read its stride
            if type(layer) is not nn.Conv2d or layer.kernel_size != (1, 1) or layer.groups > 1:
                continue
            if layer.stride != (1, 1) and layer.padding in ((0, 0), "valid"):
                hook = functools.partial(subsample, layer.stride)
                stack.callback(layer.register_forward_pre_hook(hook).remove)
                stack.callback(setattr, layer, "stride", layer.stride)
                layer.stride = (1, 1)
        yield


def one_cycle_sgd(
    model: nn.Module, n_steps: int, *, learning_rate: float, weight_decay: float, warmup: float
) -> tuple[torch.optim.SGD, OneCycleLR]:
    """Makes SGD with Nesterov momentum, and its one-cycle learning rate.

    Args:
        model: whose parameters it trains.
        n_steps: optimiser steps.
        learning_rate: the peak of the cycle.
        weight_decay: L2 penalty.
        warmup: share of the steps before the peak, in (0, 1).
    """
    optimizer = torch.optim.SGD(
        model.parameters(), learning_rate, momentum=0.9, nesterov=True, weight_decay=weight_decay
    )
    schedule = OneCycleLR(optimizer, learning_rate, total_steps=n_steps + 1, pct_start=warmup)
    return optimizer, schedule


def train(
    model: nn.Module,
    data: ImageData,
    settings: TrainSettings,
    on_step: Callable[[int, float], None] | None = None,
    teacher: nn.Module | None = None,
) -> None:
    """Trains a network in place and leaves it in evaluation mode.

    Args:
        model: classifier of `(n, channels, height, width)` float32 images. In training mode it may
            give more than one output, see `SideHeads`; the others count 0.3 of the main one.
        data: whose training images it learns from, shifted and flipped where the data set says so.
        settings: steps, rates and seed.
        on_step: called with the number of steps done and the loss after each step.
        teacher: in evaluation mode; used where `settings.distillation` is not 0 (Hinton et al.,
            2015).

    Raises:
        ModelError: of several outputs none is known to be the main one.
    """
    split = data.train
    augment = torch.Generator().manual_seed(settings.seed + 1) if data.is_augmented else None
    if settings.distillation == 0:
        teacher = None
    with contextlib.ExitStack() as stack:
        stack.enter_context(on_device(model, split.device))
        if teacher is not None:
            stack.enter_context(on_device(teacher, split.device))
        model.train()
        stack.enter_context(fast_depthwise_strides(model, split.device, settings.bf16))
        stack.enter_context(seeded(settings.seed, split.device))
        optimizer, schedule = one_cycle_sgd(
            model,
            settings.n_steps,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            warmup=settings.warmup,
        )
        heads = SideHeads(model)
        for step, batch in enumerate(_shuffled_batches(len(split), settings), start=1):
            images = split.batch(batch, augment)
            loss = _loss(
                heads, images, split=split, batch=batch, settings=settings, teacher=teacher
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            optimizer.step()
            schedule.step()
            if on_step is not None:
                on_step(step, float(loss.detach()))
        model.eval()


def _shuffled_batches(n_images: int, settings: TrainSettings) -> Iterator[torch.Tensor]:
    """Draws the positions of each step's images; too few for a step are left out."""
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(settings.n_steps):
        if len(order) < settings.batch_size:
            order = torch.randperm(n_images, generator=generator)
        yield order[: settings.batch_size]
        order = order[settings.batch_size :]


def _loss(
    heads: SideHeads,
    images: torch.Tensor,
    *,
    split: Split,
    batch: torch.Tensor,
    settings: TrainSettings,
    teacher: nn.Module | None,
) -> torch.Tensor:
    task = split.task
    targets = split.targets[batch]
    with autocast(images.device, settings.bf16):
        output = heads.model(images)
    given = heads.split(output, images)
    main = given.main.float()
    loss = task.loss(main, targets, settings.label_smoothing)
    if teacher is not None:
        with torch.no_grad(), autocast(images.device, settings.bf16):
            teacher_output = teacher(images).float()
        difference = task.distillation_loss(main, teacher_output)
        if difference is not None:
            loss = (1 - settings.distillation) * loss + settings.distillation * difference
    return loss + side_loss(given, task, targets, settings.label_smoothing)


def side_loss(
    heads: Heads, task: Task, targets: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor | float:
    """Gives what side heads add to the loss, a scalar: 0.3 of the loss of each on the targets.

    Args:
        heads: what the network gave.
        task: whose loss it is.
        targets: of the same images.
        label_smoothing: mass moved from the label to all classes, where there are classes.
    """
    losses = [task.loss(side.float(), targets, label_smoothing) for side in heads.sides]
    return SIDE_WEIGHT * sum(losses)


def accumulate_gradients(model: nn.Module, data: ImageData, n_images: int = 512) -> None:
    """Fills in the gradients of the loss on training images; weights and statistics stay.

    Args:
        model: left in evaluation mode.
        data: whose training images are used.
        n_images: at most.
    """
    split = data.train
    with on_device(model.eval(), split.device):
        for batch in _batches(split, n_images, batch_size=128):
            loss = split.task.loss(model(split.batch(batch)), split.targets[batch])
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own


@torch.no_grad()
def correct_predictions(model: nn.Module, split: Split) -> NDArray[np.bool_]:
    """Tells which images are classified correctly, `(n,)`; `Split.task` says what counts."""
    with on_device(model.eval(), split.device):
        correct = [
            split.task.correct(model(split.batch(batch)), split.targets[batch])
            for batch in _batches(split, len(split), batch_size=500)
        ]
    return np.asarray(torch.cat(correct).cpu().numpy())


@torch.no_grad()
def answers(model: nn.Module, split: Split) -> NDArray[Any]:
    """Gives the labels, or the targets of the task, that a network's output stands for.

    Args:
        model: left in evaluation mode.
        split: its labels are not looked at.

    Returns:
        `(n,)` int64 classes, or what `Task.targets_of` gives.
    """
    with on_device(model.eval(), split.device):
        targets = [
            split.task.targets_of(model(split.batch(batch)))
            for batch in _batches(split, len(split), batch_size=500)
        ]
    return np.asarray(torch.cat(targets).cpu().numpy())


def evaluate(model: nn.Module, split: Split) -> float:
    """Gives the share of images that are classified correctly, in [0, 1]."""
    return float(correct_predictions(model, split).mean())


@torch.no_grad()
def recalibrate(model: nn.Module, split: Split, n_images: int = 1024) -> None:
    """Recomputes batch-norm statistics from training images; weights stay.

    All other layers are in evaluation mode: a dropout would bias the statistics.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    with on_device(model.eval(), split.device):
        for norm in norms:
            norm.train().reset_running_stats()
            norm.momentum = None  # a cumulative average over the batches below
        for batch in _batches(split, n_images, batch_size=256):
            images = split.batch(batch)
            if len(images) > 1:  # one image has no variance
                model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def _batches(split: Split, n_images: int, *, batch_size: int) -> Iterator[slice]:
    """Goes through the first images of a split, in smaller batches where they are large."""
    height, width = split.images.shape[2:]
    size = min(batch_size, max(8, _BATCH_PIXELS // (height * width)))
    end = min(n_images, len(split))
    for start in range(0, end, size):
        yield slice(start, start + size)


@contextlib.contextmanager
def single_threaded_pool() -> Iterator[ThreadPoolExecutor]:
    """Gives as many threads as torch uses for one operation; in each, torch uses one.

    Small networks are evaluated faster side by side than one after another on all cores.
    """
    n_threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(
            n_threads, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            yield pool
    finally:
        # threads that are made later begin with this number
        torch.set_num_threads(n_threads)
