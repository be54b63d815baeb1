"""Network -> tasks, each with the layers it came from.

Which layers a task has is read off the weights its calls take; how its shapes depend on the groups
is
found by lowering at one channel less of each group and checked at a plan not used for that: no name
is guessed and no operator needs a rule of ours. Called by the job and `envs.problems`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import tvm

from cprune_rl.compiler.export.exported_network import ExportedNetwork
from cprune_rl.compiler.export.fused_calls import FusedCall, Operator
from cprune_rl.compiler.kernels.implementations import BLOCK_SPARSE, SPARSE_WINOGRAD
from cprune_rl.core.network import Group, Network, Plan
from cprune_rl.core.scheme import Scheme
from cprune_rl.core.workload import BlockSparse, Extent, OperatorKind, Subgraph, Template
from cprune_rl.errors import ModelError, last_line

__all__ = ["describe_network", "task_modules"]

_ANY = Scheme(
    "block", 4, 0.5
)  # what a subgraph looks like under a scheme does not depend on which, but that
_WHOLE_KERNELS = Scheme("kernel", 4, 0.5)  # can have another form where there is Winograd's
_ANCHORS = ("nn.conv2d", "nn.conv1d", "nn.conv2d_transpose", "matmul")


def describe_network(
    name: str,
    exported: ExportedNetwork,
    groups: Sequence[Group],
    unprunable: Sequence[tuple[str, str]] = (),
    with_schemes: bool = True,
) -> Network:
    """Finds a network's subgraphs and how each depends on the groups.

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
    base = exported.lowered(dense).calls
    changed = {
        g.name: exported.lowered({**dense, g.name: g.channels - 1}).calls
        for g in groups
        if g.channels > 1
    }
    for calls in changed.values():
        if [_text(c) for c in calls] != [_text(c) for c in base]:
            raise ModelError(
                f"{name}: fusion changes with the channel counts, so its tasks cannot be followed"
            )
    extents = [
        _extents(base[i].shapes, {g: calls[i].shapes for g, calls in changed.items()}, dense)
        for i in range(len(base))
    ]
    block_sparse = _block_sparse_calls(base, exported, dense) if with_schemes else [()] * len(base)
    network = Network(
        name=name,
        groups=tuple(groups),
        subgraphs=tuple(
            _subgraph(c, e, groups, b) for c, e, b in zip(base, extents, block_sparse, strict=True)
        ),
        unprunable=tuple(unprunable),
    )
    _check_linear(network, exported, extents)
    return network


def task_modules(
    network: Network, exported: ExportedNetwork, plan: Plan
) -> dict[str, tvm.IRModule]:
    """The function of each distinct task of a plan, by the workload's key."""
    lowered = exported.lowered(network.widths(plan), network.schemes_by_layer(plan))
    modules: dict[str, tvm.IRModule] = {}
    for workload, call in zip(network.workloads(plan), lowered.calls, strict=True):
        if workload.key not in modules:
            modules[workload.key] = lowered.task(call.function)
    return modules


Shapes = tuple[tuple[int, ...], ...]


def _extents(
    base: Shapes, changed: Mapping[str, Shapes], dense: Mapping[str, int]
) -> tuple[tuple[Extent, ...], ...]:
    """Each axis as a linear function: the slope for a group is what one channel less takes away."""
    result = []
    for tensor, shape in enumerate(base):
        axes = []
        for axis, length in enumerate(shape):
            terms = tuple(
                (g, length - shapes[tensor][axis])
                for g, shapes in changed.items()
                if shapes[tensor][axis] != length
            )
            axes.append(Extent(length - sum(m * dense[g] for g, m in terms), terms))
        result.append(tuple(axes))
    return tuple(result)


def _check_linear(
    network: Network, exported: ExportedNetwork, extents: Sequence[tuple[tuple[Extent, ...], ...]]
) -> None:
    widths = network.widths(network.uniform(0.6))
    for call, tensors in zip(exported.lowered(widths).calls, extents, strict=True):
        if call.shapes != tuple(tuple(e.at(widths) for e in axes) for axes in tensors):
            raise ModelError(
                f"{network.name}: the shapes of {call.function} do not follow the groups' widths linearly"
            )


