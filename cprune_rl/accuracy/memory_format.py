"""Lays maps out with channels last where a network takes them so, because that is faster.

A forward with `x.view(x.size(0), -1)` over maps takes only contiguous ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

__all__ = ["channels_last_where_possible"]

_N_TRIED = 2  # images


@contextlib.contextmanager
def channels_last_where_possible(model: nn.Module) -> Iterator[None]:
    """Lays a network's weights out with channels last, or contiguously where it does not run so.

    The first batch decides: the network is run on its first images beforehand, in evaluation mode.
    Images are laid out as the weights are.

    Args:
        model: changed in place.
    """
    hooks = contextlib.ExitStack()

    def choose(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        first.remove()
        if _runs(model, args[0][:_N_TRIED]):
            return None
        # torch's stub lacks this overload
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        hooks.callback(model.register_forward_pre_hook(_make_contiguous).remove)
        return _make_contiguous(model, args)

    with hooks:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        first = model.register_forward_pre_hook(choose)
        hooks.callback(first.remove)
        yield


def _runs(model: nn.Module, images: torch.Tensor) -> bool:
    """Whether a network takes images as they are laid out; its state stays as it was."""
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            # not through the hooks, of which one asks this
            model.eval().forward(images)
    except RuntimeError:  # of a view that would need a copy
        return False
    finally:
        for module, mode in modes.items():
            module.training = mode
    return True


def _make_contiguous(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(image.contiguous() for image in args)
