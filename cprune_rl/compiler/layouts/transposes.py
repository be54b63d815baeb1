"""Maps brought into another layout between two subgraphs.

Transposes are tasks like any other: tuned, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm import te, topi

from cprune_rl.compiler.export.fused_calls import FusedCall
from cprune_rl.compiler.layouts.variants import IMAGE, LayoutVariants, Transpose
from cprune_rl.core.network import Plan
from cprune_rl.core.workload import OperatorKind, Workload

__all__ = ["TransposeTask"]


@dataclass(frozen=True)
class TransposeTask:
    """The task of a transpose at a plan.

    Attributes:
        shape: of the map before it is transposed.
        source: its layout then, "NCHW" or "NHWC".
        layout: its layout afterwards, the other one.
    """

    shape: tuple[int, ...]
    source: str
    layout: str

    @staticmethod
    def from_plan(variants: LayoutVariants, plan: Plan, transpose: Transpose) -> TransposeTask:
        """Make the task of a transpose that a plan's network needs."""
        # Schemes change no map's shape, and would have to be lowered.
        nchw = variants.all[0]
        calls = nchw.exported.lowered(nchw.network.widths(plan)).calls
        if transpose.source == IMAGE:
            shape, layout = _image_of(calls)
        else:
            call = calls[transpose.source]
            shape, layout = call.shapes[-1], call.layouts[-1]
        source = "NHWC" if transpose.layout == "NCHW" else "NCHW"
        before = tuple(shape[layout.index(axis)] for axis in source)
        return TransposeTask(before, source, transpose.layout)

    @property
    def axes(self) -> tuple[int, ...]:
        """The permutation of the map's axes."""
        return tuple(self.source.index(axis) for axis in self.layout)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The shape of the map afterwards."""
        return tuple(self.shape[axis] for axis in self.axes)

    @property
    def workload(self) -> Workload:
        """The task as tables and cost caches know it."""
        family = f"transpose to {self.layout}"
        channels = self.shape[self.source.index("C")]
        height = self.shape[self.source.index("H")]
        return Workload(
            key=f"{family}|{'x'.join(map(str, self.shape))}",
            family=family,
            channels_in=channels,
            channels_out=channels,
            macs=0,
            operator=OperatorKind(name="other", kernel=1, stride=1, height=height),
        )

    def module(self) -> tvm.IRModule:
        """Return the function, named `main`."""
        data = te.placeholder(self.shape, name="data")
        function = te.create_prim_func([data, topi.transpose(data, list(self.axes))])
        attributes = {"global_symbol": "main", "tirx.noalias": True}
        return tvm.IRModule({"main": function.with_attr(attributes)})


def _image_of(calls: tuple[FusedCall, ...]) -> tuple[tuple[int, ...], str]:
    """Return shape and layout of the image that a network reads."""
    return next(
        (call.shapes[at], call.layouts[at])
        for call in calls
        for at, read in enumerate(call.reads)
        if isinstance(read, str) and call.layouts[at]
    )
