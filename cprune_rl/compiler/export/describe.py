"""A network as tasks, each with the layers it came from.

A task's layers are read off the weights that its calls take, and how its shapes depend on the
groups off a few plans. No name is guessed, and no operator needs a rule of ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from cprune_rl.compiler.export.call_extents import (
    CallExtents,
    Extents,
    find_extents,
    operator_family,
)
from cprune_rl.compiler.export.exported_network import ExportedNetwork
from cprune_rl.compiler.export.fused_calls import (
    CONVOLUTIONS,
    TRANSPOSED_CONVOLUTIONS,
    FusedCall,
    Operator,
)
from cprune_rl.compiler.kernels.implementations import BLOCK_SPARSE, SPARSE_WINOGRAD
from cprune_rl.core.network import Group, Network
from cprune_rl.core.scheme import Scheme
from cprune_rl.core.workload import BlockSparse, Extent, OperatorKind, Subgraph, Template
from cprune_rl.errors import ModelError, last_line

__all__ = ["describe_network"]

# Which scheme prunes a layer makes no difference to its subgraph, with one exception: whole kernels
# can have another implementation, Winograd's.
_ANY_SCHEME = Scheme("block", 4, 0.5)
_WHOLE_KERNELS = Scheme("kernel", 4, 0.5)
# The operators that dominate a subgraph: TVM's anchors.
_ANCHORS = (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS, "matmul")


def describe_network(
    name: str,
    exported: ExportedNetwork,
    groups: Sequence[Group],
    unprunable: Sequence[tuple[str, str]] = (),
    with_schemes: bool = True,
) -> Network:
    """Find a network's subgraphs and how each depends on the groups.

    Args:
        name: of the model.
        exported: the network, exported once.
        groups: what can be pruned.
        unprunable: layers left whole, with the reason.
        with_schemes: whether layers may be pruned by schemes.

    Raises:
        ModelError: a shape is not a linear function of the groups' widths, or the network with its
            layers pruned by schemes cannot be lowered.
    """
    dense = {g.name: g.channels for g in groups}
    calls = exported.lowered(dense).calls
    extents = find_extents(name, exported, groups)
    pruned = _pruned_calls(calls, exported, dense) if with_schemes else [()] * len(calls)
    return Network(
        name=name,
        groups=tuple(groups),
        subgraphs=tuple(
            _subgraph(call, axes, groups, others)
            for call, axes, others in zip(calls, extents, pruned, strict=True)
        ),
        unprunable=tuple(unprunable),
    )


def _pruned_calls(
    base: Sequence[FusedCall], exported: ExportedNetwork, dense: Mapping[str, int]
) -> list[tuple[FusedCall, ...]]:
    """Find what each subgraph becomes where its layer is pruned by a scheme.

    Returns:
        For each subgraph nothing where it cannot be pruned so; else what it becomes, then what it
        becomes where the scheme keeps whole kernels, if that is another implementation.
    """
    layers = _prunable_layers(base)
    if not any(layers):
        return [()] * len(base)
    schemes = {layer: _ANY_SCHEME for layer in layers if layer}
    by_blocks = by_kernels = _lowered_with_schemes(base, exported, dense, schemes)
    schemes = {
        layer: _WHOLE_KERNELS
        for layer, call in zip(layers, base, strict=True)
        if layer and _anchor(call).shapes[1][2:] == (3, 3)
    }
    if exported.uses_winograd and schemes:
        by_kernels = _lowered_with_schemes(base, exported, dense, schemes)
    pruned: list[tuple[FusedCall, ...]] = []
    for layer, of_blocks, of_kernels in zip(layers, by_blocks, by_kernels, strict=True):
        if layer is None or _anchor(of_blocks).implementation != BLOCK_SPARSE:
            pruned.append(())
        elif _anchor(of_kernels).implementation == SPARSE_WINOGRAD:
            pruned.append((of_blocks, of_kernels))
        else:
            pruned.append((of_blocks,))
    return pruned


def _prunable_layers(calls: Sequence[FusedCall]) -> list[str | None]:
    """Find the layer of each subgraph that a scheme can prune; None where there is none."""
    layers = [_prunable_layer(call) for call in calls]
    # A layer that is called twice would be pruned twice.
    return [layer if layers.count(layer) == 1 else None for layer in layers]


def _lowered_with_schemes(
    base: Sequence[FusedCall],
    exported: ExportedNetwork,
    dense: Mapping[str, int],
    schemes: Mapping[str, Scheme],
) -> Sequence[FusedCall]:
    """Return the subgraphs where layers are pruned by schemes.

    Raises:
        ModelError: they are others than without.
    """
    try:
        calls = exported.lowered(dense, schemes).calls
    except ModelError:
        raise
    except Exception as error:  # TVM raises errors of many kinds
        raise ModelError(
            f"with its layers pruned in blocks it cannot be lowered: {last_line(error)}"
        ) from error
    if [_operator_names(c) for c in calls] != [_operator_names(c) for c in base]:
        raise ModelError("with its layers pruned in blocks it fuses other operators")
    return calls


def _prunable_layer(call: FusedCall) -> str | None:
    """Find the layer of a subgraph that a scheme can prune.

    It is a convolution without groups, or a fully connected layer over rows. One that reads the
    image stays dense.
    """
    anchor = _anchor(call)
    is_convolution = anchor.name == "nn.conv2d" and anchor.n_channel_groups == 1
    is_dense = anchor.name == "matmul" and len(anchor.shapes[0]) == 2
    if not (is_convolution or is_dense):
        return None
    data, weights = (_argument_of(operand) for operand in anchor.operands[:2])
    reads_image = data is not None and isinstance(call.reads[data], str)
    name = "" if weights is None else call.weights.get(weights, "")
    return name.removesuffix(".weight") if name.endswith(".weight") and not reads_image else None


def _argument_of(operand: str) -> int | None:
    """Return the position of the subgraph's argument that an operand is; None of a result."""
    return int(operand[1:]) if operand.startswith("a") else None


