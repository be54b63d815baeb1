"""Emits an exported Relax function again with its parameters at other shapes.

In NHWC form the convolutions are replaced on the way by those of `packing` or `winograd`, in both
forms layers that are
pruned by a scheme by those of `block_sparse` or `winograd_sparse`. Their weights are one more kind of
derived parameter: computed from the trained
ones once, at build time. Called by `workload`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from cprune_rl.compiler.export.fused_calls import OperatorOrigins, dims, shape_of
from cprune_rl.compiler.kernels.block_sparse import (
    BlockSparseFormat,
    Window,
    block_sparse_conv2d,
    block_sparse_dense,
)
from cprune_rl.compiler.kernels.implementations import (
    BLOCK_SPARSE,
    DEPTHWISE,
    GROUPED,
    PACKED,
    SPARSE_WINOGRAD,
    WINOGRAD,
)
from cprune_rl.compiler.kernels.packed_conv import (
    depthwise_conv2d,
    grouped_conv2d,
    pack,
    pack_depthwise,
    pack_grouped,
    packed_conv2d,
    packed_shape,
)
from cprune_rl.compiler.kernels.winograd import (
    supports_winograd,
    transform_weights,
    transformed_weights_shape,
    winograd_conv2d,
)
from cprune_rl.compiler.kernels.winograd_sparse import (
    pack_kernels,
    packed_kernels_shape,
    sparse_winograd_conv2d,
)
from cprune_rl.core.scheme import PATTERN_KERNEL, Scheme
from cprune_rl.core.workload import Extent
from cprune_rl.errors import ModelError

__all__ = ["DerivedParameter", "RebuiltFunction", "find_reshape_axes", "rebuild"]

_PARAMETER_ONLY = {
    "relax.reshape",
    "relax.permute_dims",
}  # of weights: done once at build time, not at run time
_TO_NHWC = (0, 2, 3, 1)


@dataclass(frozen=True)
class DerivedParameter:
    """A parameter that is computed from another one, at build time.

    Attributes:
        source: name of the parameter it is computed from.
        compute: how.
        logical_shape: what a task's name says of it: its source's shape where it is packed, else
            its own.
        is_packed: whether it is weights of a packed convolution.
        prune: of a layer that is pruned by a scheme, weights for a trial out of any: with so many
            entries as it keeps.
    """

    source: str
    compute: Callable[[NDArray[Any]], NDArray[Any]]
    logical_shape: tuple[int, ...]
    is_packed: bool = False
    prune: Callable[[NDArray[Any]], NDArray[Any]] | None = None


@dataclass(frozen=True)
class RebuiltFunction:
    """A function at other channel counts.

    Attributes:
        module: with `main`.
        derived: parameters that are computed from others, by name.
        log: where the operators came from.
    """

    module: tvm.IRModule
    derived: dict[str, DerivedParameter]
    log: OperatorOrigins


@dataclass
class _Transposed:
    """The image in NHWC: made only where something but a convolution reads it."""

    image: Any
    made: Any = None


def rebuild(
    function: relax.Function,
    names: Sequence[str],
    axes: Mapping[str, tuple[Extent, ...]],
    widths: Mapping[str, int],
    lanes: int,
    winograd: bool = False,
    reshape_axes: Mapping[Any, int] | None = None,
    schemes: Mapping[str, Scheme] | None = None,
) -> RebuiltFunction:
    """Emits a function anew.

    Args:
        function: parameters as inputs, the image first.
        names: state_dict name of each parameter after the image.
        axes: extents of the parameters' axes; one that is missing keeps its shape.
        widths: of each group.
        lanes: of a vector register.
        winograd: take Winograd's form of every convolution that has one.
        reshape_axes: see `find_reshape_axes`.
        schemes: of the layers that are pruned by one, by name.

    Raises:
        ModelError: an operator's shape does not follow from its inputs.
    """
    return _Rebuilder(
        function, names, axes, widths, lanes, winograd, dict(reshape_axes or {}), schemes
    ).run()


def find_reshape_axes(
    function: relax.Function, names: Sequence[str], axes: Mapping[str, tuple[Extent, ...]]
) -> dict[Any, int]:
    """Which axis of each reshape follows the channel counts, by the variable that it is bound to.

    With one channel less of each group a single axis can have given way, or nearly so: at other
    counts several can,
    as of `(3, heads, size)` where two heads of three are left.

    Args:
        function: parameters as inputs, the image first.
        names: state_dict name of each parameter after the image.
        axes: extents of the parameters' axes.
    """
    widths: dict[str, int] = {}
    for parameter, name in zip(function.params[1:], names, strict=True):
        for length, extent in zip(shape_of(parameter), axes.get(name, ()), strict=False):
            if len(extent.terms) == 1:
                (group, multiplier), *_ = extent.terms
                widths[group] = max(1, (length - extent.constant) // multiplier - 1)
    if {
        group for extents in axes.values() for extent in extents for group, _ in extent.terms
    } - widths.keys():
        return {}  # a group that nowhere stands alone: each reshape is judged by what it is given
    probe = _Rebuilder(function, names, axes, widths, 1, False, {})
    probe.run()
    return probe.reshape_axes


class _Rebuilder:
    def __init__(
        self,
        function: relax.Function,
        names: Sequence[str],
        axes: Mapping[str, tuple[Extent, ...]],
        widths: Mapping[str, int],
        lanes: int,
        winograd: bool,
        reshape_axes: dict[Any, int],
        schemes: Mapping[str, Scheme] | None = None,
    ) -> None:
        self._function, self._names, self._axes, self._widths, self._lanes, self._winograd = (
            function,
            names,
            axes,
            widths,
            lanes,
            winograd,
        )
        self.reshape_axes = reshape_axes
        self._schemes = {
            p.name: scheme
            for p, name in zip(function.params[1:], names, strict=True)
            if (scheme := (schemes or {}).get(name.removesuffix(".weight")))
        }
        self._builder = relax.BlockBuilder()
        self._log = OperatorOrigins()
        self._variables: dict[Any, Any] = {}
        self._parameters: list[Any] = []
        self._constant_like: set[Any] = set()
        self._derived: dict[str, DerivedParameter] = {}
        self._image: Any = None

    def run(self) -> RebuiltFunction:
        image, *weights = self._function.params
        self._image = self._add_parameter(image, image, shape_of(image))
        for parameter, name in zip(weights, self._names, strict=True):
            axes = self._axes.get(name)
            shape = tuple(e.at(self._widths) for e in axes) if axes else shape_of(parameter)
            self._constant_like.add(self._add_parameter(parameter, parameter, shape))
        with self._builder.function("main"):
            with self._builder.dataflow():
                for binding in (b for block in self._function.body.blocks for b in block.bindings):
                    self._variables[binding.var] = self._visit(binding)
                result = self._builder.emit_output(
                    _unwrapped(self._argument(self._function.body.body))
                )
            self._builder.emit_func_output(result, self._parameters)
        return RebuiltFunction(
            _without_idle_parameters(self._builder.finalize()), self._derived, self._log
        )

    def _add_parameter(
        self,
        key: Any,
        like: Any,
        shape: Sequence[int],
        name: str | None = None,
        dtype: str | None = None,
    ) -> Any:
        variable = relax.Var(
            name or like.name, relax.TensorType(list(shape), dtype or like.ty.dtype)
        )
        self._parameters.append(variable)
        self._variables[key] = variable
        return variable

    def _visit(self, binding: Any) -> Any:
        value = binding.value
        if not isinstance(value, relax.Call):
            return self._argument(value)
        if (
            value.op.name == "relax.permute_dims"
            and self._variables.get(value.args[0]) is self._image
            and tuple(int(a) for a in value.attrs.axes) == _TO_NHWC
        ):
            return _Transposed(self._image)
        if self._schemes and (made := self._visit_block_sparse(binding.var, value)) is not None:
            return made
        if value.op.name == "relax.nn.conv2d" and value.attrs.data_layout == "NHWC":
            return self._visit_nhwc_convolution(binding.var, value)
        args = [self._argument(a) for a in value.args]
        if value.op.name == "relax.broadcast_to":
            args[1] = relax.ShapeExpr(
                _widened(shape_of(value.args[0]), dims(value.args[1]), shape_of(args[0]))
            )
        if value.op.name == "relax.reshape":
            args[1] = relax.ShapeExpr(
                self._moved_shape(
                    binding.var, shape_of(value.args[0]), dims(value.args[1]), shape_of(args[0])
                )
            )
        if value.op.name in _PARAMETER_ONLY and args[0] in self._constant_like:
            return self._derive_moved(binding.var, value, args)
        return self._builder.emit(
            self._builder.normalize(_with_attrs(value, args)), name_hint=binding.var.name
        )

    def _moved_shape(
        self, key: Any, old_in: tuple[int, ...], old_out: tuple[int, ...], new_in: tuple[int, ...]
    ) -> tuple[int, ...]:
        """The target of a reshape whose input changed:

        one axis gives way, among those that the changed axis became.
        """
        ratio = Fraction(int(np.prod(new_in)), int(np.prod(old_in)))
        if ratio == 1:
            return old_out
        changed = {
            axis for axis, (old, new) in enumerate(zip(old_in, new_in, strict=True)) if old != new
        }
        run = next(outputs for inputs, outputs in _runs(old_in, old_out) if changed & set(inputs))
        able = [
            axis for axis in run if old_out[axis] > 1 and (old_out[axis] * ratio).denominator == 1
        ]
        whole = [
            axis for axis in able if old_out[axis] == ratio.denominator
        ]  # as long as the group has channels
        axis = self.reshape_axes.setdefault(key, (whole if len(whole) == 1 else able or [-1])[0])
        if axis not in able:
            raise ModelError(
                f"a reshape from {old_in} to {old_out} cannot follow its input to {new_in}"
            )
        return (*old_out[:axis], int(old_out[axis] * ratio), *old_out[axis + 1 :])

    def _derive_moved(self, key: Any, call: Any, args: list[Any]) -> Any:
        source = args[0]
        if call.op.name == "relax.reshape":
            shape = dims(args[1])
            return self._derive(key, source, shape, lambda value: value.reshape(shape), shape)
        axes = tuple(int(a) for a in call.attrs.axes)
        shape = tuple(shape_of(source)[a] for a in axes)
        return self._derive(
            key, source, shape, lambda value: np.ascontiguousarray(value.transpose(axes)), shape
        )

    def _derive(
        self,
        key: Any,
        source: Any,
        shape: tuple[int, ...],
        compute: Callable[[NDArray[Any]], NDArray[Any]],
        logical: tuple[int, ...],
        suffix: str | None = None,
        dtype: str | None = None,
        prune: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
    ) -> Any:
        before = self._derived.get(source.name)
        variable = self._add_parameter(
            key, source, shape, f"{source.name}_{suffix or key.name}", dtype
        )
        if before is None:
            self._derived[variable.name] = DerivedParameter(
                source.name, compute, logical, suffix is not None, prune
            )
        else:
            first = before.compute
            self._derived[variable.name] = DerivedParameter(
                before.source, lambda value: compute(first(value)), logical
            )
        self._constant_like.add(variable)
        return variable

    def _visit_nhwc_convolution(self, key: Any, call: Any) -> Any:
        data = self._variables[call.args[0]]
        layout = "NHWC"
        if isinstance(data, _Transposed):
            data, layout = data.image, "NCHW"
        weights = self._source_of(self._variables[call.args[1]])
        a = call.attrs
        options: dict[str, Any] = {
            name: [int(v) for v in getattr(a, attribute)]
            for name, attribute in (
                ("stride", "strides"),
                ("padding", "padding"),
                ("dilation", "dilation"),
            )
        }
        lanes, shape = self._lanes, shape_of(weights)
        if int(a.groups) > 1 and (shape[1] != 1 or shape[0] != shape_of(data)[layout.index("C")]):
            implementation, layout, data = GROUPED, "NHWC", self._nhwc(data, layout)
            packed = self._packed(key, weights, pack_grouped, (*shape[2:], shape[1], shape[0]))
            made = self._builder.call_te(
                grouped_conv2d, data, packed, **options, primfunc_name_hint="grouped_nhwc"
            )
        elif int(a.groups) > 1:
            implementation, layout, data = DEPTHWISE, "NHWC", self._nhwc(data, layout)
            packed = self._packed(key, weights, pack_depthwise, (*shape[2:], shape[0]))
            made = self._builder.call_te(
                depthwise_conv2d, data, packed, **options, primfunc_name_hint="depthwise_nhwc"
            )
        elif (
            self._winograd
            and layout == "NHWC"
            and supports_winograd(shape[2:], options["stride"], options["dilation"])
        ):
            implementation, packed = (
                WINOGRAD,
                self._packed(
                    key,
                    weights,
                    lambda value: transform_weights(value, lanes),
                    transformed_weights_shape(shape, lanes),
                ),
            )
            made = self._builder.call_te(
                winograd_conv2d,
                data,
                packed,
                channels=shape[0],
                padding=options["padding"],
                primfunc_name_hint="conv2d_winograd",
            )
        else:
            implementation, packed = (
                PACKED,
                self._packed(
                    key, weights, lambda value: pack(value, lanes), packed_shape(shape, lanes)
                ),
            )
            made = self._builder.call_te(
                packed_conv2d,
                data,
                packed,
                channels=shape[0],
                **options,
                data_layout=layout,
                primfunc_name_hint="conv2d_packed",
            )
        self._log.record(
            made.args[0].name_hint,
            "nn.conv2d",
            a,
            implementation=implementation,
            data_layout=layout,
        )
        return self._builder.emit(made, name_hint=key.name)

    def _visit_block_sparse(self, key: Any, call: Any) -> Any:
        """A layer that is pruned by a scheme; None of any other call."""
        if (
            call.op.name not in ("relax.nn.conv2d", "relax.matmul")
            or self._variables.get(call.args[1]) not in self._constant_like
        ):
            return None
        argument = self._variables[call.args[1]]
        weights = self._source_of(argument)
        scheme, shape = self._schemes.get(weights.name), shape_of(weights)
        if scheme is None or (
            call.op.name == "relax.matmul" and argument is weights
        ):  # a matrix that is not transposed has its outputs last
            return None
        blocks = BlockSparseFormat(
            shape,
            min(scheme.block, shape[0]),
            scheme.n_kept(math.prod(shape[1:])),
            PATTERN_KERNEL if scheme.kind == "kernel" else 1,
        )
        implementation, layout, data = BLOCK_SPARSE, "", self._argument(call.args[0])
        if call.op.name == "relax.matmul":
            packed, offsets = (
                self._block_sparse(key, weights, blocks),
                self._offsets(key, weights, blocks, (1,)),
            )
            made = self._builder.call_te(
                block_sparse_dense,
                data,
                packed,
                offsets,
                channels=shape[0],
                primfunc_name_hint="dense_blocked",
            )
        else:
            layout, a = str(call.attrs.data_layout), call.attrs
            stride, padding, dilation = (
                tuple(int(v) for v in getattr(a, name))
                for name in ("strides", "padding", "dilation")
            )
            if (
                scheme.kind == "kernel"
                and self._winograd
                and layout == "NHWC"
                and supports_winograd(shape[2:], stride, dilation)
            ):
                implementation, made = (
                    SPARSE_WINOGRAD,
                    self._sparse_winograd(key, data, weights, blocks, padding),
                )
            else:
                window = Window((shape[2], shape[3]), stride, padding, dilation, layout)
                packed, offsets = (
                    self._block_sparse(key, weights, blocks),
                    self._offsets(key, weights, blocks, window.strides(shape_of(data))),
                )
                made = self._builder.call_te(
                    partial(block_sparse_conv2d, channels=shape[0], window=window),
                    data,
                    packed,
                    offsets,
                    primfunc_name_hint="conv2d_blocked",
                )
        self._log.record(
            made.args[0].name_hint,
            call.op.name.removeprefix("relax."),
            call.attrs,
            implementation=implementation,
            data_layout=layout,
        )
        return self._builder.emit(made, name_hint=key.name)

    def _sparse_winograd(
        self, key: Any, data: Any, weights: Any, blocks: BlockSparseFormat, padding: tuple[int, ...]
    ) -> Any:
        shape = packed_kernels_shape(blocks)
        packed = self._derive(
            (key, "packed"),
            weights,
            shape,
            lambda value: pack_kernels(value, blocks),
            blocks.shape,
            "blocked",
            prune=blocks.prune_at_random,
        )
        table = self._table(
            key,
            weights,
            blocks,
            (blocks.count, blocks.n_units),
            lambda value: blocks.kept_units(value).astype(np.int32),
        )
        return self._builder.call_te(
            partial(sparse_winograd_conv2d, channels=blocks.shape[0], padding=padding),
            data,
            packed,
            table,
            primfunc_name_hint="conv2d_winograd_sparse",
        )

    def _block_sparse(self, key: Any, weights: Any, blocks: BlockSparseFormat) -> Any:
        return self._derive(
            (key, "packed"),
            weights,
            (blocks.count, blocks.n_kept, blocks.block),
            blocks.pack,
            blocks.shape,
            "blocked",
            prune=blocks.prune_at_random,
        )

    def _offsets(
        self, key: Any, weights: Any, blocks: BlockSparseFormat, strides: tuple[int, ...]
    ) -> Any:
        return self._table(
            key,
            weights,
            blocks,
            (blocks.count, blocks.n_kept),
            lambda value: blocks.offsets(value, strides),
        )

    def _table(
        self,
        key: Any,
        weights: Any,
        blocks: BlockSparseFormat,
        shape: tuple[int, ...],
        compute: Callable[[NDArray[Any]], NDArray[Any]],
    ) -> Any:
        return self._derive(
            (key, "offsets"),
            weights,
            shape,
            compute,
            blocks.shape,
            "offsets",
            "int32",
            blocks.prune_at_random,
        )

    def _source_of(self, weights: Any) -> Any:
        """The trained parameter behind a transposed one."""
        name = self._derived[weights.name].source if weights.name in self._derived else weights.name
        return next(p for p in self._parameters if p.name == name)

    def _packed(
        self,
        key: Any,
        weights: Any,
        compute: Callable[[NDArray[Any]], NDArray[Any]],
        shape: tuple[int, ...],
    ) -> Any:
        return self._derive((key, "packed"), weights, shape, compute, shape_of(weights), "packed")

    def _nhwc(self, data: Any, layout: str) -> Any:
        return (
            data
            if layout == "NHWC"
            else self._builder.emit(relax.op.permute_dims(data, list(_TO_NHWC)))
        )

    def _argument(self, value: Any) -> Any:
        if isinstance(value, relax.Var):
            known = self._variables[value]
            if isinstance(known, _Transposed):
                known.made = self._nhwc(known.image, "NCHW") if known.made is None else known.made
                return known.made
            return known
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self._argument(f) for f in value.fields])
        if isinstance(value, relax.TupleGetItem):
            whole = self._argument(
                value.tuple_value
            )  # taken apart here, what nobody reads of it falls away
            return (
                whole.fields[value.index]
                if isinstance(whole, relax.Tuple)
                else self._builder.emit(relax.TupleGetItem(whole, value.index))
            )
        return value


def _runs(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The axes of a reshape in runs of equal size:

    what the axes of one run hold is in the axes of the other.
    """
    runs: list[tuple[list[int], list[int]]] = []
    left, right = list(range(len(old))), list(range(len(new)))
    while left or right:
        inputs, outputs = left[:1], right[:1]
        left, right = left[1:], right[1:]
        while (sizes := (_size(old, inputs), _size(new, outputs)))[0] != sizes[1]:
            if sizes[0] < sizes[1]:
                inputs.append(left.pop(0))
            else:
                outputs.append(right.pop(0))
        runs.append((inputs, outputs))
    return runs


