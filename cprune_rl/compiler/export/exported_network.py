"""An exported network as a template: its operators at other channel counts, without a new export.

`torch.export` takes seconds and is done once. `ExportedNetwork.lowered` emits the Relax function
anew with each parameter's shape at a plan, infers the other shapes, and fuses. This takes about
50 ms for a small network. Deployment compiles what it returns, so a task that was timed is the
task that runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
import tvm
from numpy.typing import NDArray
from torch import nn
from tvm import relax

# What MetaSchedule itself applies to a task.
from tvm.s_tir.meta_schedule.tune_context import _normalize_mod

from cprune_rl.compiler.devices.target import vector_width
from cprune_rl.compiler.export.block_names import rename_reduction_blocks
from cprune_rl.compiler.export.capture import capture_function
from cprune_rl.compiler.export.fused_calls import FusedCall, find_calls
from cprune_rl.compiler.export.parameters import DerivedParameter
from cprune_rl.compiler.export.rebuild import (
    FunctionRebuilder,
    FunctionTemplate,
    find_reshape_axes,
)
from cprune_rl.compiler.export.weight_sources import WeightSource
from cprune_rl.core.scheme import Scheme
from cprune_rl.core.workload import Extent, WrittenChannels
from cprune_rl.errors import ModelError, last_line

__all__ = ["ExportedNetwork", "LoweredModule"]

_N_REMEMBERED = 128  # plans whose modules are kept
_NO_SCHEMES: Mapping[str, Scheme] = {}


@dataclass(frozen=True, kw_only=True)
class LoweredModule:
    """A network at one plan, fused, before any schedule.

    Attributes:
        module: `main` and its primitive functions.
        calls: the subgraphs, in the order of execution.
        names: state_dict name of each parameter of `main`, or of the one that it is computed from.
        sources: of the values of the exported network's parameters, by name.
        derived: parameters of `main` that are computed from those, by name.
    """

    module: tvm.IRModule
    calls: tuple[FusedCall, ...]
    names: Mapping[str, str]
    sources: Mapping[str, WeightSource]
    derived: Mapping[str, DerivedParameter]

    def task(self, call: FusedCall) -> tvm.IRModule:
        """Return a call's function as the tuner wants it: alone, named `main`.

        Its statements are this module's own. Hold the result in a variable while it is scheduled:
        a schedule that is the only owner of a function changes it in place, and this module too.
        """
        return _normalize_mod(self.module[call.function])

    def packings(self, call: FusedCall) -> tuple[DerivedParameter | None, ...]:
        """Tell for each argument of a call how it is computed from the shape that the call states.

        Returns:
            None for an argument that has this shape.
        """
        derived = [self.derived.get(read) if isinstance(read, str) else None for read in call.reads]
        return tuple(d if d is not None and d.is_packed else None for d in derived)

    def arguments(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Compute the parameters of `main` after the image from trained weights.

        Args:
            values: state_dict of the network at the plan's widths. A layer that is pruned by a
                scheme has zeros where it is pruned.

        Raises:
            ModelError: a layer's weights are not pruned by its scheme.
        """
        state = {name: torch.as_tensor(value) for name, value in values.items()}
        arrays = {}
        for parameter in self.module["main"].params[1:]:
            derived = self.derived.get(parameter.name)
            source = self.sources[parameter.name if derived is None else derived.source]
            with torch.no_grad():
                value = source.compute(state).detach().numpy()
            if derived is not None:
                try:
                    value = derived.compute(value)
                except ValueError as error:
                    raise ModelError(f"{source.label}: {error}") from error
            arrays[parameter.name] = np.require(value, requirements="C")
        return arrays


