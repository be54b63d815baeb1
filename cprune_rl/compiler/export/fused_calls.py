"""What a fused subgraph consists of:

its operators, what they read, and in which layout the maps lie.

Read off the module before and after fusion; no name is guessed. Called by `workload` and `lower`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax

from cprune_rl.compiler.kernels.implementations import implementation_attribute

__all__ = ["FusedCall", "Operator", "OperatorOrigins", "dims", "find_calls", "shape_of"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Operator:
    """One operator inside a fused subgraph.

    Attributes:
        name: Relax's name without its prefix, such as `nn.conv2d`.
        attributes: canonical text of its attributes.
        operands: `a0`, `a1`... for the subgraph's arguments, `v0`... for earlier operators'
            results.
        shapes: of each operand.
        out_shape: of the result.
        layouts: of each operand: "NCHW", "NHWC", or "" where it is no map.
        out_layout: of the result.
        stride: vertical stride of a convolution, else 1.
        n_channel_groups: `groups` of a convolution, else 1.
        attrs: Relax's attributes, None where there are none.
        constants: scalar operands by their position, which no longer are arguments.
        implementation: of this project's own; empty where it is TVM's.
    """

    name: str
    attributes: str
    operands: tuple[str, ...]
    shapes: tuple[Shape, ...]
    out_shape: Shape
    layouts: tuple[str, ...] = ()
    out_layout: str = ""
    stride: int = 1
    n_channel_groups: int = 1
    attrs: Any = field(default=None, compare=False, repr=False)
    constants: tuple[tuple[int, float], ...] = ()
    implementation: str = ""


@dataclass(frozen=True)
class FusedCall:
    """One subgraph: a call of a fused function in the lowered `main`.

    Attributes:
        function: name of the function in the module.
        operators: what is fused in it, in order.
        parameters: names of the parameters it reads, as in the state_dict.
        reads: for each argument the name of a parameter of `main`, or the position of the call that
            made it.
        shapes: of its arguments, then of its result; packed weights have the shape of what they
            were packed from.
        layouts: of its arguments, then of its result: "NCHW", "NHWC", or "" where it is no map.
        dtype: of its result.
    """

    function: str
    operators: tuple[Operator, ...]
    parameters: tuple[str, ...]
    reads: tuple[str | int, ...]
    shapes: tuple[Shape, ...]
    layouts: tuple[str, ...]
    dtype: str


@dataclass(frozen=True)
class _Origin:
    name: str
    attrs: Any
    implementation: str = ""
    data_layout: str = ""
    constants: tuple[tuple[int, float], ...] = ()


class OperatorOrigins:
    """Which Relax operator each primitive function was made from, recorded while it happens."""

    def __init__(self) -> None:
        self._origins: dict[str, _Origin] = {}

    def record(
        self,
        function: str,
        name: str,
        attrs: Any,
        implementation: str = "",
        data_layout: str = "",
        constants: tuple[tuple[int, float], ...] = (),
    ) -> None:
        """Keeps where a function came from.

        Args:
            function: its name.
            name: Relax's operator.
            attrs: its attributes.
            implementation: how it is computed where that is not TVM's own way.
            data_layout: of the maps it reads where the attributes do not say.
            constants: scalar operands by their position.
        """
        if (
            name == "maximum" and constants == ((1, 0.0),)
        ):  # one function with a ReLU's of the same shape, where there is one: it must have one name
            name, constants = "nn.relu", ()
        self._origins[function] = _Origin(name, attrs, implementation, data_layout, constants)

    def origin(self, function: str) -> _Origin:
        """Where a function came from."""
        return self._origins.get(function, _Origin(function, None))

    def legalization(self, module: tvm.IRModule) -> dict[str, Any]:
        """Legalisation rules for the operators of a module that note what they make."""
        calls = [
            b.value
            for block in module["main"].body.blocks
            for b in block.bindings
            if isinstance(b.value, relax.Call)
        ]
        names = {c.op.name for c in calls if isinstance(c.op, tvm.ir.Op)}
        return {
            n: self._recorder(n)
            for n in names
            if tvm.ir.Op.get(n).get_attr("FLegalize") is not None
        }

    def _recorder(self, name: str) -> Any:
        rule = tvm.ir.Op.get(name).get_attr("FLegalize")

        def legalize(builder: Any, call: Any) -> Any:
            result = rule(builder, call)
            if isinstance(result, relax.Call) and result.op.name == "relax.call_tir":
                constants = tuple(
                    (i, scalar(a))
                    for i, a in enumerate(call.args)
                    if isinstance(a, tvm.ir.Constant) and not shape_of(a)
                )
                self.record(
                    result.args[0].name_hint,
                    name.removeprefix("relax."),
                    call.attrs,
                    constants=constants,
                )
            return result

        return legalize


def find_calls(
    fused: tvm.IRModule,
    grouped: tvm.IRModule,
    log: OperatorOrigins,
    sources: Mapping[str, str],
    logical_shapes: Mapping[str, Shape],
) -> tuple[FusedCall, ...]:
    """The subgraphs of a module, in the order of execution; transposes of maps are left out.

    Args:
        fused: after FuseTIR.
        grouped: the same before FuseTIR, where the operators of a function can still be told apart.
        log: where primitive functions came from.
        sources: state_dict name of each parameter of `main`.
        logical_shapes: of parameters that tasks name by another shape than they have.
    """
    reader = _Reader(grouped, log, sources, logical_shapes)
    for block in fused["main"].body.blocks:
        for binding in block.bindings:
            reader.read(binding)
    return tuple(reader.calls)


class _Reader:
    def __init__(
        self,
        grouped: tvm.IRModule,
        log: OperatorOrigins,
        sources: Mapping[str, str],
        logical_shapes: Mapping[str, Shape],
    ) -> None:
        self._grouped, self._log, self._sources, self._logical_shapes = (
            grouped,
            log,
            sources,
            logical_shapes,
        )
        self._made: dict[
            Any, tuple[str | int, str]
        ] = {}  # variable -> what made it, and its layout
        self.calls: list[FusedCall] = []

    def read(self, binding: Any) -> None:
        value = binding.value
        if isinstance(value, relax.Var):
            self._made[binding.var] = self._origin(value)
        if not isinstance(value, relax.Call) or value.op.name != "relax.call_tir":
            return
        args = list(value.args[1].fields)
        origins = [self._origin(a) for a in args]
        shapes = [
            self._logical_shapes.get(a.name, shape_of(a))
            if isinstance(a, relax.Var)
            else shape_of(a)
            for a in args
        ]
        out = shape_of(binding.var)
        operators = self._operators(
            value.args[0].name_hint, shapes, [layout for _, layout in origins], out
        )
        if len(operators) == 1 and operators[0].name == "permute_dims" and operators[0].out_layout:
            self._made[binding.var] = (
                origins[0][0],
                operators[0].out_layout,
            )  # whoever joins the subgraphs puts transposes where layouts differ
            return
        parameters = tuple(
            self._sources[a.name]
            for a in args
            if isinstance(a, relax.Var) and a.name in self._sources
        )
        out_layout = operators[-1].out_layout
        layouts = (*(layout for _, layout in origins), out_layout)
        self._made[binding.var] = (len(self.calls), out_layout)
        self.calls.append(
            FusedCall(
                value.args[0].name_hint,
                operators,
                parameters,
                tuple(made for made, _ in origins),
                (*shapes, out),
                layouts,
                str(binding.var.ty.dtype),
            )
        )

    def _origin(self, variable: Any) -> tuple[str | int, str]:
        if variable in self._made:
            return self._made[variable]
        is_image = variable.name not in self._sources and len(shape_of(variable)) == 4
        return variable.name, "NCHW" if is_image else ""

    def _operators(
        self, function: str, shapes: Sequence[Shape], layouts: Sequence[str], out: Shape
    ) -> tuple[Operator, ...]:
        inner = self._grouped[function]
        if not isinstance(inner, relax.Function):
            return (
                self._operator(
                    function,
                    tuple(f"a{i}" for i in range(len(shapes))),
                    tuple(shapes),
                    tuple(layouts),
                    out,
                ),
            )
        known = {p: (f"a{i}", shapes[i], layouts[i]) for i, p in enumerate(inner.params)}
        operators: list[Operator] = []
        for block in inner.body.blocks:
            for binding in block.bindings:
                if (
                    isinstance(binding.value, relax.Call)
                    and binding.value.op.name == "relax.call_tir"
                ):
                    operands = [
                        known.get(a, ("const", shape_of(a), ""))
                        for a in binding.value.args[1].fields
                    ]
                    names, operand_shapes, operand_layouts = (
                        zip(*operands, strict=True) if operands else ((), (), ())
                    )  # a constant is made of nothing
                    operator = self._operator(
                        binding.value.args[0].name_hint,
                        names,
                        operand_shapes,
                        operand_layouts,
                        shape_of(binding.var),
                    )
                    operators.append(operator)
                    known[binding.var] = (
                        f"v{len(operators) - 1}",
                        operator.out_shape,
                        operator.out_layout,
                    )
                elif isinstance(binding.value, relax.Var):
                    known[binding.var] = known[binding.value]
        return tuple(operators)

    def _operator(
        self,
        function: str,
        operands: tuple[str, ...],
        shapes: tuple[Shape, ...],
        layouts: tuple[str, ...],
        out: Shape,
    ) -> Operator:
        origin = self._log.origin(function)
        attrs = origin.attrs
        text = (
            ""
            if attrs is None
            else _with_axes_from_the_front(
                str(attrs).partition("(")[2].rstrip(")"), len(shapes[0]) if shapes else 0
            )
        )
        stride, groups = 1, 1
        if origin.name == "nn.conv2d":
            stride, groups = int(attrs.strides[0]), int(attrs.groups)
            if (
                groups > 1
            ):  # the number follows the channels; what stays is the channels of one group
                text = text.replace(f"groups={groups}", f"channels_per_group={shapes[1][1]}")
        if origin.implementation:
            text += implementation_attribute(origin.implementation, origin.data_layout)
        if origin.constants:
            text += ", ".join(f"operand {i} = {value:g}" for i, value in origin.constants)
        return Operator(
            origin.name,
            text,
            operands,
            shapes,
            out,
            layouts,
            _out_layout(origin, layouts, out),
            stride,
            groups,
            attrs,
            origin.constants,
            origin.implementation,
        )


def _with_axes_from_the_front(text: str, n_axes: int) -> str:
    """Attributes with several axes counted from the end, as `axis=(-1, -2)`, by their one other
    name: functions that are alike are made one, whatever their calls said.
    """
    return re.sub(
        r"axis=\((-?\d+(?:, -?\d+)+)\)",
        lambda found: (
            f"axis=({', '.join(map(str, sorted(int(a) % n_axes for a in found[1].split(','))))})"
        ),
        text,
    )


def _out_layout(origin: _Origin, layouts: Sequence[str], out: Shape) -> str:
    if len(out) != 4:
        return ""
    if origin.name == "permute_dims" and layouts[0]:
        return "".join(layouts[0][int(a)] for a in origin.attrs.axes)
    for attribute in ("out_layout", "layout"):
        if given := getattr(origin.attrs, attribute, ""):
            return str(given)
    return next((layout for layout in layouts if layout), "")


def shape_of(expr: Any) -> Shape:
    """The shape of a Relax expression."""
    return tuple(int(d) for d in expr.ty.shape)


def dims(shape: Any) -> Shape:
    """A Relax shape as integers."""
    return tuple(int(d) for d in shape.values)


def scalar(constant: Any) -> float:
    """The value of a Relax constant of one number."""
    value = constant.value
    return float(value.numpy() if hasattr(value, "numpy") else value)
