"""What each kind of operator does to the labels of channels.

Operators fall into few kinds: those that move numbers, those that combine numbers place by place,
those that take neighbours on a map together, norms, and layers with weights. Whatever is of no
known kind may look at channels in any way, so that those it reads stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from cprune_rl.pruning.channel_labels import ChannelArray, LabelArray
from cprune_rl.pruning.channel_state import ChannelState
from cprune_rl.pruning.channel_trace import Call, Value
from cprune_rl.pruning.moving_rules import MOVING_RULES
from cprune_rl.pruning.rule_steps import meets_a_constant, mix, spread_channels, varying_axes

__all__ = ["follow"]

# ATen does not mark these, or they read more than numbers
_POINTWISE = frozenset(
    {
        "clone",
        "contiguous",
        "detach",
        "alias",
        "_to_copy",
        "to",
        "lift_fresh",
        "lift",
        "native_dropout",
        "dropout",
        "bernoulli",
        "_prelu_kernel",
        "prelu",
        "hardtanh",
        "hardswish",
        "hardsigmoid",
        "silu",
        "gelu",
        "elu",
        "leaky_relu",
        "softplus",
        "mish",
        "relu",
        "relu6",
        "sigmoid",
        "tanh",
        "clamp",
        "rrelu_with_noise",
        "celu",
        "selu",
        "threshold",
        "log_sigmoid_forward",
        "zeros_like",
        "ones_like",
        "empty_like",
        "full_like",
        "rand_like",
        "randn_like",
        "where",
        "copysign",
    }
)
_REDUCTIONS = frozenset(
    {
        "mean",
        "sum",
        "amax",
        "amin",
        "max",
        "min",
        "prod",
        "var",
        "std",
        "var_mean",
        "std_mean",
        "logsumexp",
        "linalg_vector_norm",
        "norm",
        "any",
        "all",
        "argmax",
        "argmin",
        "nansum",
        "aminmax",
        "median",
    }
)
# they make a tensor from nothing but its shape
_MADE = frozenset(
    {
        "arange",
        "zeros",
        "ones",
        "full",
        "empty",
        "rand",
        "randn",
        "scalar_tensor",
        "new_zeros",
        "new_ones",
        "new_full",
        "new_empty",
        "linspace",
    }
)
_NORMS = re.compile(r"(native_|cudnn_|miopen_|_native_)?batch_norm")
_OVER_MAPS = re.compile(r"(pool|upsample|pad|grid_sampler|interpolate).*?(\d)d")


def follow(state: ChannelState, call: Call) -> None:
    """Gives the results of a call their labels, and joins what it makes go together."""
    if not call.outputs:
        mix(state, call, "reads")
    elif (rule := _rule(call)) is not None:
        rule(state, call)
    else:
        mix(state, call, f"takes together, by {call.name},")


def _rule(call: Call) -> Callable[[ChannelState, Call], None] | None:
    name = call.name
    if name in _RULES:
        return _RULES[name]
    if name in _REDUCTIONS:
        return _reduce
    if _NORMS.search(name):
        return _norm_each_channel
    if _OVER_MAPS.search(name):
        return _over_maps
    if call.is_pointwise or name in _POINTWISE:
        return _pointwise
    return None


def _pointwise(state: ChannelState, call: Call) -> None:
    out = call.outputs[0]
    inputs = _different(call.inputs)
    if any(size > 1 for size in out.shape):
        inputs = [value for value in inputs if any(size > 1 for size in value.shape)]
    if not all(_can_broadcast(value.shape, out.shape) for value in inputs):
        return mix(state, call, f"takes together, by {call.name},")
    varying = varying_axes(state, inputs, out.shape)
    operands = [state.operand(value, out.shape, varying) for value in inputs]
    taking_part = []
    for operand in operands:
        free = {axis for axis in varying if operand.is_free(axis, out.shape[axis])}
        if free and free != varying:
            return mix(state, call, f"combines several axes of channels, by {call.name}:")
        if not free:
            taking_part.append(operand)
    result = ChannelArray.constant(out.shape)
    if taking_part:
        first, *others = (operand.labels for operand in taking_part)
        for other in others:
            state.labels.join(first, other, meets_a_constant(call))
        widest = np.broadcast_arrays(first, *others)[0]
        widened = frozenset.intersection(*(operand.widened for operand in operands))
        result = ChannelArray(state.labels.compressed(widest), out.shape, widened)
    for value in call.outputs:
        state.set(value, result if value.shape == out.shape else None)
    return None


def _different(values: Iterable[Value]) -> list[Value]:
    return list(dict.fromkeys(values))


def _can_broadcast(shape: tuple[int, ...], out: tuple[int, ...]) -> bool:
    pairs = zip(reversed(shape), reversed(out), strict=False)
    return len(shape) <= len(out) and all(length in (1, whole) for length, whole in pairs)


def _reduce(state: ChannelState, call: Call) -> None:
    value = call.inputs[0]
    source = state.of(value)
    axes = _reduced_axes(call, len(value.shape))
    if source.varying and source.varying <= axes:
        return mix(state, call, f"takes together, by {call.name},")
    # over branches that were stacked, each channel by itself
    joined = state.labels.join_along(source.labels, axes, meets_a_constant(call))
    for out in call.outputs:
        labels = joined
        if len(out.shape) != len(value.shape):
            labels = labels.squeeze(tuple(axes))
        state.set(out, ChannelArray(labels, out.shape))
    return None


def _reduced_axes(call: Call, n_axes: int) -> frozenset[int]:
    given = call.args.get("dim")
    if given is None or given == []:
        return frozenset(range(n_axes))
    axes = given if isinstance(given, (list, tuple)) else [given]
    return frozenset(axis % n_axes for axis in axes)


def _softmax(state: ChannelState, call: Call) -> None:
    value = call.inputs[0]
    axis = call.args["dim"] % max(1, len(value.shape))
    source = state.of(value)
    if source.varying == {axis}:
        return mix(state, call, "takes a softmax over")
    labels = state.labels.join_along(source.labels, (axis,), meets_a_constant(call))
    for out in call.outputs:
        state.set(out, ChannelArray(labels, out.shape))
    return None


def _over_maps(state: ChannelState, call: Call) -> None:
    """Takes neighbours on a map together: pooling, resizing, padding by the map's own numbers."""
    match = _OVER_MAPS.search(call.name)
    assert match is not None
    value = call.inputs[0]
    source = state.of(value)
    n_axes = len(value.shape)
    maps = range(n_axes - int(match[2]), n_axes)
    labels = state.labels.join_along(source.labels, maps, meets_a_constant(call))
    for out in call.outputs:
        state.set(out, ChannelArray(state.labels.compressed(labels), out.shape))


