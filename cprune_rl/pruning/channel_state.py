"""What is known of channels while a run is followed: the labels of tensors and of layers' sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from cprune_rl.pruning.channel_labels import ChannelArray, LabelArray, Labels
from cprune_rl.pruning.channel_trace import Call, Trace, Value

__all__ = ["LAYERS", "PARTINGS", "ChannelState", "Side", "Site"]

# they part a tensor along one axis
PARTINGS = frozenset(
    {
        "slice",
        "split",
        "split_with_sizes",
        "unsafe_split",
        "unsafe_split_with_sizes",
        "unsafe_chunk",
        "chunk",
    }
)

LAYERS = (_ConvNd, nn.Linear)  # with channels of their own
_MIN_GROUPS = 3  # of a grouped convolution that may lose some: with one, it would be another layer
_OWN_NORMS = ("weight", "bias", "running_mean", "running_var")


class Side(NamedTuple):
    """One place where a network has channels.

    Attributes:
        kind: `out` or `in` of a layer, `norm`, `tensor` for any other parameter or buffer, or
            `sizes` for those by which a module parts an axis.
        module: name of the module.
        tensor: name in the module, of a `tensor` or of `sizes`.
        axis: of the tensor.
    """

    kind: str
    module: str
    tensor: str = ""
    axis: int = 0


class Site(NamedTuple):
    """One place of a forward that parts an axis of channels.

    Attributes:
        call: position of the call in the run.
        axis: that it parts; -1 where a view does.
    """

    call: int
    axis: int


class ChannelState:
    """Knows the labels of tensors and sides, and what parts axes of channels.

    Args:
        model: the network.
        choices: how each site is to be understood, see `parted` and `follow_one`; the first way
            where it is missing.

    Attributes:
        labels: all of them.
        sides: the labels of each side, in the order of first use.
        marks: labels that a part of a site holds, with the site and the number of the part.
        refused: layers that cannot be cut, with the reason.
        layers_run: the layer that a call runs, by the call's position.
        position: of the call that is followed.
    """

    def __init__(self, model: nn.Module, choices: Mapping[Site, int]) -> None:
        self.labels = Labels()
        self.sides: dict[Side, LabelArray] = {}
        self.marks: list[tuple[LabelArray, Site, int]] = []
        self.refused: dict[str, str] = {}
        self.layers_run: dict[int, str] = {}
        self.position = 0
        self._choices = choices
        self._modules = dict(model.named_modules())
        self._tensors: dict[str, Any] = dict(model.named_parameters())
        persistent = model.state_dict(keep_vars=True).keys()
        self._tensors |= {n: b for n, b in model.named_buffers() if n in persistent}
        self._shared = _shared_weights(model)
        self._values: dict[Value, ChannelArray] = {}
        self._open_axes: dict[str, int] = {}
        self._transposed: dict[Value, Value] = {}
        self._partings: dict[Value, list[Call]] = {}
        self._parted: set[tuple[Value, int]] = set()

    def follow_calls(
        self,
        run: Trace,
        outputs: Sequence[Value],
        follow: Callable[[ChannelState, Call], None],
    ) -> None:
        """Follows a run, call by call.

        Args:
            run: the calls.
            outputs: that count; what they do not depend on is left out.
            follow: gives the results of one call their labels.
        """
        is_needed = run.needed_for(outputs)
        for call, needed in zip(run.calls, is_needed, strict=True):
            if needed and call.name in PARTINGS:
                self._partings.setdefault(call.inputs[0], []).append(call)
        for call, needed in zip(run.calls, is_needed, strict=True):
            if needed:
                follow(self, call)
            self.position += 1

    def of(self, value: Value) -> ChannelArray:
        """The labels of a tensor; of one that is not known they are constant."""
        if value not in self._values:
            own = self._own_labels(value) if value.source else None
            self._values[value] = own or ChannelArray.constant(value.shape)
        array = self._values[value]
        return ChannelArray(self.labels.roots(array.labels), array.shape, array.widened)

    def set(self, value: Value, array: ChannelArray | None) -> None:
        """Gives a result its labels; None for constant ones."""
        self._values[value] = array or ChannelArray.constant(value.shape)

    @staticmethod
    def readable(array: ChannelArray) -> ChannelArray:
        """The same where widened axes are like any others."""
        return ChannelArray(array.labels, array.shape)

    def operand(
        self, value: Value, shape: tuple[int, ...], varying: frozenset[int]
    ) -> ChannelArray:
        """The labels of an operand, aligned to the result's shape.

        A parameter with several long axes gets labels along the one that channels meet.
        """
        if self.is_open_parameter(value):
            offset = len(shape) - len(value.shape)
            met = [axis - offset for axis in varying if axis >= offset]
            met = [axis for axis in met if value.shape[axis] > 1]
            if len(met) == 1 and self._open_axes.setdefault(value.source, met[0]) == met[0]:
                self._values[value] = self._along_axis(value, met[0])
        return self.of(value).aligned(shape)

    def is_open_parameter(self, value: Value) -> bool:
        """Whether a tensor is a parameter whose channels' axis is not decided yet."""
        if value.source not in self._tensors or value in self._values:
            return False
        return sum(length > 1 for length in value.shape) > 1

    def along(self, value: Value, axis: int, reason: str) -> LabelArray:
        """The labels along one axis; what differs along the others is joined, `(length,)`."""
        if self.is_open_parameter(value):
            self.fix_value(value, reason)
        array = self.of(value)
        axis %= len(value.shape)
        others = [other for other in range(len(value.shape)) if other != axis]
        labels = self.labels.join_along(array.labels, others, reason).ravel()
        return np.broadcast_to(labels, (value.shape[axis],))

    def fix_value(self, value: Value, reason: str) -> None:
        """All channels of a tensor stay, and those of the layer whose weight it is."""
        self.labels.fix(self.of(value).labels, reason)
        module, _, _ = value.source.rpartition(".")
        if value.source and isinstance(self._modules.get(module), LAYERS):
            for kind in ("out", "in"):
                self.labels.fix(self.side(kind, module), reason)

    def refuse(self, module: str) -> None:
        """Notes a layer whose weights are no parameter of its own."""
        if isinstance(self._modules.get(module), LAYERS):
            reason = "its weights are computed in each run (by a parametrisation, or shared)"
            self.refused.setdefault(module, reason)

    def note_transposed(self, out: Value, value: Value, order: Sequence[int]) -> None:
        """Notes a matrix of weights whose axes are exchanged."""
        if list(order) == [1, 0]:
            self._transposed[out] = value

    def layer_of(self, weight: Value, is_transposed: bool = False) -> str | None:
        """Name of the layer whose weight a tensor is; None where it is computed or of no layer."""
        if is_transposed:
            weight = self._transposed.get(weight, Value(()))
        name, _, own = weight.source.rpartition(".")
        if own != "weight" or not isinstance(self._modules.get(name), LAYERS):
            return None
        return name

    def side(self, kind: str, layer: str) -> LabelArray:
        """The labels of one side of a layer."""
        side = Side(kind, layer)
        if side not in self.sides:
            self.sides[side] = self.labels.fresh(_n_channels(self._modules[layer], kind))
            if layer in self._shared:
                self.labels.fix(self.sides[side], self._shared[layer])
        return self.sides[side]

    def join_linear(self, layer: str, read: LabelArray) -> LabelArray:
        """Joins what a linear layer reads with its side, and gives what it writes."""
        self.layers_run[self.position] = layer
        self.labels.join(self.side("in", layer), read, f"{layer!r} reads it with constants")
        return self.labels.roots(self.side("out", layer))

    def join_convolution(self, layer: str, read: LabelArray) -> LabelArray:
        """The same of a convolution; in one of groups, a group's channels go together."""
        module: Any = self._modules[layer]
        if module.groups == 1:
            return self.join_linear(layer, read)
        self.layers_run[self.position] = layer
        written = self.side("out", layer)
        tables = (read.reshape(module.groups, -1), written.reshape(module.groups, -1))
        first_read, first_written = (self.labels.join_along(t, (1,), "") for t in tables)
        self.labels.join(first_written, first_read, f"{layer!r} reads constants")
        is_depthwise = module.groups == module.in_channels == module.out_channels
        if module.groups < _MIN_GROUPS:
            reason = (
                f"{layer!r} has {module.groups} groups: with one less it would be another layer"
            )
            self.labels.fix(written, reason)
        elif module.transposed and not is_depthwise:
            self.labels.fix(written, f"{layer!r} is a transposed convolution in groups")
        return self.labels.roots(written)

    def join_norm(self, name: str, labels: LabelArray) -> None:
        """Joins channels with the norm that treats each by itself."""
        if _is_norm(self._modules.get(name)) and Side("norm", name) not in self.sides:
            self.sides[Side("norm", name)] = self.labels.fresh(len(labels))
        if Side("norm", name) in self.sides:
            self.labels.join(self.sides[Side("norm", name)], labels, "")

    def parted(self, value: Value, axis: int) -> ChannelArray:
        """The labels of a tensor of which an axis of channels is parted, by slices or a split.

        Where the module keeps the sizes of the parts, they follow each part. Else there are two
        ways to understand it: parts of one length shrink together, as those of `chunk` do; or the
        places are fixed, so that only what comes after the last of them may shrink.
        """
        if (value, axis) in self._parted:
            return self.of(value)
        self._parted.add((value, axis))
        source = self.of(value)
        calls = [c for c in self._partings[value] if c.args["dim"] % len(value.shape) == axis]
        places, is_regular = _places(calls, axis)
        site = Site(self.position, axis)
        labels = np.moveaxis(source.labels, axis, 0)
        bounds = list(zip([0, *places], [*places, len(labels)], strict=True))
        parts = [labels[start:end] for start, end in bounds]
        if len(parts) > 1 or not is_regular:
            alike = is_regular and len({len(part) for part in parts}) == 1
            sizes = self._kept_sizes(calls)
            if sizes is not None:
                side = self.sides.setdefault(sizes, self.labels.fresh(value.shape[axis]))
                self.labels.join(side, self.along(value, axis, _cut(calls[0])), _cut(calls[0]))
            elif alike and self._choices.get(site, 0) == 0:
                for part in parts[1:]:
                    self.labels.join(parts[0], part, _cut(calls[0]))
            elif is_regular:
                for part in parts[:-1]:
                    self.labels.fix(part, _cut(calls[0]))
            else:
                self.labels.fix(labels, _cut(calls[0]))
            self.marks += [(part, site, number) for number, part in enumerate(parts)]
        return self.of(value)

    def _kept_sizes(self, calls: Sequence[Call]) -> Side | None:
        """The one attribute of a module that has the sizes of a split; None where there is none."""
        if len(calls) != 1 or "split_sizes" not in calls[0].args:
            return None
        sizes = list(calls[0].args["split_sizes"])
        attributes = vars(self._modules[calls[0].module]).items()
        names = [n for n, v in attributes if type(v) in (list, tuple) and list(v) == sizes]
        return Side("sizes", calls[0].module, names[0]) if len(names) == 1 else None

    def follow_one(self, labels: LabelArray, axes: Sequence[int], call: Call) -> LabelArray:
        """Lets one axis follow the channels where a view has parted theirs in several.

        The last is tried first, as in `x.view(n, groups, channels // groups, ...)`.
        """
        site = Site(self.position, -1)
        self.marks.append((labels, site, 0))
        choice = self._choices.get(site, 0)
        if choice < len(axes):
            following = axes[-1 - choice]
            others = [axis for axis in axes if axis != following]
            return self.labels.join_along(labels, others, _cut(call))
        self.labels.fix(labels, _cut(call))
        return labels

    def _own_labels(self, value: Value) -> ChannelArray | None:
        """The labels of a parameter or buffer with one long axis."""
        module, _, name = value.source.rpartition(".")
        tensor = self._tensors.get(value.source)
        long_axes = [axis for axis, length in enumerate(value.shape) if length > 1]
        if tensor is None or not tensor.is_floating_point() or len(long_axes) != 1:
            return None
        owner = self._modules[module]
        if isinstance(owner, LAYERS) and name == "bias":
            return ChannelArray(self.side("out", module), value.shape)
        if isinstance(owner, LAYERS) and name == "weight":
            return None
        if _is_norm(owner) and name in _OWN_NORMS:
            side = Side("norm", module)
            if side not in self.sides:
                self.sides[side] = self.labels.fresh(value.shape[0])
            return ChannelArray(self.sides[side], value.shape)
        return self._along_axis(value, long_axes[0])

    def _along_axis(self, value: Value, axis: int) -> ChannelArray:
        module, _, name = value.source.rpartition(".")
        side = Side("tensor", module, name, axis)
        if side not in self.sides:
            self.sides[side] = self.labels.fresh(value.shape[axis])
        shape = [1] * len(value.shape)
        shape[axis] = -1
        return ChannelArray(self.sides[side].reshape(shape), value.shape)


