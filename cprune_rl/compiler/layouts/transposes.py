"""Maps brought into another layout between two subgraphs: tasks like any other, tuned and counted.

Called by the tuner, which prices them, and by deployment, which compiles them.
"""

from __future__ import annotations

import tvm
from tvm import te, topi

from cprune_rl.compiler.layouts.variants import LayoutVariants, Transpose
from cprune_rl.core.network import Plan
from cprune_rl.core.workload import OperatorKind, Workload

__all__ = ["transpose_axes", "transpose_module", "transpose_shape", "transpose_workload"]


def transpose_shape(variants: LayoutVariants, plan: Plan, transpose: Transpose) -> tuple[int, ...]:
    """Shape of the map before it is transposed, in the layout opposite to the one wanted."""
    variant = variants.all[0]
    calls = variant.exported.lowered(variant.network.widths(plan)).calls
    if transpose.source < 0:
        shape, layout = next(
            (call.shapes[i], call.layouts[i])
            for call in calls
            for i, read in enumerate(call.reads)
            if isinstance(read, str) and call.layouts[i]
        )
    else:
        shape, layout = calls[transpose.source].shapes[-1], calls[transpose.source].layouts[-1]
    return tuple(shape[layout.index(axis)] for axis in _opposite(transpose.layout))


def transpose_axes(layout: str) -> tuple[int, ...]:
    """The permutation that brings a map from the other layout into this one."""
    source = _opposite(layout)
    return tuple(source.index(axis) for axis in layout)


def transpose_workload(variants: LayoutVariants, plan: Plan, transpose: Transpose) -> Workload:
    """The task of a transpose."""
    shape = transpose_shape(variants, plan, transpose)
    family = f"transpose to {transpose.layout}"
    source = _opposite(transpose.layout)
    channels = shape[source.index("C")]
    return Workload(
        key=f"{family}|{'x'.join(map(str, shape))}",
        family=family,
        channels_in=channels,
        channels_out=channels,
        macs=0,
        operator=OperatorKind(name="other", kernel=1, stride=1, height=shape[source.index("H")]),
    )


def transpose_module(variants: LayoutVariants, plan: Plan, transpose: Transpose) -> tvm.IRModule:
    """The function of a transpose, named `main`."""
    data = te.placeholder(transpose_shape(variants, plan, transpose), name="data")
    function = te.create_prim_func(
        [data, topi.transpose(data, list(transpose_axes(transpose.layout)))]
    )
    return tvm.IRModule(
        {"main": function.with_attr("global_symbol", "main").with_attr("tirx.noalias", True)}
    )


def _opposite(layout: str) -> str:
    return "NHWC" if layout == "NCHW" else "NCHW"