@dataclass(frozen=True, kw_only=True)
class ExportedNetwork:
    """A network exported once, in one layout.

    Attributes:
        template: Relax's `main`, parameters as inputs.
        target: what primitive functions are legalised for.
        layout: of its maps: "NCHW" as exported, "NHWC" converted.
        uses_winograd: whether convolutions are computed by Winograd's filtering where they can be;
            in NHWC only.
    """

    template: FunctionTemplate
    target: tvm.target.Target
    layout: str = "NCHW"
    uses_winograd: bool = False

    @staticmethod
    def export(
        model: nn.Module,
        example: torch.Tensor,
        axes: Mapping[str, tuple[Extent, ...]],
        target: tvm.target.Target,
        written: WrittenChannels | None = None,
    ) -> ExportedNetwork:
        """Fold a network's batch norms and export it.

        Args:
            model: the network; it is left as it was.
            example: an image.
            axes: extents of the parameters' axes; a parameter that is missing keeps its shape.
            target: what primitive functions are legalised for.
            written: the groups' channels that each layer writes; None where nothing is pruned.

        Raises:
            ModelError: torch.export or TVM's importer does not take the network.
        """
        template = replace(capture_function(model, example, axes), written=written or {})
        return ExportedNetwork(template=template, target=target)

    def in_nhwc(self) -> ExportedNetwork:
        """Return the same network with its maps in NHWC and its convolutions packed.

        Raises:
            ModelError: TVM cannot convert it.
        """
        passes = [
            relax.transform.ConvertLayout({"relax.nn.conv2d": ["NHWC", "OHWI"]}),
            relax.transform.DeadCodeElimination(),
        ]
        module = tvm.IRModule({"main": self.template.function})
        try:
            function = tvm.transform.Sequential(passes)(module)["main"]
        except Exception as error:  # an operator without a layout rule raises errors of many kinds
            raise ModelError(
                f"the network cannot be converted to NHWC: "
                f"{type(error).__name__}: {last_line(error)}"
            ) from error
        template = replace(self.template, function=function)
        return ExportedNetwork(template=template, target=self.target, layout="NHWC")

    def with_winograd(self) -> ExportedNetwork:
        """Return the same network with Winograd's filtering wherever it can be."""
        return replace(self, uses_winograd=True)

    def lowered(
        self, widths: Mapping[str, int], schemes: Mapping[str, Scheme] = _NO_SCHEMES
    ) -> LoweredModule:
        """Lower the network to a fused module; the last ones are remembered.

        Args:
            widths: of each group.
            schemes: of the layers that are pruned by one, by name.

        Raises:
            ModelError: an operator has a shape that does not follow from its inputs.
        """
        return self._lowered(tuple(sorted(widths.items())), tuple(sorted(schemes.items())))

    @cached_property
    def _lowered(self) -> Callable[..., LoweredModule]:
        return lru_cache(maxsize=_N_REMEMBERED)(self._lower)

    @cached_property
    def _reshape_axes(self) -> Mapping[Any, int]:
        try:
            return find_reshape_axes(self.template)
        except Exception as error:  # TVM raises errors of many kinds
            raise ModelError(
                f"the network's shapes cannot be followed to other channel counts: "
                f"{last_line(error)}"
            ) from error

    def _lower(
        self, widths: tuple[tuple[str, int], ...], schemes: tuple[tuple[str, Scheme], ...]
    ) -> LoweredModule:
        rebuilder = FunctionRebuilder(
            template=self.template,
            widths=dict(widths),
            lanes=vector_width(self.target),
            uses_winograd=self.uses_winograd,
            schemes=dict(schemes),
            reshape_axes=self._reshape_axes,
        )
        module = rebuilder.run()
        legalize = relax.transform.LegalizeOps(rebuilder.origins.legalization(module))
        group = [legalize, relax.transform.AnnotateTIROpPattern(), relax.transform.FuseOps()]
        with self.target:
            grouped = tvm.transform.Sequential(group)(module)
            fused = rename_reduction_blocks(relax.transform.FuseTIR()(grouped))
        derived = rebuilder.parameters.derived
        sources = {parameter.name: source for parameter, source in self.template.weights()}
        names = {name: source.label for name, source in sources.items()}
        names |= {name: names[d.source] for name, d in derived.items()}
        calls = find_calls(
            fused,
            grouped=grouped,
            origins=rebuilder.origins,
            names=names,
            logical_shapes={name: d.logical_shape for name, d in derived.items()},
        )
        return LoweredModule(
            module=fused, calls=calls, names=names, sources=sources, derived=derived
        )
