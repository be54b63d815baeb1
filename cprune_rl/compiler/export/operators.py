"""Operators of torch that TVM's importer lacks, or imports in a way that cannot be followed."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch.nn import functional
from tvm import relax

from cprune_rl.compiler.export.program_editor import ProgramEditor

__all__ = ["IMPORTERS", "decompositions", "replace_operators"]

_aten = torch.ops.aten
_MOST_SLICES = 64  # that an index by constants becomes


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Give torch's decompositions, with those of this project for some operators.

    - Padding by what is on the map becomes slices that are joined. torch reads such maps by
      computed indices.
    - A norm of each image becomes arithmetic where the importer lacks it: for each channel, since
      torch makes them a part of the batch, and a group of each would be too many once pruned; and
      for groups of channels without a scale.
    - A shuffle of channels becomes two changes of shape.
    - Bicubic maps stay as they are: torch reads them by computed indices.
    """
    table = dict(torch.export.default_decompositions())
    del table[_aten.upsample_bicubic2d.vec]
    table[_aten.pad.default] = _pad
    for mode, dims in (("reflection", (1, 2, 3)), ("replication", (1, 2, 3))):
        for n_axes in dims:
            padding = getattr(_aten, f"{mode}_pad{n_axes}d").default
            table[padding] = _pad_reflected if mode == "reflection" else _pad_replicated
    table[_aten.instance_norm.default] = _instance_norm
    table[_aten.group_norm.default] = _group_norm
    table[_aten.channel_shuffle.default] = _channel_shuffle
    table[_aten.native_channel_shuffle.default] = _channel_shuffle
    return table


def _pad(
    x: torch.Tensor, padding: Sequence[int], mode: str = "constant", value: float | None = None
) -> torch.Tensor:
    if mode == "constant":
        padded: torch.Tensor = _aten.constant_pad_nd.default(x, padding, value or 0.0)
        return padded
    return _pad_with(x, padding, mode)


def _pad_reflected(x: torch.Tensor, padding: Sequence[int]) -> torch.Tensor:
    return _pad_with(x, padding, "reflect")


def _pad_replicated(x: torch.Tensor, padding: Sequence[int]) -> torch.Tensor:
    return _pad_with(x, padding, "replicate")


def _pad_with(x: torch.Tensor, padding: Sequence[int], mode: str) -> torch.Tensor:
    """Pad by the map's own values, an axis at a time; `padding` begins with the last axis."""
    for at in range(0, len(padding), 2):
        x = _pad_axis(x, x.ndim - 1 - at // 2, padding[at : at + 2], mode)
    return x


def _pad_axis(x: torch.Tensor, axis: int, padding: Sequence[int], mode: str) -> torch.Tensor:
    before, after = padding
    length = x.shape[axis]
    starts: Sequence[int]
    ends: Sequence[int]
    if mode == "circular":
        starts = range(length - before, length)
        ends = range(after)
    elif mode == "reflect":
        starts = range(before, 0, -1)
        ends = range(length - 2, length - 2 - after, -1)
    else:
        starts = [0] * before
        ends = [length - 1] * after
    # A negative padding cuts.
    middle = x.narrow(axis, max(0, -before), length + min(0, before) + min(0, after))
    parts = [x.narrow(axis, start, 1) for start in starts]
    parts.append(middle)
    parts += [x.narrow(axis, end, 1) for end in ends]
    return middle if len(parts) == 1 else torch.cat(parts, axis)


def _instance_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    *settings: Any,
) -> torch.Tensor:
    running_mean, running_var, uses_input, _, eps, _ = settings
    if not uses_input:
        return functional.batch_norm(x, running_mean, running_var, weight, bias, False, 0.0, eps)
    return _scaled(_normalised(x, list(range(2, x.ndim)), eps), weight, bias)


