"""Exported Relax functions emitted again, with their parameters at other shapes.

On the way, convolutions in NHWC and layers that are pruned by a scheme are replaced by this
project's own implementations. Their packed weights are parameters that are computed from the
trained ones once, at build time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from tvm import relax

from cprune_rl.compiler.export.fused_calls import (
    OperatorOrigins,
    Origin,
    bindings_of,
    dims,
    shape_of,
)
from cprune_rl.compiler.export.kept_positions import KeptPositions
from cprune_rl.compiler.export.parameters import ParameterTable
from cprune_rl.compiler.export.reshapes import ReshapeAxes, broadcast_target
from cprune_rl.compiler.export.weight_sources import WeightSource
from cprune_rl.compiler.kernels.implementations import (
    Implementation,
    implement_convolution,
    implement_pruned_convolution,
    implement_pruned_dense,
)
from cprune_rl.compiler.kernels.window import Window
from cprune_rl.core.scheme import Scheme
from cprune_rl.core.workload import WrittenChannels
from cprune_rl.errors import ModelError

__all__ = ["FunctionRebuilder", "FunctionTemplate", "find_reshape_axes"]

# Done once at build time where they read weights, not at run time.
_GROUPED = {"relax.nn.conv1d": relax.op.nn.conv1d, "relax.nn.conv2d": relax.op.nn.conv2d}
_DONE_ON_WEIGHTS = {"relax.reshape", "relax.permute_dims"}
_TO_NHWC = (0, 2, 3, 1)


@dataclass(frozen=True, kw_only=True)
class FunctionTemplate:
    """A function whose parameters' shapes follow the groups' widths.

    Attributes:
        function: parameters as inputs, the image first.
        sources: of the parameters after the image: their values and how their shapes depend on
            the groups.
        written: the groups' channels that each layer writes; a layer that is missing writes none.
    """

    function: relax.Function
    sources: tuple[WeightSource, ...]
    written: WrittenChannels = field(default_factory=dict)

    def weights(self) -> list[tuple[Any, WeightSource]]:
        """Return the parameters after the image, with their sources."""
        return list(zip(self.function.params[1:], self.sources, strict=True))

    def kept_positions(self, widths: Mapping[str, int]) -> KeptPositions:
        """Follow what is left of each tensor at some widths of the groups."""
        layers = {
            parameter: source.label.removesuffix(".weight")
            for parameter, source in self.weights()
            if source.label.endswith(".weight")
        }
        return KeptPositions(self.function, layers=layers, written=self.written, widths=widths)


def find_reshape_axes(template: FunctionTemplate) -> dict[Any, int]:
    """Find the axis of each reshape that follows the channel counts.

    With one channel less of each group, hardly more than one axis can have given way. At other
    counts several can, as of `(3, heads, size)` where two heads of three are left.

    Returns:
        Positions of axes, by the variable that a reshape is bound to. It is empty where a group
        nowhere has an axis of its own: each reshape is then judged by the widths that it is given.
    """
    widths: dict[str, int] = {}
    for parameter, source in template.weights():
        for length, extent in zip(shape_of(parameter), source.extents, strict=True):
            if len(extent.terms) == 1:
                ((group, multiplier),) = extent.terms
                widths[group] = max(1, (length - extent.constant) // multiplier - 1)
    extents = [extent for source in template.sources for extent in source.extents]
    if {group for extent in extents for group, _ in extent.terms} - widths.keys():
        return {}
    rebuilder = FunctionRebuilder(template=template, widths=widths)
    rebuilder.run()
    return rebuilder.reshapes.axes


@dataclass
class _ImageInNhwc:
    """The image transposed, but only where something other than a convolution reads it."""

    image: Any
    transposed: Any = None


@dataclass(kw_only=True)
class FunctionRebuilder:
    """Emits a function anew, at other widths.

    Args:
        template: the function.
        widths: of each group.
        lanes: of a vector register.
        uses_winograd: whether Winograd's filtering is taken where it can be.
        schemes: of the layers that are pruned by one, by name.
        reshape_axes: what `find_reshape_axes` returns.

    Attributes:
        parameters: of the new function.
        origins: where its operators came from.
        reshapes: which axis of each reshape followed the widths.
    """

    template: FunctionTemplate
    widths: Mapping[str, int]
    lanes: int = 1
    uses_winograd: bool = False
    schemes: Mapping[str, Scheme] = field(default_factory=dict)
    reshape_axes: Mapping[Any, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parameters = ParameterTable()
        self.origins = OperatorOrigins()
        self.reshapes = ReshapeAxes(self.reshape_axes)
        self._kept = self.template.kept_positions(self.widths)
        self._builder = relax.BlockBuilder()
        self._image = self.parameters.add_image(self.template.function.params[0])
        # What each variable of the function is in the new one.
        self._values: dict[Any, Any] = {self.template.function.params[0]: self._image}
        self._schemes: dict[Any, Scheme] = {}  # of new parameters
        for parameter, source in self.template.weights():
            shape = tuple(extent.at(self.widths) for extent in source.extents)
            weights = self._values[parameter] = self.parameters.add_weights(parameter, shape)
            if (layer := source.label.removesuffix(".weight")) in self.schemes:
                self._schemes[weights] = self.schemes[layer]

    def run(self) -> tvm.IRModule:
        """Return a module with the new function as `main`; to be called once.

        Raises:
            ModelError: an operator's shape does not follow from its inputs.
        """
        function = self.template.function
        with self._builder.function("main"):
            with self._builder.dataflow():
                for binding in bindings_of(function):
                    self._values[binding.var] = self._visit(binding)
                result = _unwrapped(self._argument(function.body.body))
                output = self._builder.emit_output(result)
            self._builder.emit_func_output(output, self.parameters.variables)
        return _without_unread_parameters(self._builder.finalize())

    def _visit(self, binding: Any) -> Any:
        call = binding.value
        if not isinstance(call, relax.Call):
            return self._argument(call)
        if self._is_image_to_nhwc(call):
            return _ImageInNhwc(self._image)
        if (result := self._emit_own(binding.var, call)) is not None:
            return result
        args = [self._argument(a) for a in call.args]
        if call.op.name == "relax.broadcast_to":
            before = shape_of(call.args[0]), dims(call.args[1])
            args[1] = relax.ShapeExpr(broadcast_target(*before, shape_of(args[0])))
        elif call.op.name == "relax.reshape":
            args[1] = relax.ShapeExpr(self._reshape_target(binding.var, call, args[0]))
        elif call.op.name == "relax.strided_slice":
            args[2:4] = self._slice_bounds(call, args)
        if call.op.name in _DONE_ON_WEIGHTS and self.parameters.is_constant(args[0]):
            return self._move_weights(binding.var, call, args)
        rebuilt = self._builder.normalize(_with_arguments(call, args))
        return self._builder.emit(rebuilt, name_hint=binding.var.name)

    def _reshape_target(self, variable: Any, call: Any, data: Any) -> tuple[int, ...]:
        now = shape_of(data)
        target = self._kept.target(call, now)
        if target is None:
            before = shape_of(call.args[0]), dims(call.args[1])
            target = self.reshapes.target(variable, before, now)
        return target

    def _slice_bounds(self, call: Any, args: list[Any]) -> list[Any]:
        """Where a slice begins and ends in what is left of its input.

        Both are counted from the front: an open end is no number that could follow a width.
        """
        now = shape_of(args[0])
        bounds = self._kept.bounds(call, now)
        if bounds is None and now == shape_of(call.args[0]):
            return args[2:4]
        if bounds is None:
            raise ModelError(
                f"a slice of {shape_of(call.args[0])} cannot follow its input to {now}"
            )
        return [relax.Tuple([relax.prim_value(n) for n in numbers]) for numbers in bounds]

    def _is_image_to_nhwc(self, call: Any) -> bool:
        return (
            call.op.name == "relax.permute_dims"
            and self._values.get(call.args[0]) is self._image
            and tuple(int(a) for a in call.attrs.axes) == _TO_NHWC
        )

    def _move_weights(self, variable: Any, call: Any, args: list[Any]) -> Any:
        """Reshape or transpose weights at build time."""
        source = args[0]
        name = f"{source.name}_{variable.name}"
        if call.op.name == "relax.reshape":
            shape = dims(args[1])
            return self.parameters.add_moved(name, source, shape, lambda v: v.reshape(shape))
        axes = tuple(int(a) for a in call.attrs.axes)
        shape = tuple(shape_of(source)[a] for a in axes)
        return self.parameters.add_moved(
            name, source, shape, lambda v: np.ascontiguousarray(v.transpose(axes))
        )

    def _emit_own(self, variable: Any, call: Any) -> Any:
        """Emit a layer by an implementation of this project's; None where TVM's own is taken."""
        if call.op.name not in ("relax.nn.conv2d", "relax.matmul"):
            return None
        argument = self._values.get(call.args[1])
        if not self.parameters.is_constant(argument):
            return None
        weights = self.parameters.source_of(argument)
        scheme = self._schemes.get(weights)
        if call.op.name == "relax.nn.conv2d":
            layer = self._convolution(call, weights, scheme)
        elif scheme is not None and argument is not weights:
            data = self._argument(call.args[0])
            layer = implement_pruned_dense(shape_of(weights), scheme), data, ""
        else:  # a matrix that is not transposed has its outputs last
            layer = None
        if layer is None:
            return None
        implementation, data, layout = layer
        made = self._builder.call_te(
            implementation.compute,
            data,
            *self.parameters.add_packed(weights, implementation),
            primfunc_name_hint=implementation.function,
        )
        origin = Origin(
            name=call.op.name.removeprefix("relax."),
            attrs=call.attrs,
            implementation=implementation.name,
            data_layout=layout,
        )
        self.origins.record(made.args[0].name_hint, origin)
        return self._builder.emit(made, name_hint=variable.name)

    def _convolution(
        self, call: Any, weights: Any, scheme: Scheme | None
    ) -> tuple[Implementation, Any, str] | None:
        """Choose a convolution's implementation, with the map that it reads and its layout."""
        shape = shape_of(weights)
        layout = str(call.attrs.data_layout)
        if scheme is None and layout != "NHWC":
            return None
        is_grouped = int(call.attrs.groups) > 1
        data = self._values[call.args[0]]
        if isinstance(data, _ImageInNhwc) and scheme is None and not is_grouped:
            data, layout = data.image, "NCHW"
        else:
            data = self._argument(call.args[0])
        window = Window.from_relax(call.attrs, shape[2:], layout)
        if scheme is not None:
            implementation = implement_pruned_convolution(
                shape,
                window,
                scheme=scheme,
                map_shape=shape_of(data),
                uses_winograd=self.uses_winograd,
            )
        else:
            implementation = implement_convolution(
                shape,
                window,
                n_channels=shape_of(data)[layout.index("C")],
                is_grouped=is_grouped,
                lanes=self.lanes,
                uses_winograd=self.uses_winograd,
            )
        return implementation, data, layout

    def _argument(self, value: Any) -> Any:
        """Return what a value that an operator reads is in the new function."""
        if isinstance(value, relax.Var):
            new = self._values[value]
            if not isinstance(new, _ImageInNhwc):
                return new
            if new.transposed is None:
                transposed = relax.op.permute_dims(new.image, list(_TO_NHWC))
                new.transposed = self._builder.emit(transposed)
            return new.transposed
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self._argument(f) for f in value.fields])
        if isinstance(value, relax.TupleGetItem):
            whole = self._argument(value.tuple_value)
            if isinstance(whole, relax.Tuple):
                # Taken apart here, what nobody reads of it falls away.
                return whole.fields[value.index]
            return self._builder.emit(relax.TupleGetItem(whole, value.index))
        return value