def _operator_names(call: FusedCall) -> list[str]:
    return [operator.name for operator in call.operators]


def _anchor(call: FusedCall) -> Operator:
    """Return the operator that dominates a subgraph."""
    return next((o for o in call.operators if o.name in _ANCHORS), call.operators[0])


def _subgraph(
    call: FusedCall, lengths: CallExtents, groups: Sequence[Group], pruned: Sequence[FusedCall]
) -> Subgraph:
    anchor = _anchor(call)
    axes = _OpenAxes(anchor, lengths.bounds)
    extents = lengths.shapes
    template = axes.template(call, extents)
    block_sparse = None
    if pruned and (layer := _prunable_layer(call)) is not None:
        of_blocks, *of_kernels = (
            axes.template(other, _same_extents(call, extents, other)) for other in pruned
        )
        block_sparse = BlockSparse(
            layer=layer,
            template=of_blocks,
            entries=math.prod(anchor.shapes[1][2:]),
            of_kernels=of_kernels[0] if of_kernels else None,
        )
    owners = dict.fromkeys(p.rpartition(".")[0] for p in call.parameters)
    layers = tuple(owner for owner in owners if owner)
    data = _argument_of(anchor.operands[0])
    return Subgraph(
        name=layers[0] if layers else call.operators[0].name,
        layers=layers,
        template=template,
        extents=tuple(axes.extents),
        channels_in=_channels(call, extents, -1 if data is None else data),
        channels_out=_channels_out(call, extents),
        writes=tuple(g.name for g in groups if set(g.layers) & set(layers)),
        block_sparse=block_sparse,
    )


