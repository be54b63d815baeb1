"""What a fused subgraph consists of: its operators, what they read, and the layouts of its maps.

It is read off the module before and after fusion; no name is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax

from cprune_rl.compiler.kernels.implementations import family_attribute

__all__ = [
    "CONVOLUTIONS",
    "TRANSPOSED_CONVOLUTIONS",
    "FusedCall",
    "Operator",
    "OperatorOrigins",
    "Origin",
    "bindings_of",
    "dims",
    "find_calls",
    "shape_of",
]

CONVOLUTIONS = ("nn.conv1d", "nn.conv2d", "nn.conv3d")
"""Relax's convolutions whose weights are `(outputs, inputs of a group, *kernel)`."""

TRANSPOSED_CONVOLUTIONS = ("nn.conv1d_transpose", "nn.conv2d_transpose")
"""Those whose weights are `(inputs, outputs of a group, *kernel)`."""

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
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
        bounds: where a slice begins and ends; empty of any other operator.
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
    bounds: tuple[int, ...] = ()
    implementation: str = ""


@dataclass(frozen=True, kw_only=True)
class FusedCall:
    """One subgraph: a call of a fused function in the lowered `main`.

    Attributes:
        function: name of the function in the module.
        operators: what is fused in it, in order.
        weights: names of the parameters it reads, as in the state_dict, by their positions among
            its arguments.
        reads: for each argument the name of a parameter of `main`, or the position of the call
            that made it.
        shapes: of its arguments, then of its result; packed weights have the shape of what they
            were packed from.
        layouts: of its arguments, then of its result: "NCHW", "NHWC", or "" where it is no map.
        dtype: of its result.
    """

    function: str
    operators: tuple[Operator, ...]
    weights: Mapping[int, str]
    reads: tuple[str | int, ...]
    shapes: tuple[Shape, ...]
    layouts: tuple[str, ...]
    dtype: str

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters it reads, as in the state_dict."""
        return tuple(self.weights.values())

    @property
    def bounds(self) -> tuple[tuple[int, ...], ...]:
        """Where the slices in it begin and end: their shapes do not tell."""
        return tuple(o.bounds for o in self.operators if o.bounds)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a primitive function came from.

    Attributes:
        name: Relax's operator.
        attrs: its attributes.
        implementation: this project's own, where it took the operator's place.
        data_layout: of the map it reads, where the attributes do not say.
        constants: scalar operands by their position.
        bounds: whole numbers among its operands, as a slice has them.
    """

    name: str
    attrs: Any = None
    implementation: str = ""
    data_layout: str = ""
    constants: tuple[tuple[int, float], ...] = ()
    bounds: tuple[int, ...] = ()


class OperatorOrigins:
    """The Relax operator that each primitive function was made from, recorded as it happens."""

    def __init__(self) -> None:
        self._origins: dict[str, Origin] = {}

    def record(self, function: str, origin: Origin) -> None:
        """Keep where a function came from."""
        if origin.name == "maximum" and origin.constants == ((1, 0.0),):
            # TVM makes it one function with a ReLU of the same shape: both need one name.
            origin = Origin(name="nn.relu", attrs=origin.attrs)
        self._origins[function] = origin

    def get(self, function: str) -> Origin:
        """Return where a function came from."""
        return self._origins.get(function) or Origin(name=function)

    def legalization(self, module: tvm.IRModule) -> dict[str, Any]:
        """Return legalisation rules for the operators of a module that record what they make."""
        values = [binding.value for binding in bindings_of(module["main"])]
        calls = [value for value in values if isinstance(value, relax.Call)]
        operators = {call.op.name: call.op for call in calls if isinstance(call.op, tvm.ir.Op)}
        rules = {name: op.get_attr("FLegalize") for name, op in operators.items()}
        return {
            name: self._recording(name, rule) for name, rule in rules.items() if rule is not None
        }

    def _recording(self, name: str, rule: Any) -> Any:
        def legalize(builder: Any, call: Any) -> Any:
            result = rule(builder, call)
            if isinstance(result, relax.Call) and result.op.name == "relax.call_tir":
                constants = tuple(
                    (i, scalar(a))
                    for i, a in enumerate(call.args)
                    if isinstance(a, tvm.ir.Constant) and not shape_of(a)
                )
                origin = Origin(
                    name=name.removeprefix("relax."),
                    attrs=call.attrs,
                    constants=constants,
                    bounds=_whole_numbers(call),
                )
                self.record(result.args[0].name_hint, origin)
            return result

        return legalize


