"""An exported network as a template:

the same operators at other channel counts, without exporting again.

`torch.export` takes seconds and is done once. `ExportedNetwork.lowered` rebuilds the Relax function
with
each parameter's shape at a plan, infers the other shapes anew, and fuses: about 50 ms for a small
network. What it gives is what deployment compiles, so a task that was timed is the task that runs.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
import tvm
from numpy.typing import NDArray
from torch import nn
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program
from tvm.s_tir.meta_schedule.tune_context import (
    _normalize_mod,
)  # what MetaSchedule itself applies to a task

from cprune_rl.compiler.devices.target import vector_width
from cprune_rl.compiler.export.block_names import rename_reduction_blocks
from cprune_rl.compiler.export.fused_calls import FusedCall, find_calls
from cprune_rl.compiler.export.normalize import fold_batch_norms, simplify_operators
from cprune_rl.compiler.export.rebuild import (
    DerivedParameter,
    RebuiltFunction,
    find_reshape_axes,
    rebuild,
)
from cprune_rl.core.scheme import Scheme
from cprune_rl.core.workload import Extent
from cprune_rl.errors import ModelError, first_line, last_line

__all__ = ["ExportedNetwork", "LoweredModule"]

Schemes = Mapping[str, Scheme]  # of the layers that are pruned by one, by name
_NONE: Schemes = {}


@dataclass(frozen=True)
class LoweredModule:
    """A network at one plan, fused, before any schedule.

    Attributes:
        module: `main` and its primitive functions.
        calls: the subgraphs, in the order of execution.
    """

    module: tvm.IRModule
    calls: tuple[FusedCall, ...]

    def task(self, function: str) -> tvm.IRModule:
        """One function as the tuner wants it: alone, named `main`.

        Its statements are this module's own. Hold the result in a variable while it is scheduled: a
        schedule
        that is the only owner of a function changes it in place, and this module with it.
        """
        return _normalize_mod(self.module[function])


@dataclass
class ExportedNetwork:
    """A network exported once, in one layout.

    Args:
        function: Relax's `main`, parameters as inputs.
        names: state_dict name of each parameter of `function` after the image.
        axes: extents of every parameter's axes; a parameter that is missing keeps its shape.
        target: what primitive functions are legalised for.
        layout: of its maps: "NCHW" as exported, "NHWC" converted.
        winograd: whether convolutions take Winograd's form where they have one; in NHWC only.
    """

    function: relax.Function
    names: tuple[str, ...]
    axes: Mapping[str, tuple[Extent, ...]]
    target: tvm.target.Target
    layout: str = "NCHW"
    winograd: bool = False
    _cache: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._cache = lru_cache(maxsize=128)(self._lower)

    @staticmethod
    def export(
        model: nn.Module,
        example: torch.Tensor,
        axes: Mapping[str, tuple[Extent, ...]],
        target: tvm.target.Target,
    ) -> ExportedNetwork:
        """Folds batch norms and exports.

        Raises:
            ModelError: torch.export or TVM's importer does not take the network.
        """
        folded = fold_batch_norms(model)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of its own deprecated calls
                exported = torch.export.export(folded, (example.contiguous(),))
                module, _ = relax.frontend.detach_params(
                    from_exported_program(exported, keep_params_as_input=True)
                )
        except (
            Exception
        ) as error:  # torch.export and the importer raise whatever the user's network provokes
            raise ModelError(
                f"the network cannot be exported: {type(error).__name__}: {first_line(error)}"
            ) from error
        targets = {
            spec.arg.name: spec.target
            for spec in exported.graph_signature.input_specs
            if spec.target
        }
        names = tuple(targets[p.name] for p in module["main"].params[1:])
        return ExportedNetwork(simplify_operators(module["main"]), names, axes, target)

    def in_nhwc(self) -> ExportedNetwork:
        """The same network with its maps in NHWC, its convolutions packed.

        Raises:
            ModelError: TVM cannot convert it.
        """
        convert = relax.transform.ConvertLayout({"relax.nn.conv2d": ["NHWC", "OHWI"]})
        try:
            function = relax.transform.DeadCodeElimination()(
                convert(tvm.IRModule({"main": self.function}))
            )["main"]
        except (
            Exception
        ) as error:  # the pass raises whatever an operator without a layout rule provokes
            raise ModelError(
                f"the network cannot be converted to NHWC: {type(error).__name__}: {last_line(error)}"
            ) from error
        return ExportedNetwork(function, self.names, self.axes, self.target, "NHWC")

    def with_winograd(self) -> ExportedNetwork:
        """The same network in NHWC with Winograd's form of every convolution that has one."""
        return dataclasses.replace(self, winograd=True)

    def lowered(self, widths: Mapping[str, int], schemes: Schemes = _NONE) -> LoweredModule:
        """The fused module where each group has the given width, and layers are pruned by schemes.

        Raises:
            ModelError: an operator has a shape that does not follow from its inputs.
        """
        return self._at(widths, schemes)[0]

    def arguments(
        self,
        widths: Mapping[str, int],
        values: Mapping[str, NDArray[Any]],
        schemes: Schemes = _NONE,
    ) -> dict[str, NDArray[Any]]:
        """What each parameter of the lowered `main` is for trained weights.

        Args:
            widths: of each group.
            values: state_dict of the folded network at these widths.
            schemes: of the layers that are pruned by one, whose weights are zero where they are
                pruned.

        Raises:
            ModelError: a layer's weights are not pruned by its scheme.
        """
        module, rebuilt = self._at(widths, schemes)
        names = dict(zip((p.name for p in self.function.params[1:]), self.names, strict=True))
        arrays = {}
        for parameter in module.module["main"].params[1:]:
            derived = rebuilt.derived.get(parameter.name)
            value = values[names[derived.source if derived else parameter.name]]
            try:
                arrays[parameter.name] = np.ascontiguousarray(
                    derived.compute(value) if derived else value
                )
            except ValueError as error:
                raise ModelError(
                    f"{names[derived.source if derived else parameter.name]}: {error}"
                ) from error
        return arrays

    def packings(
        self, widths: Mapping[str, int], call: FusedCall, schemes: Schemes = _NONE
    ) -> tuple[DerivedParameter | None, ...]:
        """For each argument of a call how it is computed from the shape that the call states of it;

        None where it is that shape.
        """
        derived = self._at(widths, schemes)[1].derived
        return tuple(
            derived[read]
            if isinstance(read, str) and read in derived and derived[read].is_packed
            else None
            for read in call.reads
        )

    def _at(
        self, widths: Mapping[str, int], schemes: Schemes
    ) -> tuple[LoweredModule, RebuiltFunction]:
        return self._cache(tuple(sorted(widths.items())), tuple(sorted(schemes.items())))  # type: ignore[no-any-return]  # lru_cache forgets what it wraps

    @cached_property
    def _reshape_axes(self) -> Mapping[Any, int]:
        try:
            return find_reshape_axes(self.function, self.names, self.axes)
        except Exception as error:  # TVM raises errors of many kinds
            raise ModelError(
                f"the network's shapes cannot be followed to other channel counts: {last_line(error)}"
            ) from error

    def _lower(
        self, widths: tuple[tuple[str, int], ...], schemes: tuple[tuple[str, Scheme], ...]
    ) -> tuple[LoweredModule, RebuiltFunction]:
        rebuilt = rebuild(
            self.function,
            self.names,
            self.axes,
            dict(widths),
            vector_width(self.target),
            self.winograd,
            self._reshape_axes,
            dict(schemes),
        )
        with self.target:
            module = relax.transform.LegalizeOps(rebuilt.log.legalization(rebuilt.module))(
                rebuilt.module
            )
            grouped = tvm.transform.Sequential(
                [relax.transform.AnnotateTIROpPattern(), relax.transform.FuseOps()]
            )(module)
            fused = rename_reduction_blocks(relax.transform.FuseTIR()(grouped))
        sources = dict(zip((p.name for p in self.function.params[1:]), self.names, strict=True))
        sources |= {name: sources[d.source] for name, d in rebuilt.derived.items()}
        logical = {name: d.logical_shape for name, d in rebuilt.derived.items()}
        return LoweredModule(
            fused, find_calls(fused, grouped, rebuilt.log, sources, logical)
        ), rebuilt
