"""What operators that move numbers do to the labels of channels: views, slices, concatenations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cprune_rl.core.reshape_runs import runs_of_axes
from cprune_rl.pruning.channel_labels import CONSTANT, ChannelArray, LabelArray
from cprune_rl.pruning.channel_state import PARTINGS, ChannelState
from cprune_rl.pruning.channel_trace import Call, tensors_in
from cprune_rl.pruning.rule_steps import meets_a_constant, mix, spread_channels, varying_axes

__all__ = ["MOVING_RULES"]

_VIEWS = frozenset(
    {
        "view",
        "_unsafe_view",
        "reshape",
        "_reshape_alias",
        "unsqueeze",
        "squeeze",
        "flatten",
        "unflatten",
    }
)


def _view(state: ChannelState, call: Call) -> None:
    source = state.of(call.inputs[0])
    out = call.outputs[0]
    if np.prod(source.shape) != np.prod(out.shape):
        return mix(state, call, "reinterprets")
    labels = _reshaped(state, call, source, out.shape)
    state.set(out, ChannelArray(labels, out.shape))
    return None


def _reshaped(
    state: ChannelState, call: Call, source: ChannelArray, shape: tuple[int, ...]
) -> LabelArray:
    """The labels of a tensor in another shape, run by run of axes that hold the same numbers.

    Where an axis of channels is parted in two, the network computes one of the two lengths. A
    channel there is what has one position along that axis.
    """
    source = state.readable(source)
    spread: list[int] = []
    target = [1] * len(shape)
    parted: list[list[int]] = []
    for inputs, outputs in runs_of_axes(source.shape, shape):
        if source.varying & set(inputs):
            spread += inputs
            parted.append(outputs)
            for axis in outputs:
                target[axis] = shape[axis]
    labels = state.labels.compressed(source.spread(spread).reshape(target))
    for outputs in parted:
        open_axes = [axis for axis in outputs if labels.shape[axis] > 1]
        if len(open_axes) > 1:
            labels = state.follow_one(labels, open_axes, call)
    return labels


def _permute(state: ChannelState, call: Call) -> None:
    value = call.inputs[0]
    n_axes = len(value.shape)
    order = list(range(n_axes))
    if call.name == "permute":
        order = [axis % n_axes for axis in call.args["dims"]]
    elif n_axes > 1:
        names = ("dim0", "dim1") if call.name == "transpose" else ()
        first, second = (call.args[name] % n_axes for name in names) if names else (0, 1)
        order[first], order[second] = second, first
    out = call.outputs[0]
    if state.is_open_parameter(value):
        state.note_transposed(out, value, order)
    state.set(out, state.of(value).permuted(order))


def _expand(state: ChannelState, call: Call) -> None:
    out = call.outputs[0]
    value = call.inputs[0]
    source = state.of(value).aligned(out.shape)
    grown = {axis for axis, length in enumerate(source.shape) if length != out.shape[axis]}
    state.set(out, ChannelArray(source.labels, out.shape, source.widened | grown))


def _concatenate(state: ChannelState, call: Call) -> None:
    out = call.outputs[0]
    n_axes = len(out.shape)
    axis = call.args["dim"] % n_axes
    values = [v for v in tensors_in(call.args["tensors"]) if len(v.shape) == n_axes or v.shape[0]]
    if any(len(value.shape) != n_axes for value in values):
        return mix(state, call, "joins tensors of different kinds:")
    varying = varying_axes(state, values, out.shape)
    parts = [state.operand(value, value.shape, varying - {axis}) for value in values]
    lengths = np.max([part.labels.shape for part in parts], axis=0)
    spread = []
    for part in parts:
        lengths[axis] = part.shape[axis]
        spread.append(np.broadcast_to(part.labels, lengths))
    labels = state.labels.compressed(np.concatenate(spread, axis))
    state.set(out, ChannelArray(labels, out.shape))
    return None


def _stack(state: ChannelState, call: Call) -> None:
    out = call.outputs[0]
    axis = call.args["dim"] % len(out.shape)
    parts = [state.readable(state.of(value)).labels for value in call.inputs]
    parts = [np.expand_dims(part, axis) for part in np.broadcast_arrays(*parts)]
    labels = state.labels.compressed(np.concatenate(parts, axis))
    state.set(out, ChannelArray(labels, out.shape))


def _part(state: ChannelState, call: Call) -> None:
    value = call.inputs[0]
    source = state.of(value)
    axis = call.args["dim"] % len(value.shape)
    if axis in source.varying:
        source = state.parted(value, axis)
    for (start, end, step), out in zip(_bounds(call), call.outputs, strict=True):
        labels = source.labels
        if axis in source.varying:
            index = [slice(None)] * labels.ndim
            index[axis] = slice(start, end, step)
            labels = labels[tuple(index)]
        state.set(out, ChannelArray(state.labels.compressed(labels), out.shape, source.widened))


def _bounds(call: Call) -> list[tuple[int, int, int]]:
    """Where the parts of a call that parts an axis begin and end, with their steps."""
    length = call.inputs[0].shape[call.args["dim"]]
    if call.name == "slice":
        start, end, step = slice(call.args["start"], call.args["end"], call.args["step"]).indices(
            length
        )
        return [(start, max(start, end), step)]
    axis = call.args["dim"] % len(call.inputs[0].shape)
    ends = np.cumsum([out.shape[axis] for out in call.outputs]).tolist()
    return [(start, end, 1) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _select(state: ChannelState, call: Call) -> None:
    """One position of an axis, or every one as a tensor of its own."""
    source = state.of(call.inputs[0])
    axis = call.args["dim"] % len(source.shape)
    reason = _picks(call)
    if axis in source.varying:
        state.labels.fix(source.labels, reason)
    labels = source.labels.take([0], axis)
    for at, out in enumerate(call.outputs):
        if axis in source.varying:
            labels = source.labels.take([at if call.name == "unbind" else call.args["index"]], axis)
        state.set(out, ChannelArray(state.labels.compressed(labels).squeeze(axis), out.shape))


def _picks(call: Call) -> str:
    where = f"{call.module!r}" if call.module else "the network's own forward"
    return f"{where} picks some of its channels by their numbers"


def _index(state: ChannelState, call: Call) -> None:
    """Picks by numbers that are no channels' own, along axes other than the channels'."""
    source = state.of(call.inputs[0])
    out = call.outputs[0]
    if call.name == "index_select":
        given = [None] * (call.args["dim"] % len(source.shape)) + [call.args["index"]]
    else:
        given = call.args["indices"]
    axes = [axis for axis, index in enumerate(given) if index is not None]
    varies = bool(source.varying & set(axes))
    if varies:
        state.labels.fix(source.labels, _picks(call))
    keeps_axes = len(axes) == 1 and len(given[axes[0]].shape) == 1
    if keeps_axes and not varies:
        state.set(out, ChannelArray(source.labels, out.shape))
    else:
        mix(state, call, "picks, by numbers, among")


def _repeat(state: ChannelState, call: Call) -> None:
    out = call.outputs[0]
    value = call.inputs[0]
    source = state.readable(state.of(value).aligned(out.shape))
    times = [whole // length for whole, length in zip(out.shape, source.shape, strict=True)]
    labels = source.labels
    for axis in source.varying:
        labels = np.concatenate([labels] * times[axis], axis)
    state.set(out, ChannelArray(state.labels.compressed(labels), out.shape))


def _roll(state: ChannelState, call: Call) -> None:
    value = call.inputs[0]
    source = state.of(value)
    axes = {axis % len(value.shape) for axis in call.args["dims"] or range(len(value.shape))}
    if call.name == "roll" and source.varying & axes:
        return mix(state, call, "moves")
    labels = np.flip(source.labels, tuple(axes)) if call.name == "flip" else source.labels
    state.set(call.outputs[0], ChannelArray(labels, call.outputs[0].shape))
    return None


def _shuffle(state: ChannelState, call: Call) -> None:
    """Channels as a table of so many rows, read by columns."""
    value = call.inputs[0]
    source = state.of(value)
    n, channels, *maps = value.shape
    rows = call.args["groups"]
    table = (n, rows, channels // rows, *maps)
    labels = _reshaped(state, call, source, table)
    turned = labels.swapaxes(1, 2)
    columns = ChannelArray(turned, (n, channels // rows, rows, *maps))
    state.set(
        call.outputs[0], ChannelArray(_reshaped(state, call, columns, value.shape), value.shape)
    )


def _pixel_shuffle(state: ChannelState, call: Call) -> None:
    square = call.args["upscale_factor"] ** 2
    labels = state.along(call.inputs[0], 1, meets_a_constant(call)).reshape(-1, square)
    joined = state.labels.join_along(labels, (1,), meets_a_constant(call))
    spread_channels(state, call, joined.ravel())


def _pixel_unshuffle(state: ChannelState, call: Call) -> None:
    labels = state.along(call.inputs[0], 1, meets_a_constant(call))
    spread_channels(state, call, np.repeat(labels, call.args["downscale_factor"] ** 2))


def _pad(state: ChannelState, call: Call) -> None:
    """Pads with a constant; new channels of constants are constant themselves."""
    value = call.inputs[0]
    out = call.outputs[0]
    source = state.of(value)
    labels = source.labels
    n_axes = len(value.shape)
    pads = call.args["pad"]
    for at in range(len(pads) // 2):
        axis = n_axes - 1 - at
        before, after = pads[2 * at : 2 * at + 2]
        if axis not in source.varying or not (before or after):
            continue
        if min(before, after) < 0:
            return mix(state, call, "crops")
        widths = [(0, 0)] * n_axes
        widths[axis] = (before, after)
        labels = np.pad(labels, widths, constant_values=CONSTANT)
    state.set(out, ChannelArray(labels, out.shape))
    return None


MOVING_RULES: Mapping[str, Callable[[ChannelState, Call], Any]] = {
    **dict.fromkeys(_VIEWS, _view),
    **dict.fromkeys(PARTINGS, _part),
    **dict.fromkeys(("permute", "transpose", "t", "numpy_T"), _permute),
    **dict.fromkeys(("select", "unbind"), _select),
    **dict.fromkeys(("index", "index_select"), _index),
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), _shuffle),
    **dict.fromkeys(("roll", "flip"), _roll),
    "expand": _expand,
    "cat": _concatenate,
    "stack": _stack,
    "repeat": _repeat,
    "constant_pad_nd": _pad,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
}
"""By the operator's name."""
