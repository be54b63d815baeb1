"""One module out of several variants:

each subgraph's function from the variant chosen for it, transposes between.

The functions are those that the tasks were taken from, so what was timed is what runs. Called by
deployment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tvm
from numpy.typing import NDArray
from tvm import relax

from cprune_rl.compiler.layouts.transposes import (
    transpose_axes,
    transpose_module,
    transpose_shape,
    transpose_workload,
)
from cprune_rl.compiler.layouts.variants import LayoutVariants, Transpose, VariantChoice
from cprune_rl.core.network import Plan
from cprune_rl.core.workload import Workload

__all__ = ["ComposedNetwork", "compose"]


@dataclass(frozen=True)
class ComposedNetwork:
    """A network in its chosen variants, weights bound, before any schedule.

    Attributes:
        module: `main` and the functions it calls.
        tasks: the task of each function, by its name.
    """

    module: tvm.IRModule
    tasks: dict[str, Workload]


def compose(
    variants: LayoutVariants, plan: Plan, choice: VariantChoice, values: Mapping[str, NDArray[Any]]
) -> ComposedNetwork:
    """Joins the chosen variants into one module that runs on an image alone.

    Args:
        variants: the network in every variant.
        plan: what the network keeps.
        choice: the variant of each subgraph.
        values: state_dict of the folded network at the plan's widths.
    """
    return _Composer(variants, plan, choice, values).run()


class _Composer:
    def __init__(
        self,
        variants: LayoutVariants,
        plan: Plan,
        choice: VariantChoice,
        values: Mapping[str, NDArray[Any]],
    ) -> None:
        self._variants, self._plan, self._choice = variants, plan, choice
        self._widths = variants.network.widths(plan)
        schemes = variants.network.schemes_by_layer(plan)
        self._lowered = [
            variant.exported.lowered(self._widths, schemes) for variant in variants.all
        ]
        self._arguments = [
            variant.exported.arguments(self._widths, values, schemes) for variant in variants.all
        ]
        self._workloads = variants.workloads(plan)
        self._builder = relax.BlockBuilder()
        self._made: dict[tuple[int, str], Any] = {}  # (subgraph, layout) -> variable
        self._outputs: list[Any] = []
        self._constants: dict[tuple[int, str], Any] = {}
        self._tasks: dict[str, Workload] = {}
        self._functions: dict[str, Any] = {}

    def run(self) -> ComposedNetwork:
        plain = self._lowered[0].module["main"].params[0]
        image = relax.Var(plain.name, plain.ty)
        self._made[-1, "NCHW"] = image
        with self._builder.function("main", [image]):
            with self._builder.dataflow():
                for at, variant in enumerate(self._choice.variants):
                    self._outputs.append(self._call(at, variant))
                result = self._builder.emit_output(self._outputs[-1])
            self._builder.emit_func_output(result)
        return ComposedNetwork(self._builder.finalize(), self._tasks)

    def _call(self, at: int, variant: int) -> Any:
        call = self._lowered[variant].calls[at]
        args = [
            self._read(variant, read, layout)
            for read, layout in zip(call.reads, call.layouts, strict=False)
        ]
        function = self._function(
            self._workloads[at][variant],
            self._lowered[variant].module[call.function],
            call.function,
        )
        made = self._builder.emit(
            relax.call_tir(function, args, relax.TensorType(list(call.shapes[-1]), call.dtype))
        )
        self._made[at, call.layouts[-1]] = made
        return made

    def _read(self, variant: int, read: int | str, layout: str) -> Any:
        if isinstance(read, str) and not layout:
            return self._constants.setdefault(
                (variant, read), relax.const(self._arguments[variant][read])
            )
        source = read if isinstance(read, int) else -1
        if (source, layout) not in self._made:
            self._made[source, layout] = self._transposed(Transpose(source, layout))
        return self._made[source, layout]

    def _transposed(self, transpose: Transpose) -> Any:
        source = "NHWC" if transpose.layout == "NCHW" else "NCHW"
        shape = transpose_shape(self._variants, self._plan, transpose)
        function = self._function(
            transpose_workload(self._variants, self._plan, transpose),
            transpose_module(self._variants, self._plan, transpose)["main"],
            "transpose",
        )
        out = [shape[a] for a in transpose_axes(transpose.layout)]
        return self._builder.emit(
            relax.call_tir(
                function, [self._made[transpose.source, source]], relax.TensorType(out, "float32")
            )
        )

    def _function(self, workload: Workload, function: Any, hint: str) -> Any:
        if workload.key not in self._functions:
            name = f"{hint}_{len(self._functions)}"
            self._functions[workload.key] = self._builder.add_func(
                function.without_attr("global_symbol"), name
            )
            self._tasks[self._functions[workload.key].name_hint] = workload
        return self._functions[workload.key]