def _block_sparse_calls(
    base: Sequence[FusedCall], exported: ExportedNetwork, dense: Mapping[str, int]
) -> list[tuple[FusedCall, ...]]:
    """What each subgraph becomes where its layer is pruned by a scheme, then where that keeps whole
    kernels, if that is another form; empty where it cannot be pruned so.
    """
    named = [_prunable_layer(call) for call in base]
    layers = [
        layer if named.count(layer) == 1 else None for layer in named
    ]  # one that is called twice would be pruned twice
    if not any(layers):
        return [()] * len(base)
    calls = _lowered_alike(base, exported, dense, {layer: _ANY for layer in layers if layer})
    found: list[tuple[FusedCall, ...]] = [
        (call,) if layer and _anchor(call).implementation == BLOCK_SPARSE else ()
        for layer, call in zip(layers, calls, strict=True)
    ]
    with_kernels = {
        layer: _WHOLE_KERNELS
        for layer, call in zip(layers, base, strict=True)
        if layer and _anchor(call).shapes[1][2:] == (3, 3)
    }
    if not exported.winograd or not with_kernels:
        return found
    calls = _lowered_alike(base, exported, dense, with_kernels)
    return [
        (*of_blocks, call)
        if of_blocks and _anchor(call).implementation == SPARSE_WINOGRAD
        else of_blocks
        for of_blocks, call in zip(found, calls, strict=True)
    ]


def _lowered_alike(
    base: Sequence[FusedCall],
    exported: ExportedNetwork,
    dense: Mapping[str, int],
    schemes: Mapping[str, Scheme],
) -> Sequence[FusedCall]:
    """The subgraphs where layers are pruned by schemes;

    an error where they are others than without.
    """
    try:
        calls = exported.lowered(dense, schemes).calls
    except ModelError:
        raise
    except Exception as error:  # TVM raises errors of many kinds
        raise ModelError(
            f"with its layers pruned in blocks it cannot be lowered: {last_line(error)}"
        ) from error
    if len(calls) != len(base) or any(
        [o.name for o in a.operators] != [o.name for o in b.operators]
        for a, b in zip(base, calls, strict=True)
    ):
        raise ModelError("with its layers pruned in blocks it fuses other operators")
    return calls


def _prunable_layer(call: FusedCall) -> str | None:
    """The layer of a subgraph that a scheme can prune:

    a convolution without groups, or a fully connected layer over rows; the one that reads the image
    stays dense.
    """
    anchor = _anchor(call)
    if anchor.operands[0].startswith("a") and isinstance(
        call.reads[int(anchor.operands[0][1:])], str
    ):
        return None
    is_able = (anchor.name == "nn.conv2d" and anchor.n_channel_groups == 1) or (
        anchor.name == "matmul" and len(anchor.shapes[0]) == 2
    )
    if not is_able or not anchor.operands[1].startswith("a"):
        return None
    arguments = iter(call.parameters)
    names = [
        next(arguments) if isinstance(read, str) and not layout else ""
        for read, layout in zip(call.reads, call.layouts, strict=False)
    ]
    name = names[int(anchor.operands[1][1:])]
    return name.removesuffix(".weight") if name.endswith(".weight") else None


def _text(call: FusedCall) -> str:
    operators = ";".join(
        f"{o.name}({','.join(o.operands)}){{{o.attributes}}}" for o in call.operators
    )
    return f"{operators}->{call.dtype}"


def _anchor(call: FusedCall) -> Operator:
    return next((o for o in call.operators if o.name in _ANCHORS), call.operators[0])


def _kind(operator: Operator) -> OperatorKind:
    height = _map_lengths(operator)[0]
    if operator.name == "nn.conv2d":
        name = "depthwise" if operator.n_channel_groups > 1 else "conv2d"
        return OperatorKind(
            name=name, kernel=operator.shapes[1][2], stride=operator.stride, height=height
        )
    return OperatorKind(
        name="dense" if operator.name == "matmul" else "other", kernel=1, stride=1, height=height
    )


def _map_lengths(operator: Operator) -> tuple[int, int]:
    """Height and width of the output map; 1 and 1 for a vector."""
    out = operator.out_shape
    if len(out) != 4:
        return 1, 1
    layout = operator.out_layout or "NCHW"
    return out[layout.index("H")], out[layout.index("W")]


