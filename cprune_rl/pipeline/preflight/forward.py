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
from cprune_rl.models.side_heads import SIDE_WEIGHT, Heads, SideHeads
from cprune_rl.pipeline.preflight.objective import Objective
from cprune_rl.pipeline.preflight.report import Finding
from cprune_rl.pruning.slices import trainable_copy

__all__ = ["check_forward", "check_training"]

_N_IMAGES = 4
_TOLERANCE = 1e-3  # of the spread of the answers
_ROUNDING = 1e-5  # of the largest answer, by another order of the sums
Forward = Callable[[torch.Tensor], torch.Tensor]


def check_forward(
    model: nn.Module, image_shape: tuple[int, ...], objective: Objective, name: str
) -> Iterator[Finding]:
    """Run a network on one image, on several, channels last, and a step of its training.

    Args:
        model: left in evaluation mode, otherwise as it was.
        image_shape: `(channels, height, width)`.
        objective: of the step.
        name: how the findings call it.
    """
    images = _draw_images(image_shape)
    finding = _one_image(model, images[:1], objective, name)
    yield finding
    if finding.status == "failed":
        return
    with torch.no_grad():
        expected = torch.cat([model(image[None]) for image in images])
        yield _compare("a batch", lambda x: model(x), images, expected=expected)
        channels_last = images.contiguous(memory_format=torch.channels_last)
        yield _compare_channels_last(model, channels_last, expected)
    yield check_training(model, image_shape, objective)


def _one_image(model: nn.Module, image: torch.Tensor, objective: Objective, name: str) -> Finding:
    """Look at the output for one image: its shape is free where a task of the user's takes it."""
    what = "one image"
    n_classes = objective.n_classes
    try:
        shape = check_output(model, image, n_classes, name)
    except ModelError as error:
        return Finding(what=what, found=str(error), status="failed")
    found = f"gives {n_classes} logits" if n_classes is not None else f"gives {shape}"
    return Finding(what=what, found=found)


def _draw_images(image_shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn((_N_IMAGES, *image_shape), generator=torch.Generator().manual_seed(0))


def _compare_channels_last(
    model: nn.Module, images: torch.Tensor, expected: torch.Tensor
) -> Finding:
    """Compare where channels come last; training falls back where a view takes none of these."""
    what = "channels last"
    try:
        model(images)
    except RuntimeError:
        found = (
            "a view in its forward does not take maps with channels last, so it is trained with "
            "contiguous ones, which is slower; reshape instead of view takes both"
        )
        return Finding(what=what, found=found, status="warning")
    return _compare(what, lambda x: model(x), images, expected=expected)


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
    if difference > _TOLERANCE * spread + _ROUNDING * float(expected.abs().max()):
        found = (
            f"an image's answers depend on how it is given: they differ by {difference:.2g}, "
            f"images among themselves by {spread:.2g}. Another order of images or of memory must "
            "not change them; a batch norm with track_running_stats=False does, and so does a draw"
        )
        return Finding(what=what, found=found, status="failed")
    return Finding(what=what, found="as one by one")


def check_training(
    model: nn.Module,
    image_shape: tuple[int, ...],
    objective: Objective,
    what: str = "training mode",
) -> Finding:
    """Compute the gradients of a step in training mode, on a copy.

    Args:
        model: left as it was.
        image_shape: `(channels, height, width)`.
        objective: of the step.
        what: is looked at.
    """
    images = _draw_images(image_shape)
    try:
        copied = trainable_copy(model).train()
        with on_device(copied, CPU):
            heads = SideHeads(copied).split(copied(images), images)
        objective.loss(heads).backward()  # type: ignore[no-untyped-call]  # torch's own
    except ModelError as error:
        return Finding(what=what, found=str(error), status="failed")
    except Exception as error:  # whatever the user's network raises
        reason = f"{type(error).__name__}: {first_line(error)}"
        return Finding(what=what, found=reason, status="failed")
    gradients = [p.grad for p in copied.parameters() if p.grad is not None]
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        return Finding(what=what, found="gradients are not finite", status="failed")
    return Finding(what=what, found=f"a step of training works{_sides(heads)}")


def _sides(heads: Heads) -> str:
    """Say which outputs a network gives in training alone."""
    said = ""
    if heads.sides:
        said += f"; losses of {len(heads.sides)} side heads count {SIDE_WEIGHT:g}"
    if heads.others:
        said += f"; no loss is taken of its outputs {', '.join(heads.others)}"
    return said