def _size(shape: tuple[int, ...], axes: Sequence[int]) -> int:
    return math.prod(shape[axis] for axis in axes)


def _unwrapped(value: Any) -> Any:
    return value.fields[0] if isinstance(value, relax.Tuple) and len(value.fields) == 1 else value


def _without_idle_parameters(module: tvm.IRModule) -> tvm.IRModule:
    """Drops what is not computed for the result, and parameters that nothing reads any more."""
    module = relax.transform.DeadCodeElimination()(module)
    main = module["main"]
    image, *weights = main.params
    used = set(relax.analysis.free_vars(main.body))
    kept = [image, *(p for p in weights if p in used)]
    module.update_func(
        module.get_global_var("main"),
        relax.Function(kept, main.body, main.ret_ty, main.is_pure, main.attrs),
    )
    return module


def _widened(
    old_in: tuple[int, ...], old_out: tuple[int, ...], new_in: tuple[int, ...]
) -> tuple[int, ...]:
    """The target of a broadcast whose input changed: axes that were not widened follow it."""
    offset = len(old_out) - len(old_in)
    return tuple(
        new_in[a - offset] if a >= offset and old_in[a - offset] == length else length
        for a, length in enumerate(old_out)
    )


def _with_attrs(call: Any, args: list[Any]) -> Any:
    """The call on new arguments; a grouped convolution keeps its channels per group."""
    if call.op.name == "relax.nn.conv2d" and int(call.attrs.groups) > 1:
        a = call.attrs
        groups = shape_of(args[0])[1] // shape_of(args[1])[1]
        return relax.op.nn.conv2d(
            args[0],
            args[1],
            a.strides,
            a.padding,
            a.dilation,
            groups,
            a.data_layout,
            a.kernel_layout,
            a.out_layout,
            a.out_dtype,
        )
    return relax.Call(call.op, args, call.attrs, call.ty_args)