def find_calls(
    fused: tvm.IRModule,
    *,
    grouped: tvm.IRModule,
    origins: OperatorOrigins,
    names: Mapping[str, str],
    logical_shapes: Mapping[str, Shape],
) -> tuple[FusedCall, ...]:
    """Find the subgraphs of a module, in the order of execution; transposes of maps are left out.

    Args:
        fused: the module after FuseTIR.
        grouped: the module before, where the operators of a function can still be told apart.
        origins: where primitive functions came from.
        names: state_dict name of each parameter of `main`.
        logical_shapes: of parameters that tasks name by another shape than they have.
    """
    reader = _Reader(grouped=grouped, origins=origins, names=names, logical_shapes=logical_shapes)
    for binding in bindings_of(fused["main"]):
        reader.read(binding)
    return tuple(reader.calls)


@dataclass(frozen=True)
class _Value:
    """What a variable holds.

    Attributes:
        source: what it comes from: a parameter's name or a call's position in `main`, an operand's
            name in a function.
        shape: of it.
        layout: of a map, else empty.
    """

    source: Any
    shape: Shape
    layout: str = ""


@dataclass(kw_only=True)
class _Reader:
    grouped: tvm.IRModule
    origins: OperatorOrigins
    names: Mapping[str, str]
    logical_shapes: Mapping[str, Shape]
    calls: list[FusedCall] = field(default_factory=list)
    values: dict[Any, _Value] = field(default_factory=dict)  # by the variable bound to it

    def read(self, binding: Any) -> None:
        bound = binding.value
        if isinstance(bound, relax.Var):
            self.values[binding.var] = self._value(bound)
        if not isinstance(bound, relax.Call) or bound.op.name != "relax.call_tir":
            return
        function = bound.args[0].name_hint
        arguments = [self._value(a) for a in bound.args[1].fields]
        out = shape_of(binding.var)
        operators = self._operators(function, arguments, out)
        layout = operators[-1].out_layout
        if len(operators) == 1 and operators[0].name == "permute_dims" and layout:
            # Whoever joins the subgraphs puts transposes where layouts differ.
            self.values[binding.var] = _Value(arguments[0].source, out, layout)
            return
        self.values[binding.var] = _Value(len(self.calls), out, layout)
        self.calls.append(
            FusedCall(
                function=function,
                operators=operators,
                weights={
                    at: self.names[a.source]
                    for at, a in enumerate(arguments)
                    if a.source in self.names
                },
                reads=tuple(a.source for a in arguments),
                shapes=(*(a.shape for a in arguments), out),
                layouts=(*(a.layout for a in arguments), layout),
                dtype=str(binding.var.ty.dtype),
            )
        )

    def _value(self, variable: Any) -> _Value:
        if variable in self.values:
            return self.values[variable]
        name = variable.name
        shape = self.logical_shapes.get(name, shape_of(variable))
        is_image = name not in self.names and len(shape) == 4
        return _Value(name, shape, "NCHW" if is_image else "")

    def _operators(
        self, function: str, arguments: Sequence[_Value], out: Shape
    ) -> tuple[Operator, ...]:
        """Return the operators that are fused in a function.

        Args:
            function: its name.
            arguments: that it is called with.
            out: shape of its result.
        """
        operands = [_Value(f"a{i}", a.shape, a.layout) for i, a in enumerate(arguments)]
        body = self.grouped[function]
        if not isinstance(body, relax.Function):
            return (self._operator(function, operands, out),)
        values = dict(zip(body.params, operands, strict=True))
        operators: list[Operator] = []
        for binding in bindings_of(body):
            bound = binding.value
            if isinstance(bound, relax.Var):
                values[binding.var] = values[bound]
            elif isinstance(bound, relax.Call) and bound.op.name == "relax.call_tir":
                read = [values.get(a) or _Value("const", shape_of(a)) for a in bound.args[1].fields]
                operator = self._operator(bound.args[0].name_hint, read, shape_of(binding.var))
                values[binding.var] = _Value(
                    f"v{len(operators)}", operator.out_shape, operator.out_layout
                )
                operators.append(operator)
        return tuple(operators)

    def _operator(self, function: str, operands: Sequence[_Value], out: Shape) -> Operator:
        origin = self.origins.get(function)
        shapes = tuple(o.shape for o in operands)
        layouts = tuple(o.layout for o in operands)
        is_convolution = origin.name in CONVOLUTIONS
        has_groups = is_convolution or origin.name in TRANSPOSED_CONVOLUTIONS
        return Operator(
            name=origin.name,
            attributes=_attributes(origin, shapes),
            operands=tuple(o.source for o in operands),
            shapes=shapes,
            out_shape=out,
            layouts=layouts,
            out_layout=_out_layout(origin, layouts, out),
            stride=int(origin.attrs.strides[0]) if is_convolution else 1,
            n_channel_groups=int(origin.attrs.groups) if has_groups else 1,
            attrs=origin.attrs,
            constants=origin.constants,
            bounds=origin.bounds,
            implementation=origin.implementation,
        )