def _norm_each_channel(state: ChannelState, call: Call) -> None:
    """A norm that treats each channel by itself."""
    value, *parameters = call.inputs
    labels = state.along(value, 1, meets_a_constant(call))
    for parameter in parameters:
        own = state.along(parameter, 0, meets_a_constant(call))
        state.labels.join(labels, own, meets_a_constant(call))
    state.join_norm(call.module, labels)
    spread_channels(state, call, state.labels.roots(labels))


def _group_norm(state: ChannelState, call: Call) -> None:
    if call.args["group"] == call.args["C"]:
        _norm_each_channel(state, call)
    elif state.of(call.inputs[0]).varying:
        mix(state, call, "takes a norm over")
    else:
        _spread_constant(state, call)


def _layer_norm(state: ChannelState, call: Call) -> None:
    value = call.inputs[0]
    n_axes = len(value.shape)
    normed = range(n_axes - len(call.args["normalized_shape"]), n_axes)
    source = state.of(value)
    if source.varying & set(normed):
        return mix(state, call, "takes a norm over")
    state.set(call.outputs[0], ChannelArray(source.labels, value.shape))
    for out in call.outputs[1:]:
        state.set(out, None)
    return None


def _spread_constant(state: ChannelState, call: Call) -> None:
    for out in call.outputs:
        state.set(out, None)


def _convolution(state: ChannelState, call: Call) -> None:
    layer = state.layer_of(call.args["weight"])
    value = call.args["input"]
    if layer is None:
        state.refuse(call.module)
        return mix(state, call, "computes the weights that read")
    labels = state.along(value, 1, meets_a_constant(call))
    written = state.join_convolution(layer, labels)
    return _give_outputs(state, call, written, axis=1)


def _give_outputs(state: ChannelState, call: Call, written: LabelArray, axis: int) -> None:
    bias = call.args.get("bias", call.args.get("self"))
    if (isinstance(bias, Value) and bias is not call.inputs[0]) or call.name == "addmm":
        state.labels.join(
            written, state.along(bias, -1, meets_a_constant(call)), meets_a_constant(call)
        )
    (out, *_) = call.outputs
    shape = [1] * len(out.shape)
    shape[axis] = -1
    labels = state.labels.compressed(written.reshape(shape))
    state.set(out, ChannelArray(labels, out.shape))


def _linear(state: ChannelState, call: Call) -> None:
    """A product with a linear layer's weights: `addmm`, `mm` with them transposed, or `linear`."""
    names = {"addmm": ("mat1", "mat2"), "mm": ("self", "mat2"), "matmul": ("self", "other")}
    data, weight = (call.args[name] for name in names.get(call.name, ("input", "weight")))
    layer = state.layer_of(weight, is_transposed=call.name != "linear")
    if layer is None:
        state.refuse(call.module)
        return mix(state, call, "multiplies")
    written = state.join_linear(layer, state.along(data, -1, meets_a_constant(call)))
    return _give_outputs(state, call, written, axis=-1)


def _halves(state: ChannelState, call: Call) -> None:
    """A gated linear unit: the first half times a gate from the second."""
    value = call.inputs[0]
    out = call.outputs[0]
    source = state.of(value)
    axis = call.args["dim"] % len(value.shape)
    labels = source.labels
    if axis in source.varying:
        first, second = np.split(labels, 2, axis)
        state.labels.join(first, second, meets_a_constant(call))
        labels = first
    state.set(out, ChannelArray(state.labels.compressed(labels), out.shape))


_RULES: Mapping[str, Callable[[ChannelState, Call], Any]] = {
    **MOVING_RULES,
    **dict.fromkeys(("_softmax", "_log_softmax", "softmax"), _softmax),
    **dict.fromkeys(("addmm", "mm", "linear", "matmul"), _linear),
    **dict.fromkeys(_MADE, _spread_constant),
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
    "convolution": _convolution,
    "glu": _halves,
}