def _unwrapped(value: Any) -> Any:
    return value.fields[0] if isinstance(value, relax.Tuple) and len(value.fields) == 1 else value


def _without_unread_parameters(module: tvm.IRModule) -> tvm.IRModule:
    """Drop what is not computed for the result, and parameters that nothing reads any more."""
    module = relax.transform.DeadCodeElimination()(module)
    main = module["main"]
    image, *weights = main.params
    read = set(relax.analysis.free_vars(main.body))
    kept = [image, *(p for p in weights if p in read)]
    module.update_func(
        module.get_global_var("main"),
        relax.Function(kept, main.body, main.ret_ty, main.is_pure, main.attrs),
    )
    return module


def _with_arguments(call: Any, args: list[Any]) -> Any:
    """Return the call on new arguments; a grouped convolution keeps its channels per group."""
    attrs = call.attrs
    if call.op.name in _GROUPED and int(attrs.groups) > 1:
        return _GROUPED[call.op.name](
            *args,
            strides=attrs.strides,
            padding=attrs.padding,
            dilation=attrs.dilation,
            groups=shape_of(args[0])[1] // shape_of(args[1])[1],
            data_layout=attrs.data_layout,
            kernel_layout=attrs.kernel_layout,
            out_layout=attrs.out_layout,
            out_dtype=attrs.out_dtype,
        )
    return relax.Call(call.op, args, attrs, call.ty_args)