def _whole_numbers(call: Any) -> tuple[int, ...]:
    """Return the numbers that an operator takes as operands in tuples, in their order."""
    tuples = [argument for argument in call.args if isinstance(argument, relax.Tuple)]
    numbers = [field for argument in tuples for field in argument.fields]
    return tuple(int(n.value) for n in numbers if isinstance(n, tvm.tirx.IntImm))


def _attributes(origin: Origin, shapes: Sequence[Shape]) -> str:
    """Write an operator's attributes as canonical text: cost caches hold it."""
    text = ""
    if origin.attrs is not None:
        text = str(origin.attrs).partition("(")[2].rstrip(")")
        text = _with_axes_from_the_front(text, len(shapes[0]) if shapes else 0)
    if origin.name in CONVOLUTIONS and (n_groups := int(origin.attrs.groups)) > 1:
        # The number of groups follows the channels; the channels of one group stay.
        text = text.replace(f"groups={n_groups}", f"channels_per_group={shapes[1][1]}")
    if origin.implementation:
        text += family_attribute(origin.implementation, origin.data_layout)
    return text + ", ".join(f"operand {i} = {value:g}" for i, value in origin.constants)


def _with_axes_from_the_front(text: str, n_axes: int) -> str:
    """Count the axes of a tuple from the front, where attributes have `axis=(-1, -2)`.

    TVM makes one function of functions that are alike, whatever their calls said.
    """

    def counted(match: re.Match[str]) -> str:
        axes = sorted(int(a) % n_axes for a in match[1].split(","))
        return f"axis=({', '.join(map(str, axes))})"

    return re.sub(r"axis=\((-?\d+(?:, -?\d+)+)\)", counted, text)


def _out_layout(origin: Origin, layouts: Sequence[str], out: Shape) -> str:
    if len(out) != 4:
        return ""
    if origin.name == "permute_dims" and layouts[0]:
        return "".join(layouts[0][int(a)] for a in origin.attrs.axes)
    for attribute in ("out_layout", "layout"):
        if given := getattr(origin.attrs, attribute, ""):
            return str(given)
    return next((layout for layout in layouts if layout), "")


def bindings_of(function: relax.Function) -> list[Any]:
    """Return the bindings of a Relax function, in order."""
    return [binding for block in function.body.blocks for binding in block.bindings]


def shape_of(expr: Any) -> Shape:
    """Return the shape of a Relax expression."""
    return tuple(int(d) for d in expr.ty.shape)


def dims(shape: Any) -> Shape:
    """Return a Relax shape as integers."""
    return tuple(int(d) for d in shape.values)


def scalar(constant: Any) -> float:
    """Return the value of a Relax constant of one number."""
    value = constant.value
    return float(value.numpy() if hasattr(value, "numpy") else value)