def _group_norm(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> torch.Tensor:
    n_images, n_channels, *size = x.shape
    if num_groups == n_channels:  # the number of groups follows the channels
        return _scaled(_normalised(x, list(range(2, x.ndim)), eps), weight, bias)
    if weight is not None and bias is not None:
        n_values = math.prod(size)
        native = _aten.native_group_norm.default
        done = native(x, weight, bias, n_images, n_channels, n_values, num_groups, eps)
        normalised: torch.Tensor = done[0]
        return normalised
    grouped = x.reshape(n_images, num_groups, -1)
    return _scaled(_normalised(grouped, [2], eps).reshape(x.shape), weight, bias)


def _normalised(x: torch.Tensor, axes: list[int], eps: float) -> torch.Tensor:
    centred = x - x.mean(axes, keepdim=True)
    variance = (centred * centred).mean(axes, keepdim=True)
    return centred * torch.rsqrt(variance + eps)


def _scaled(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None
) -> torch.Tensor:
    shape = [1, -1, *(1 for _ in x.shape[2:])]
    if weight is not None:
        x = x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


def _channel_shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    n_images, n_channels, *size = x.shape
    apart = x.reshape(n_images, groups, n_channels // groups, *size)
    return apart.transpose(1, 2).reshape(n_images, n_channels, *size)


def replace_operators(editor: ProgramEditor) -> None:
    """Replace operators of a decomposed program by others that TVM's importer takes.

    - An index by constants becomes slices: it would be an argument of a task, and be timed with
      any numbers.
    - A maximum whose position nobody reads becomes a plain maximum, not a sort.
    - Pooling to one value by the maximum likewise.
    """
    for node in list(editor.graph.nodes):
        if node.op != "call_function":
            continue
        with editor.graph.inserting_before(node):
            if node.target in (_aten.index.Tensor, _aten.index_select.default):
                _replace_index(editor, node)
            elif node.target in _BY_VALUE and not _reads_position(node):
                _replace_first_result(node, _BY_VALUE[node.target](editor, node))


def _replace_index(editor: ProgramEditor, node: Any) -> None:
    data = node.args[0]
    if node.target is _aten.index_select.default:
        axis, index = node.args[1:3]
    else:
        given = [(at, index) for at, index in enumerate(node.args[1]) if index is not None]
        if len(given) != 1:
            return
        ((axis, index),) = given
    source = editor.source(index)
    if source is None or source.is_prunable:
        return
    value = editor.value(source)
    if value.ndim != 1 or value.dtype is not torch.int64:
        return
    runs = _runs([position % data.meta["val"].shape[axis] for position in value.tolist()])
    if len(runs) > _MOST_SLICES:
        return
    slices = [editor.call(_aten.slice.Tensor, data, axis, *run) for run in runs]
    node.replace_all_uses_with(
        slices[0] if len(slices) == 1 else editor.call(_aten.cat.default, slices, axis)
    )


def _runs(positions: Sequence[int]) -> list[tuple[int, int]]:
    """Part positions into ranges, each from its first to after its last."""
    runs: list[tuple[int, int]] = []
    for position in positions:
        if runs and runs[-1][1] == position:
            runs[-1] = (runs[-1][0], position + 1)
        else:
            runs.append((position, position + 1))
    return runs


def _largest(editor: ProgramEditor, node: Any) -> fx.Node:
    data, axis, *rest = node.args
    keeps_axis = rest[0] if rest else node.kwargs.get("keepdim", False)
    reduce = _aten.amax.default if node.target is _aten.max.dim else _aten.amin.default
    return editor.call(reduce, data, [axis], keeps_axis)


def _pooled(editor: ProgramEditor, node: Any) -> fx.Node | None:
    """Give a maximum over windows of one size; None where the windows differ."""
    data, target = node.args
    size = data.meta["val"].shape[2:]
    if any(length % wanted for length, wanted in zip(size, target, strict=True)):
        return None
    if all(wanted == 1 for wanted in target):
        axes = list(range(2, 2 + len(size)))
        return editor.call(_aten.amax.default, data, axes, True)
    window = [length // wanted for length, wanted in zip(size, target, strict=True)]
    return editor.call(_aten.max_pool2d.default, data, window, window)


_BY_VALUE: dict[Any, Callable[[ProgramEditor, fx.Node], fx.Node | None]] = {
    _aten.max.dim: _largest,
    _aten.min.dim: _largest,
    _aten.adaptive_max_pool1d.default: _pooled,
    _aten.adaptive_max_pool2d.default: _pooled,
}


def _reads_position(node: fx.Node) -> bool:
    return any(user.users for user in node.users if user.args[1] != 0)


def _replace_first_result(node: fx.Node, new: fx.Node | None) -> None:
    """Let whoever reads the first of a tuple's values read another node."""
    if new is None:
        return
    for user in list(node.users):
        if user.target is operator.getitem and user.args[1] == 0:
            user.replace_all_uses_with(new)


def _importer(reduce: Callable[..., Any]) -> Callable[[fx.Node, Any], Any]:
    def convert(node: fx.Node, importer: Any) -> Any:
        data, axes, *rest = importer.retrieve_args(node)
        keeps_axes = bool(rest[0]) if rest else False
        return importer.block_builder.emit(reduce(data, list(axes), keeps_axes))

    return convert


IMPORTERS = {"amax.default": _importer(relax.op.max), "amin.default": _importer(relax.op.min)}
"""What the importer makes of operators that it does not know, by their names."""
