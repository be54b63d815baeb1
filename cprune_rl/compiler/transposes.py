"""Maps brought into another layout between two subgraphs: tasks like any other, tuned and counted.

Called by the tuner, which prices them, and by deployment, which compiles them.
"""

from __future__ import annotations

import tvm
from tvm import te, topi

from cprune_rl.compiler.forms import Forms, Transpose
from cprune_rl.table import OperatorKind, Plan, Workload

__all__ = ["transpose_axes", "transpose_module", "transpose_shape", "transpose_workload"]


def transpose_shape(forms: Forms, plan: Plan, transpose: Transpose) -> tuple[int, ...]:
    """Shape of the map before it is transposed, in the layout opposite to the one wanted."""
    form = next(f for f in forms.all if f.layout != transpose.layout)
    calls = form.exported.lowered(form.network.widths(plan)).calls
    if transpose.source < 0:
        return next(call.shapes[i] for call in calls for i, read in enumerate(call.reads) if isinstance(read, str) and call.layouts[i])
    return calls[transpose.source].shapes[-1]


def transpose_axes(layout: str) -> tuple[int, ...]:
    """The permutation that brings a map from the other layout into this one."""
    source = "NHWC" if layout == "NCHW" else "NCHW"
    return tuple(source.index(axis) for axis in layout)


def transpose_workload(forms: Forms, plan: Plan, transpose: Transpose) -> Workload:
    """The task of a transpose."""
    shape = transpose_shape(forms, plan, transpose)
    family = f"transpose to {transpose.layout}"
    source = "NHWC" if transpose.layout == "NCHW" else "NCHW"
    channels = shape[source.index("C")]
    return Workload(f"{family}|{'x'.join(map(str, shape))}", family, channels, channels, 0, OperatorKind("other", 1, 1, shape[source.index("H")]))


def transpose_module(forms: Forms, plan: Plan, transpose: Transpose) -> tvm.IRModule:
    """The function of a transpose, named `main`."""
    data = te.placeholder(transpose_shape(forms, plan, transpose), name="data")
    function = te.create_prim_func([data, topi.transpose(data, list(transpose_axes(transpose.layout)))])
    return tvm.IRModule({"main": function.with_attr("global_symbol", "main").with_attr("tirx.noalias", True)})