class _OpenAxes:
    """The axes of a subgraph whose lengths depend on groups, numbered as its templates have them.

    Args:
        anchor: the subgraph's dominating operator.
        bounds: where its slices begin and end.

    Attributes:
        extents: of the axes, in the order of their numbers.
    """

    def __init__(self, anchor: Operator, bounds: Extents) -> None:
        self._anchor = anchor
        self._bounds = bounds
        self.extents: list[Extent] = []

    def template(self, call: FusedCall, extents: Sequence[tuple[Extent, ...]]) -> Template:
        """Write a call with its open lengths left open."""
        shapes = ",".join("x".join(self._spelled(e) for e in axes) for axes in extents)
        bounds = [",".join(self._spelled(e) for e in numbers) for numbers in self._bounds]
        family = operator_family(call)
        escaped = family.replace("{", "{{").replace("}", "}}")
        kernel = ""
        if self._anchor.name == "nn.conv2d":
            kernel = f"|kernel={self._anchor.shapes[1][2:]}"
        return Template(
            text="|".join([escaped, shapes, *(f"slice={text}" for text in bounds)]),
            family=family + kernel,
            operator=_kind(self._anchor),
            macs=_unit_macs(self._anchor),
        )

    def _spelled(self, extent: Extent) -> str:
        if not extent.terms:
            return str(extent.constant)
        if extent not in self.extents:
            self.extents.append(extent)
        return f"{{{self.extents.index(extent)}}}"


def _kind(operator: Operator) -> OperatorKind:
    height, _ = _map_size(operator)
    if operator.name in (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS):
        return OperatorKind(
            name="depthwise" if operator.n_channel_groups > 1 else "conv2d",
            kernel=operator.shapes[1][2],
            stride=operator.stride,
            height=height,
        )
    name = "dense" if operator.name == "matmul" else "other"
    return OperatorKind(name=name, kernel=1, stride=1, height=height)


def _map_size(operator: Operator) -> tuple[int, int]:
    """Return height and width of the output map; 1 and 1 for a vector."""
    out = operator.out_shape
    if len(out) != 4:
        return 1, 1
    layout = operator.out_layout or "NCHW"
    return out[layout.index("H")], out[layout.index("W")]


def _n_positions(shape: Sequence[int], layout: str) -> int:
    """Return the positions of a map, of any number of axes."""
    n_channels = shape[layout.index("C") if layout else 1]
    return math.prod(shape) // n_channels


def _unit_macs(operator: Operator) -> int:
    """Return the multiply-accumulates for one input and one output channel.

    Of a convolution with groups they are those for one output channel.
    """
    if operator.name in CONVOLUTIONS:
        _, n_in_of_group, *kernel = operator.shapes[1]
        area = math.prod(kernel) * _n_positions(operator.out_shape, operator.out_layout)
        return area * n_in_of_group if operator.n_channel_groups > 1 else area
    if operator.name in TRANSPOSED_CONVOLUTIONS:
        # Each position of the map that is read meets the whole kernel.
        n_in, _, *kernel = operator.shapes[1]
        area = math.prod(kernel) * _n_positions(operator.shapes[0], operator.layouts[0])
        n_groups = operator.n_channel_groups
        return area * n_in // n_groups if n_groups > 1 else area
    if operator.name == "matmul":
        return math.prod(operator.out_shape[:-1])
    return 0


def _same_extents(call: FusedCall, extents: Extents, other: FusedCall) -> list[tuple[Extent, ...]]:
    """Return the extents of another implementation's arguments and result.

    Weights are known by their names, maps by their order.
    """
    of_weights = {name: extents[at] for at, name in call.weights.items()}
    maps = (extents[at] for at in range(len(call.reads)) if at not in call.weights)
    of_other = [
        of_weights[other.weights[at]] if at in other.weights else next(maps)
        for at in range(len(other.reads))
    ]
    return [*of_other, extents[-1]]


def _channels_out(call: FusedCall, extents: Extents) -> Extent:
    """Return the channels that the dominating operator writes.

    The subgraph's result may have others: one map of weights can be multiplied with many.
    """
    anchor = _anchor(call)
    weights = _argument_of(anchor.operands[1]) if anchor.name in CONVOLUTIONS else None
    return _channels(call, extents, -1) if weights is None else extents[weights][0]


def _channels(call: FusedCall, extents: Extents, at: int) -> Extent:
    """Return the extent of the channels of an argument, or of the result, -1."""
    axes = extents[at]
    if _anchor(call).name == "matmul" or len(axes) < 2:
        return axes[-1]
    layout = call.layouts[at]
    return axes[layout.index("C") if layout else 1]
