"""Reads what a network gives while it is trained: its main output, and those of side heads.

GoogLeNet and Inception answer with several heads in training mode, and with one in evaluation mode.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cprune_rl.errors import ModelError, first_line

__all__ = ["SIDE_WEIGHT", "Heads", "SideHeads", "layers_in_evaluation", "tensors_by_name"]

SIDE_WEIGHT = 0.3  # of a side head's loss (Szegedy et al., CVPR 2015, section 5)
_MAIN_NAMES = ("logits", "out", "output", "main")
_TOLERANCE = 1e-3  # of the largest number of an output
_N_TRIED = 2  # images
_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True, kw_only=True)
class Heads:
    """What a network gave for a batch.

    Attributes:
        main: what it gives in evaluation mode, too.
        sides: other outputs of the main one's shape.
        others: names of the outputs of other shapes, which have no loss.
    """

    main: torch.Tensor
    sides: tuple[torch.Tensor, ...] = ()
    others: tuple[str, ...] = ()


class SideHeads:
    """Tells the main output of a network from those of its side heads.

    Args:
        model: may be in any mode; it stays as it was.

    Attributes:
        model: the same.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._main: str | None = None

    def split(self, output: Any, images: torch.Tensor) -> Heads:
        """Part the output for a batch.

        Args:
            output: a tensor, or tensors in a tuple, a list, a dictionary or a dataclass.
            images: that it was computed of, `(n, channels, height, width)`.

        Raises:
            ModelError: none of the outputs can be told to be the main one.
        """
        if isinstance(output, torch.Tensor):
            return Heads(main=output)
        tensors = tensors_by_name(output)
        if self._main is None:
            self._main = self._find_main(output, images[:_N_TRIED])
        if self._main not in tensors:
            raise ModelError(
                f"in training mode the network does not always give its output {self._main!r}"
            )
        main = tensors.pop(self._main)
        sides = [value for value in tensors.values() if value.shape == main.shape]
        others = [name for name, value in tensors.items() if value.shape != main.shape]
        return Heads(main=main, sides=tuple(sides), others=tuple(others))

    def _find_main(self, output: Any, images: torch.Tensor) -> str:
        """The output that evaluation mode gives, too; else one of a usual name, or the first."""
        expected, alike = self._compare(images)
        tensors = tensors_by_name(output)
        shape = expected.shape[1:]
        fitting = [name for name, value in tensors.items() if value.shape[1:] == shape]
        known = [name for name in alike if name in fitting]
        usual = [name for name in _MAIN_NAMES if name in (known or fitting)]
        in_order = [] if isinstance(output, Mapping) else fitting
        for names in (usual, known, in_order):
            if names:
                return names[0]
        listed = ", ".join(f"{name!r} {tuple(value.shape)}" for name, value in tensors.items())
        raise ModelError(
            f"in training mode the network gives a {type(output).__name__} of "
            f"{listed or 'no tensors'}, and none of them is known to be what it gives in "
            f"evaluation mode, (n, {', '.join(map(str, shape))}): put the main output first in a "
            "tuple, or call it 'logits' in a dictionary"
        )

    @torch.no_grad()
    def _compare(self, images: torch.Tensor) -> tuple[torch.Tensor, list[str]]:
        """The output in evaluation mode, and the names of those in training mode that equal it."""
        forked = [] if images.device.type == "cpu" else [images.device]
        with torch.random.fork_rng(forked), layers_in_evaluation(self.model):
            try:
                trained = tensors_by_name(self.model(images))
            except Exception as error:  # whatever the user's forward provokes
                reason = f"{type(error).__name__}: {first_line(error)}"
                raise ModelError(f"the network fails in training mode: {reason}") from error
            expected: torch.Tensor = self.model.eval()(images)
        scale = float(expected.abs().max()) * _TOLERANCE
        alike = [
            name
            for name, value in trained.items()
            if value.shape == expected.shape and float((value - expected).abs().max()) <= scale
        ]
        return expected, alike


@contextlib.contextmanager
def layers_in_evaluation(model: nn.Module) -> Iterator[None]:
    """Lets a forward take the way of training while torch's layers work as in evaluation mode.

    So norms use and keep their statistics, and nothing is dropped. All modes are restored.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:
            module.training = module is model or not _is_layer(module)
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _is_layer(module: nn.Module) -> bool:
    """Tells what computes from what only calls others."""
    has_parts = any(True for _ in module.children())
    kinds = (kind for kind in type(module).__mro__ if kind not in _CONTAINERS)
    return not has_parts or any(kind.__module__.startswith("torch.nn.") for kind in kinds)


def tensors_by_name(output: Any) -> dict[str, torch.Tensor]:
    """Find the tensors of an output, by their fields, keys or positions, in order.

    Names of nested ones are joined by points: `1.0`.
    """
    if isinstance(output, torch.Tensor):
        return {"0": output}
    return dict(_named_tensors(output, ""))


def _named_tensors(output: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(output, torch.Tensor):
        yield name, output
        return
    for key, value in _members(output):
        yield from _named_tensors(value, f"{name}.{key}" if name else str(key))


def _members(output: Any) -> Iterator[tuple[Any, Any]]:
    """What an output of several holds; nothing of any other object."""
    if isinstance(output, Mapping):
        yield from output.items()
    elif dataclasses.is_dataclass(output):
        for field in dataclasses.fields(output):
            yield field.name, getattr(output, field.name)
    elif isinstance(output, (list, tuple)):
        fields = getattr(output, "_fields", range(len(output)))
        yield from zip(fields, output, strict=True)
