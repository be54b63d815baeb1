"""One module out of several variants.

Each subgraph's function comes from the variant that is chosen for it, with transposes between. The
functions are those that the tasks were taken from, so what was timed is what runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tvm
from numpy.typing import NDArray
from tvm import relax

from cprune_rl.compiler.export.exported_network import LoweredModule
from cprune_rl.compiler.layouts.transposes import TransposeTask
from cprune_rl.compiler.layouts.variants import IMAGE, LayoutVariants, Transpose, VariantChoice
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
    variants: LayoutVariants,
    plan: Plan,
    choice: VariantChoice,
    values: Mapping[str, NDArray[Any]],
    *,
    gives_maps: bool = False,
) -> ComposedNetwork:
    """Join the chosen variants into one module that runs on an image alone.

    Args:
        variants: the network in every variant.
        plan: what the network keeps.
        choice: the variant of each subgraph.
        values: state_dict of the network at the plan's widths.
        gives_maps: whether the module answers with the map of every subgraph, not the last alone.
    """
    return _Composer(variants, plan, values).run(choice, gives_maps=gives_maps)


class _Composer:
    def __init__(
        self, variants: LayoutVariants, plan: Plan, values: Mapping[str, NDArray[Any]]
    ) -> None:
        self._variants = variants
        self._plan = plan
        self._placed = [variant.placed(plan) for variant in variants.all]
        lowered = {id(p.lowered): p.lowered for placed in self._placed for p in placed}
        self._arguments = {key: module.arguments(values) for key, module in lowered.items()}
        self._workloads = variants.workloads(plan)
        self._builder = relax.BlockBuilder()
        self._maps: dict[Transpose, Any] = {}  # a subgraph's map in a layout -> variable
        # By the identity of a lowered module and the name of a parameter.
        self._constants: dict[tuple[int, str], Any] = {}
        self._functions: dict[str, Any] = {}  # by the key of the task
        self._tasks: dict[str, Workload] = {}

    def run(self, choice: VariantChoice, *, gives_maps: bool) -> ComposedNetwork:
        given = self._placed[0][0].lowered.module["main"].params[0]
        image = relax.Var(given.name, given.ty)
        self._maps[Transpose(IMAGE, "NCHW")] = image
        with self._builder.function("main", [image]):
            with self._builder.dataflow():
                maps = [
                    self._call(subgraph, variant)
                    for subgraph, variant in enumerate(choice.variants)
                ]
                output = relax.Tuple(maps) if gives_maps else maps[-1]
                result = self._builder.emit_output(output)
            self._builder.emit_func_output(result)
        return ComposedNetwork(self._builder.finalize(), self._tasks)

    def _call(self, subgraph: int, variant: int) -> Any:
        placed = self._placed[variant][subgraph]
        lowered = placed.lowered
        call = placed.call
        args = [
            self._read(lowered, read, layout)
            for read, layout in zip(call.reads, call.layouts, strict=False)
        ]
        workload = self._workloads[subgraph][variant]
        function = self._function(workload, lowered.module[call.function], call.function)
        result = relax.TensorType(list(call.shapes[-1]), call.dtype)
        output = self._builder.emit(relax.call_tir(function, args, result))
        self._maps[Transpose(subgraph, call.layouts[-1])] = output
        return output

    def _read(self, lowered: LoweredModule, read: int | str, layout: str) -> Any:
        if isinstance(read, str) and not layout:
            key = id(lowered), read
            if key not in self._constants:
                self._constants[key] = relax.const(self._arguments[id(lowered)][read])
            return self._constants[key]
        wanted = Transpose(read if isinstance(read, int) else IMAGE, layout)
        if wanted not in self._maps:
            self._maps[wanted] = self._transposed(wanted)
        return self._maps[wanted]

    def _transposed(self, transpose: Transpose) -> Any:
        task = TransposeTask.from_plan(self._variants, self._plan, transpose)
        source = self._maps[Transpose(transpose.source, task.source)]
        function = self._function(task.workload, task.module()["main"], "transpose")
        result = relax.TensorType(list(task.out_shape), "float32")
        return self._builder.emit(relax.call_tir(function, [source], result))

    def _function(self, workload: Workload, function: Any, hint: str) -> Any:
        """Add the function of a task to the module, once."""
        if workload.key not in self._functions:
            name = f"{hint}_{len(self._functions)}"
            added = self._builder.add_func(function.without_attr("global_symbol"), name)
            self._functions[workload.key] = added
            self._tasks[added.name_hint] = workload
        return self._functions[workload.key]