def _unit_macs(operator: Operator) -> int:
    """Multiply-accumulates for one input and one output channel."""
    out = operator.out_shape
    if operator.name == "nn.conv2d":
        _, per_group, *kernel = operator.shapes[1]
        height, width = _map_lengths(operator)
        area = kernel[0] * kernel[1] * height * width
        return area * per_group if operator.n_channel_groups > 1 else area
    if operator.name == "matmul":
        rows = 1
        for length in out[:-1]:
            rows *= length
        return rows
    return 0


def _subgraph(
    call: FusedCall,
    extents: tuple[tuple[Extent, ...], ...],
    groups: Sequence[Group],
    block_sparse: Sequence[FusedCall],
) -> Subgraph:
    anchor = _anchor(call)
    open_axes: list[Extent] = []

    def spell(axis: Extent) -> str:
        if not axis.terms:
            return str(axis.constant)
        if axis not in open_axes:
            open_axes.append(axis)
        return f"{{{open_axes.index(axis)}}}"

    kernel = f"|kernel={anchor.shapes[1][2:]}" if anchor.name == "nn.conv2d" else ""

    def template_of(variant: FusedCall, lengths: Sequence[tuple[Extent, ...]]) -> Template:
        shapes = ",".join("x".join(spell(a) for a in axes) for axes in lengths)
        family = _text(variant)
        escaped = family.replace("{", "{{").replace("}", "}}")
        return Template(
            text=f"{escaped}|{shapes}",
            family=family + kernel,
            operator=_kind(anchor),
            macs=_unit_macs(anchor),
        )

    template = template_of(call, extents)
    layer = _prunable_layer(call) if block_sparse else None
    variant = None
    if layer:
        of_blocks, *of_kernels = [
            template_of(form, _same_extents(call, extents, form)) for form in block_sparse
        ]
        variant = BlockSparse(
            layer=layer,
            template=of_blocks,
            entries=math.prod(anchor.shapes[1][2:]),
            of_kernels=of_kernels[0] if of_kernels else None,
        )
    layers = tuple(dict.fromkeys(p.rpartition(".")[0] for p in call.parameters))
    channels_in, channels_out = _channel_axes(anchor, call, extents)
    writes = tuple(g.name for g in groups if set(g.layers) & set(layers))
    return Subgraph(
        name=layers[0] if layers else call.operators[0].name,
        layers=layers,
        template=template,
        extents=tuple(open_axes),
        channels_in=channels_in,
        channels_out=channels_out,
        writes=writes,
        block_sparse=variant,
    )


def _same_extents(
    call: FusedCall, extents: Sequence[tuple[Extent, ...]], other: FusedCall
) -> list[tuple[Extent, ...]]:
    """Extents of another form's arguments and result:

    weights are known by their names, maps by their order.
    """
    of_weights, of_maps = _sorted_arguments(call)
    weights, maps = _sorted_arguments(other)
    found = dict(zip((at for at, _ in maps), (extents[at] for at, _ in of_maps), strict=True))
    by_name = {name: extents[at] for at, name in of_weights}
    found |= {at: by_name[name] for at, name in weights}
    return [*(found[at] for at in range(len(other.reads))), extents[-1]]


def _sorted_arguments(call: FusedCall) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Positions of the weights that a call reads with their names, and of its maps."""
    names = iter(call.parameters)
    weights, maps = [], []
    for at, (read, layout) in enumerate(zip(call.reads, call.layouts, strict=False)):
        if isinstance(read, str) and not layout:
            weights.append((at, next(names)))
        else:
            maps.append((at, ""))
    return weights, maps


def _channel_axes(
    anchor: Operator, call: FusedCall, extents: tuple[tuple[Extent, ...], ...]
) -> tuple[Extent, Extent]:
    """Extents of the input and output channels of the dominating operator."""

    def channels(at: int) -> Extent:
        axes = extents[at]
        if anchor.name == "matmul" or len(axes) < 2:
            return axes[-1]
        return axes[call.layouts[at].index("C") if call.layouts[at] else 1]

    data = anchor.operands[0]
    return channels(int(data[1:]) if data.startswith("a") else -1), channels(-1)
