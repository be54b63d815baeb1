"""Training and evaluation of a classifier on in-memory images: one function each.

Called by the job (base network, finalists) and the fine-tuning oracle. Batches come from a seeded
generator of our own, so two plans judged with the same seed see the same images in the same order.
The work is done
where the images are (`ImageData.on`); a network is taken there and back to the CPU, where
everything else expects it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from cprune_rl.accuracy.data import ImageData, Split
from cprune_rl.errors import ConfigError, first_line

__all__ = [
    "TrainSettings",
    "accumulate_gradients",
    "autocast",
    "correct_predictions",
    "evaluate",
    "fast_depthwise_strides",
    "placed",
    "recalibrate",
    "seeded",
    "single_threaded_pool",
    "train",
    "train_device",
]

_BATCH_PIXELS = (
    500 * 32 * 32
)  # of one channel, in a batch that is only looked at: larger images come in smaller batches, or memory runs out
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
        bf16: train under bfloat16 autocast; None where the processor has it.
        distillation: share of the loss that is the difference to a teacher's answers, in [0, 1);
            the labels have the rest.
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
    """A device by torch's name: `cpu`, `cuda`, `cuda:1`.

    Raises:
        ConfigError: it is another kind of device, or torch does not see it.
    """
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise ConfigError(f"networks are trained on cpu or cuda, not on {name!r}")
        torch.empty(1, device=device)
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # of an unknown name, a torch without CUDA, a GPU that is not there
        raise ConfigError(
            f"networks cannot be trained on {name!r}: {first_line(error).rstrip('.')}. Leave --train-device out to train on the CPU."
        ) from error
    return device


@contextlib.contextmanager
def placed(model: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """The network on a device, channels last, and back on the CPU in the end;

    in place. On a GPU, cuDNN's deterministic algorithms are asked for, without TF32.
    """
    exact = (
        torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        )
        if device.type == "cuda"
        else contextlib.nullcontext()
    )
    try:
        with exact:
            model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this form
            yield model
    finally:
        model.to("cpu")


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """What layers draw inside, such as a dropout, follows from the seed, not from what ran before;
    the caller's generators are left as they were.
    """
    with torch.random.fork_rng([] if device.type == "cpu" else [device]):
        torch.manual_seed(seed)
        yield


def autocast(device: torch.device, bf16: bool | None = None) -> torch.autocast:
    """bfloat16 where the processor has instructions for it (training on a CPU that does is about
    1.65x faster), or as asked for.
    """
    return torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=_has_bf16(device) if bf16 is None else bf16
    )


def _has_bf16(device: torch.device) -> bool:
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
    """Depthwise convolutions with a stride take their steps after the sums while the network is
    trained: the same function, with gradients that are quickly computed.

    In bfloat16 on a CPU, oneDNN has no fast gradients of such a layer: 60 ms where this way takes
    4, half of all of mobilenetv2-small's training.

    Args:
        model: in place, whole again in the end.
        device: where it is trained.
        bf16: see `autocast`.
    """
    strided = [
        m
        for m in model.modules()
        if type(m) is nn.Conv2d and 1 < m.groups == m.in_channels and m.stride != (1, 1)
    ]  # a subclass may read its stride
    if device.type != "cpu" or not (_has_bf16(device) if bf16 is None else bf16):
        strided = []
    strides: dict[nn.Module, Any] = {m: m.stride for m in strided}

    def step(layer: nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
        down, across = strides[layer]
        return output[..., ::down, ::across]

    hooks = [m.register_forward_hook(step) for m in strided]
    try:
        for m in strided:
            m.stride = (1, 1)
        yield
    finally:
        for m, hook in zip(strided, hooks, strict=True):
            m.stride = strides[m]
            hook.remove()


def train(
    model: nn.Module,
    data: ImageData,
    settings: TrainSettings,
    on_step: Callable[[int, float], None] | None = None,
    teacher: nn.Module | None = None,
) -> None:
    """Trains `model` in place and leaves it in evaluation mode.

    Args:
        model: classifier of `(n, channels, height, width)` float32 images.
        data: whose training images it learns from, shifted and flipped where the data set says so.
        settings: steps, rates and seed.
        on_step: called with the number of steps done and the loss after each step.
        teacher: in evaluation mode; asked where `settings.distillation` is not 0 (Hinton et al.,
            2015).
    """
    split, y = data.train, data.train.targets
    generator = torch.Generator().manual_seed(settings.seed)
    augment = torch.Generator().manual_seed(settings.seed + 1) if data.is_augmented else None
    distils = teacher is not None and settings.distillation > 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(placed(model, split.device))
        if teacher is not None and distils:
            stack.enter_context(placed(teacher, split.device))
        model.train()
        stack.enter_context(fast_depthwise_strides(model, split.device, settings.bf16))
        stack.enter_context(seeded(settings.seed, split.device))
        optimizer = torch.optim.SGD(
            model.parameters(),
            settings.learning_rate,
            momentum=0.9,
            nesterov=True,
            weight_decay=settings.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            settings.learning_rate,
            total_steps=settings.n_steps + 1,
            pct_start=settings.warmup,
        )
        order = torch.empty(0, dtype=torch.int64)
        for step in range(settings.n_steps):
            if len(order) < settings.batch_size:
                order = torch.randperm(len(y), generator=generator)
            batch, order = order[: settings.batch_size], order[settings.batch_size :]
            images = split.batch(batch, augment)
            with autocast(split.device, settings.bf16):
                logits = model(images)
            loss = functional.cross_entropy(
                logits.float(), y[batch], label_smoothing=settings.label_smoothing
            )
            if teacher is not None and distils:
                with torch.no_grad(), autocast(split.device, settings.bf16):
                    taught = teacher(images)
                loss = (1 - settings.distillation) * loss + settings.distillation * _difference(
                    logits.float(), taught.float()
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            optimizer.step()
            schedule.step()
            if on_step is not None:
                on_step(step + 1, float(loss.detach()))
        model.eval()


def _difference(logits: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    """Of two softened answers, in the scale of a loss on labels."""
    answer, wanted = (
        functional.log_softmax(logits / _TEMPERATURE, 1),
        functional.softmax(taught / _TEMPERATURE, 1),
    )
    return functional.kl_div(answer, wanted, reduction="batchmean") * _TEMPERATURE**2


def accumulate_gradients(model: nn.Module, data: ImageData, n_images: int = 512) -> None:
    """Fills in the gradients of the loss on training images;

    weights and statistics stay as they are.

    Args:
        model: in evaluation mode afterwards.
        data: images.
        n_images: at most.
    """
    model.eval()
    with placed(model, data.train.device):
        for batch in _batches(data.train, min(n_images, len(data.train)), 128):
            functional.cross_entropy(
                model(data.train.batch(batch)), data.train.targets[batch]
            ).backward()  # type: ignore[no-untyped-call]  # torch's own


@torch.no_grad()
def correct_predictions(model: nn.Module, split: Split) -> NDArray[np.bool_]:
    """Which images are classified rightly, as the split says (`Split.top`), `(n,)`."""
    with placed(model.eval(), split.device):
        guesses = torch.cat(
            [
                model(split.batch(batch)).topk(split.top).indices
                for batch in _batches(split, len(split), 500)
            ]
        )
    return np.asarray((guesses == split.targets[:, None]).any(1).cpu().numpy())


def evaluate(model: nn.Module, split: Split) -> float:
    """Share of images classified rightly, in [0, 1]."""
    return float(correct_predictions(model, split).mean())


@torch.no_grad()
def recalibrate(model: nn.Module, split: Split, n_images: int = 1024) -> None:
    """Recomputes batch-norm statistics from `n_images` training images, weights untouched;

    nothing else is as in training: a dropout would be drawn, and bias them.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    with placed(model.eval(), split.device):
        for norm in norms:
            norm.train().reset_running_stats()
            norm.momentum = None  # a cumulative average over the batches below
        for batch in _batches(split, min(n_images, len(split)), 256):
            if (images := split.batch(batch)).shape[0] > 1:  # one image has no variance
                model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def _batches(split: Split, n_images: int, most: int) -> Iterator[slice]:
    """The first images of a split, in batches of at most so many."""
    height, width = split.images.shape[2:]
    size = min(most, max(8, _BATCH_PIXELS // (height * width)))
    for start in range(0, n_images, size):
        yield slice(start, start + size)


@contextlib.contextmanager
def single_threaded_pool() -> Iterator[ThreadPoolExecutor]:
    """Threads, as many as torch uses for one operation, in each of which torch uses one:

    small networks are evaluated faster beside each other than one on all cores.
    """
    n_threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(
            n_threads, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            yield pool
    finally:
        torch.set_num_threads(n_threads)  # what threads begin with that are made later
