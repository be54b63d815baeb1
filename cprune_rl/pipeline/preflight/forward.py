"""Runs a network as training, judging and compiling will run it, on drawn images.

A network that fails here would fail later, after minutes of training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from cprune_rl.accuracy.data.image_data import CPU
from cprune_rl.accuracy.training import on_device
from cprune_rl.errors import ModelError, first_line
from cprune_rl.models.registry import check_output
from cprune_rl.pipeline.preflight.report import Finding
from cprune_rl.pruning.slices import trainable_copy

__all__ = ["check_forward"]

_N_IMAGES = 4
_TOLERANCE = 1e-3  # of the spread of the answers
Forward = Callable[[torch.Tensor], torch.Tensor]


def check_forward(
    model: nn.Module, image_shape: tuple[int, ...], n_classes: int, name: str
) -> Iterator[Finding]:
    """Run a network on one image, on several, channels last, and a step of its training.

    Args:
        model: left in evaluation mode, otherwise as it was.
        image_shape: `(channels, height, width)`.
        n_classes: logits that it must give.
        name: how the findings call it.
    """
    images = _draw_images(image_shape)
    what = "one image"
    try:
        check_output(model, images[:1], n_classes, name)
    except ModelError as error:
        yield Finding(what=what, found=str(error), status="failed")
        return
    yield Finding(what=what, found=f"gives {n_classes} logits")
    with torch.no_grad():
        expected = torch.cat([model(image[None]) for image in images])
        yield _compare("a batch", lambda x: model(x), images, expected=expected)
        channels_last = images.contiguous(memory_format=torch.channels_last)
        yield _compare("channels last", lambda x: model(x), channels_last, expected=expected)
    yield _train_step(model, images, n_classes)


def _draw_images(image_shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn((_N_IMAGES, *image_shape), generator=torch.Generator().manual_seed(0))


def _compare(
    what: str, forward: Forward, images: torch.Tensor, *, expected: torch.Tensor
) -> Finding:
    """Compare with the images run one by one."""
    try:
        given = forward(images)
    except Exception as error:  # whatever the user's network raises
        reason = f"{type(error).__name__}: {first_line(error)}"
        return Finding(what=what, found=reason, status="failed")
    if given.shape != expected.shape:
        found = f"gives {tuple(given.shape)} for {len(images)} images"
        return Finding(what=what, found=found, status="failed")
    difference = float((given - expected).abs().max())
    spread = float((expected - expected.mean(0)).abs().max())
    if difference > _TOLERANCE * max(spread, torch.finfo(torch.float32).tiny):
        found = (
            f"an image's answers depend on how it is given: they differ by {difference:.2g}, "
            f"images among themselves by {spread:.2g}"
        )
        return Finding(what=what, found=found, status="failed")
    return Finding(what=what, found="as one by one")


def _train_step(model: nn.Module, images: torch.Tensor, n_classes: int) -> Finding:
    """Compute gradients in training mode, on a copy."""
    what = "training mode"
    try:
        copied = trainable_copy(model).train()
        with on_device(copied, CPU):
            output = copied(images)
        heads = output if isinstance(output, (tuple, list)) else [output]
        logits = [head for head in heads if isinstance(head, torch.Tensor)]
        loss = sum(nn.functional.cross_entropy(head, _labels(n_classes)) for head in logits)
        if not isinstance(loss, torch.Tensor):
            found = f"gives {type(output).__name__} in training; expected logits"
            return Finding(what=what, found=found, status="failed")
        loss.backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever the user's network raises
        reason = f"{type(error).__name__}: {first_line(error)}"
        return Finding(what=what, found=reason, status="failed")
    gradients = [p.grad for p in copied.parameters() if p.grad is not None]
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        return Finding(what=what, found="gradients are not finite", status="failed")
    sides = f", {len(logits) - 1} side outputs" if len(logits) > 1 else ""
    return Finding(what=what, found=f"a step of training works{sides}")


def _labels(n_classes: int) -> torch.Tensor:
    return torch.arange(_N_IMAGES) % n_classes
