"""What rules for several kinds of operators have in common."""

from __future__ import annotations

from collections.abc import Iterable

from cprune_rl.pruning.channel_labels import ChannelArray, LabelArray
from cprune_rl.pruning.channel_state import ChannelState
from cprune_rl.pruning.channel_trace import Call, Value

__all__ = ["meets_a_constant", "mix", "spread_channels", "varying_axes"]


def mix(state: ChannelState, call: Call, does: str) -> None:
    """All channels that are read stay: what becomes of single ones is not known."""
    where = f"{call.module!r}" if call.module else "the network"
    for value in call.inputs:
        state.fix_value(value, f"{where} {does} all of its channels, so that none can go alone")
    for value in call.outputs:
        state.set(value, ChannelArray.constant(value.shape))


def meets_a_constant(call: Call) -> str:
    """Why channels stay that an operator combines with constants."""
    where = f"in {call.module!r}" if call.module else "in the network's own forward"
    return f"is combined ({call.name}, {where}) with numbers that stay as many as they are"


def varying_axes(
    state: ChannelState, values: Iterable[Value], shape: tuple[int, ...]
) -> frozenset[int]:
    """The axes along which the labels of any value differ, once it is broadcast to a shape."""
    axes: frozenset[int] = frozenset()
    for value in values:
        if not state.is_open_parameter(value):
            axes |= state.of(value).aligned(shape).varying
    return axes


def spread_channels(state: ChannelState, call: Call, labels: LabelArray) -> None:
    """Gives results the labels of their channels, which are axis 1."""
    for out in call.outputs:
        if len(out.shape) > 1 and out.shape[1] == len(labels):
            shape = (1, -1, *(1 for _ in out.shape[2:]))
            state.set(out, ChannelArray(state.labels.compressed(labels.reshape(shape)), out.shape))
        else:
            state.set(out, None)