def _is_norm(module: object) -> bool:
    """Tells a norm that treats each channel by itself."""
    if isinstance(module, nn.GroupNorm):
        return module.num_groups == module.num_channels
    return isinstance(module, _NormBase)


def _n_channels(layer: Any, kind: str) -> int:
    if isinstance(layer, nn.Linear):
        return layer.out_features if kind == "out" else layer.in_features
    return int(layer.out_channels if kind == "out" else layer.in_channels)


def _shared_weights(model: nn.Module) -> dict[str, str]:
    """The layers that share a weight with another one, with the reason to leave them whole."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, LAYERS):
            for parameter in module.parameters(recurse=False):
                owners.setdefault(id(parameter), []).append(name)
    shared = {}
    for names in owners.values():
        for name in names if len(names) > 1 else ():
            others = ", ".join(other for other in names if other != name)
            shared[name] = f"shares its weights with {others}"
    return shared


def _cut(call: Call) -> str:
    where = f"{call.module!r}" if call.module else "the network's own forward"
    return f"{where} parts its channels ({call.name}) at places that do not follow them"


def _places(calls: Sequence[Call], axis: int) -> tuple[list[int], bool]:
    """Where calls part an axis, and whether all count from the front, without steps."""
    places: set[int] = set()
    is_regular = True
    for call in calls:
        length = call.inputs[0].shape[axis]
        if call.name == "slice":
            given = slice(call.args["start"], call.args["end"], call.args["step"])
            start, end, step = given.indices(length)
            places |= {start, end}
            is_regular &= step == 1 and min(given.start or 0, given.stop or 0) >= 0
        elif call.name not in ("select", "unbind"):
            places |= set(np.cumsum([out.shape[axis] for out in call.outputs]).tolist())
        length_places = {place for place in places if 0 < place < length}
        places = length_places
    return sorted(places), is_regular
