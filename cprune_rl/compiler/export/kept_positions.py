"""Which positions of each tensor are left at other widths, where a network is lowered anew.

Shapes alone do not tell where a slice begins in a shorter tensor, or which axis of a reshape gives
way. So the positions that a plan leaves are followed from the layers that write them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from cprune_rl.compiler.export.fused_calls import bindings_of, dims, shape_of
from cprune_rl.core.reshape_runs import runs_of_axes
from cprune_rl.core.workload import WrittenChannels

__all__ = ["KeptPositions"]

# for each axis of a tensor, which positions are left
Masks = tuple[NDArray[np.bool_], ...]
_CONVOLUTIONS = ("relax.nn.conv1d", "relax.nn.conv2d", "relax.nn.conv3d")
_TRANSPOSED = ("relax.nn.conv1d_transpose", "relax.nn.conv2d_transpose")
_MOVES_WEIGHTS = ("relax.reshape", "relax.permute_dims")
_REDUCTIONS = ("relax.mean", "relax.sum", "relax.max", "relax.min", "relax.variance")


class KeptPositions:
    """The positions that are left of each tensor of a function.

    Args:
        function: at the widths of the dense network.
        layers: name of the layer whose weight a parameter is, by the parameter.
        written: the groups' channels that each layer writes.
        widths: of each group.
    """

    def __init__(
        self,
        function: relax.Function,
        *,
        layers: Mapping[Any, str],
        written: WrittenChannels,
        widths: Mapping[str, int],
    ) -> None:
        self._layers = dict(layers)
        self._written = written
        self._widths = widths
        self._masks: dict[Any, Masks] = {}
        for binding in bindings_of(function) if written else ():
            self._follow(binding.var, binding.value)

    def bounds(self, call: Any, now: Sequence[int]) -> tuple[list[int], list[int]] | None:
        """Where a slice begins and ends in a tensor of which less is left.

        Args:
            call: the slice.
            now: shape of what is left of its input.

        Returns:
            Begins and ends, along the slice's axes; None where the tensor was not followed, or
            is read backwards.
        """
        masks = self._of(call.args[0])
        if tuple(int(mask.sum()) for mask in masks) != tuple(now):
            return None
        begins = []
        ends = []
        for axis, start, end, step in _slices(call):
            if step < 1:
                return None
            begins.append(int(masks[axis][:start].sum()))
            ends.append(int(masks[axis][:end].sum()))
        return begins, ends

    def target(self, call: Any, now: Sequence[int]) -> tuple[int, ...] | None:
        """The target of a reshape of which less is left; None where it was not followed.

        Args:
            call: the reshape.
            now: shape of what is left of its input.
        """
        masks = self._of(call.args[0])
        if tuple(int(mask.sum()) for mask in masks) != tuple(now):
            return None
        result = _reshaped(masks, dims(call.args[1]))
        if result is None or all(mask.all() for mask in masks):
            return None
        return tuple(int(mask.sum()) for mask in result)

    def _of(self, value: Any) -> Masks:
        known = self._masks.get(value) if isinstance(value, relax.Var) else None
        return known or tuple(np.ones(length, bool) for length in shape_of(value))

    def _follow(self, variable: Any, value: Any) -> None:
        if isinstance(value, relax.Var):
            self._masks[variable] = self._of(value)
            if value in self._layers:
                self._layers[variable] = self._layers[value]
        elif isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op):
            if value.op.name in _MOVES_WEIGHTS and value.args[0] in self._layers:
                self._layers[variable] = self._layers[value.args[0]]
            shape = shape_of(variable)
            rule = _RULES.get(value.op.name, KeptPositions._like_operands)
            masks = rule(self, value, shape)
            if masks is not None and tuple(map(len, masks)) == shape:
                self._masks[variable] = masks

    def _like_operands(self, call: Any, shape: tuple[int, ...]) -> Masks:
        """What most operators leave: an axis as long as an operand's is the operand's."""
        result = [np.ones(length, bool) for length in shape]
        for argument in call.args:
            if not isinstance(argument, relax.Var) or argument not in self._masks:
                continue
            masks = self._masks[argument]
            offset = len(shape) - len(masks)
            for axis, mask in enumerate(masks, start=offset):
                if axis >= 0 and len(mask) == shape[axis] and len(mask) > 1:
                    result[axis] = result[axis] & mask
        return tuple(result)

    def _convolution(self, call: Any, shape: tuple[int, ...]) -> Masks:
        result = [np.ones(length, bool) for length in shape]
        layout = str(call.attrs.out_layout or call.attrs.data_layout)
        axis = layout.index("C")
        result[axis] = self._outputs(call.args[1], shape[axis])
        return tuple(result)

    def _product(self, call: Any, shape: tuple[int, ...]) -> Masks | None:
        data = self._of(call.args[0])
        if len(data) != len(shape):
            return None
        if call.args[1] in self._layers:
            return (*data[:-1], self._outputs(call.args[1], shape[-1]))
        return (*data[:-1], self._of(call.args[1])[-1])

    def _outputs(self, weight: Any, length: int) -> NDArray[np.bool_]:
        """Which outputs of a layer are left."""
        channels = self._written.get(self._layers.get(weight, ""))
        if channels is None or len(channels) != length:
            return np.ones(length, bool)
        kept = [owner is None or owner[1] < self._widths[owner[0]] for owner in channels]
        return np.array(kept, bool)

    def _concatenated(self, call: Any, shape: tuple[int, ...]) -> Masks | None:
        if not isinstance(call.args[0], relax.Tuple):
            return None
        parts = [self._of(field) for field in call.args[0].fields]
        axis = int(call.attrs.axis) % len(shape)
        result: list[Any] = list(parts[0])
        for part in parts[1:]:
            for other, mask in enumerate(part):
                if other != axis:
                    result[other] = result[other] & mask
        result[axis] = np.concatenate([part[axis] for part in parts])
        return tuple(result)

    def _sliced(self, call: Any, shape: tuple[int, ...]) -> Masks:
        result = list(self._of(call.args[0]))
        for axis, start, end, step in _slices(call):
            result[axis] = result[axis][start:end:step]
        return tuple(result)

    def _permuted(self, call: Any, shape: tuple[int, ...]) -> Masks:
        masks = self._of(call.args[0])
        axes = call.attrs.axes
        order = reversed(range(len(shape))) if axes is None else [int(axis) for axis in axes]
        return tuple(masks[axis % len(shape)] for axis in order)

    def _in_other_shape(self, call: Any, shape: tuple[int, ...]) -> Masks | None:
        return _reshaped(self._of(call.args[0]), shape)

    def _reduced(self, call: Any, shape: tuple[int, ...]) -> Masks:
        masks = self._of(call.args[0])
        given = call.attrs.axis
        axes = {int(a) % len(masks) for a in (range(len(masks)) if given is None else given)}
        if bool(call.attrs.keepdims):
            return tuple(
                np.ones(1, bool) if axis in axes else mask for axis, mask in enumerate(masks)
            )
        return tuple(mask for axis, mask in enumerate(masks) if axis not in axes)

    def _padded(self, call: Any, shape: tuple[int, ...]) -> Masks:
        masks = self._of(call.args[0])
        widths = [int(width) for width in call.attrs.pad_width]
        pairs = zip(widths[::2], widths[1::2], strict=True)
        return tuple(
            np.pad(mask, pair, constant_values=True) if min(pair) >= 0 else np.ones(length, bool)
            for mask, pair, length in zip(masks, pairs, shape, strict=True)
        )

    def _blocks_joined(self, call: Any, shape: tuple[int, ...]) -> Masks:
        """A pixel shuffle: the positions of a block of channels become places on the map."""
        masks = self._of(call.args[0])
        result: list[Any] = [np.ones(length, bool) for length in shape]
        result[-3] = masks[-3].reshape(shape[-3], -1).any(1)
        return tuple(result)


def _slices(call: Any) -> list[tuple[int, int, int, int]]:
    """Axis, begin, end and step of each axis that a slice shortens."""
    shape = shape_of(call.args[0])
    axes, begins, ends = (_numbers(argument) for argument in call.args[1:4])
    steps = _numbers(call.args[4]) if len(call.args) > 4 else [1] * len(axes)
    found = []
    for axis, begin, end, step in zip(axes, begins, ends, steps, strict=True):
        axis %= len(shape)
        found.append((axis, *slice(begin, end, step).indices(shape[axis])))
    return found


def _numbers(values: Any) -> list[int]:
    fields = values.fields if isinstance(values, relax.Tuple) else values
    return [int(getattr(field, "value", field)) for field in fields]


def _reshaped(masks: Masks, shape: tuple[int, ...]) -> Masks | None:
    """What is left in another shape; None where it is no longer rectangular."""
    before = tuple(len(mask) for mask in masks)
    if math.prod(before) != math.prod(shape):
        return None
    result: list[Any] = [np.ones(length, bool) for length in shape]
    for inputs, outputs in runs_of_axes(before, shape):
        left: Any = np.ones((), bool)
        for axis in inputs:
            left = np.logical_and.outer(left, masks[axis])
        if left.all():
            continue
        left = left.reshape([shape[axis] for axis in outputs])
        rebuilt: Any = np.ones((), bool)
        for at, axis in enumerate(outputs):
            others = tuple(other for other in range(len(outputs)) if other != at)
            result[axis] = left.any(others)
            rebuilt = np.logical_and.outer(rebuilt, result[axis])
        if not np.array_equal(rebuilt, left):
            return None
    return tuple(result)


_RULES: dict[str, Callable[[KeptPositions, Any, tuple[int, ...]], Masks | None]] = {
    **dict.fromkeys((*_CONVOLUTIONS, *_TRANSPOSED), KeptPositions._convolution),
    **dict.fromkeys(_REDUCTIONS, KeptPositions._reduced),
    **dict.fromkeys(
        ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten"),
        KeptPositions._in_other_shape,
    ),
    "relax.matmul": KeptPositions._product,
    "relax.concat": KeptPositions._concatenated,
    "relax.strided_slice": KeptPositions._sliced,
    "relax.permute_dims": KeptPositions._permuted,
    "relax.nn.pad": KeptPositions._padded,
    "relax.nn.pixel_shuffle": KeptPositions._blocks_joined,
}
