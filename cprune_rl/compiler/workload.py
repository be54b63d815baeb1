"""An exported network as a template: the same operators at other channel counts, without exporting again.

`torch.export` takes seconds and is done once. `ExportedNetwork.lowered` rebuilds the Relax function with
each parameter's shape at a plan, infers the other shapes anew, and fuses: about 50 ms for a small
network. What it gives is what deployment compiles, so a task that was timed is the task that runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import tvm
from numpy.typing import NDArray
from torch import nn
from torch.fx.experimental.optimization import fuse
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program
from tvm.s_tir.meta_schedule.tune_context import _normalize_mod  # what MetaSchedule itself applies to a task

from cprune_rl.errors import ModelError
from cprune_rl.table import Extent

__all__ = ["Call", "ExportedNetwork", "LoweredModule", "Operator"]

_PARAMETER_ONLY = {"relax.reshape", "relax.permute_dims"}  # of weights: done once at build time, not at run time


@dataclass(frozen=True)
class Operator:
    """One operator inside a fused subgraph.

    Attributes:
        name: Relax's name without its prefix, such as `nn.conv2d`.
        attributes: canonical text of its attributes.
        operands: `a0`, `a1`... for the subgraph's arguments, `v0`... for earlier operators' results.
        shapes: of each operand.
        out_shape: of the result.
        stride: vertical stride of a convolution, else 1.
        n_channel_groups: `groups` of a convolution, else 1.
    """

    name: str
    attributes: str
    operands: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    out_shape: tuple[int, ...]
    stride: int = 1
    n_channel_groups: int = 1


@dataclass(frozen=True)
class Call:
    """One subgraph: a call of a fused function in the lowered `main`.

    Attributes:
        function: name of the function in the module.
        operators: what is fused in it, in order.
        parameters: names of the parameters it reads, as in the state_dict.
        shapes: of its arguments, then of its result.
        dtype: of its result.
    """

    function: str
    operators: tuple[Operator, ...]
    parameters: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str


@dataclass(frozen=True)
class LoweredModule:
    """A network at one plan, fused, before any schedule.

    Attributes:
        module: `main` and its primitive functions.
        calls: the subgraphs, in the order of execution.
    """

    module: tvm.IRModule
    calls: tuple[Call, ...]

    def task(self, function: str) -> tvm.IRModule:
        """One function as the tuner wants it: alone, named `main`.

        Its statements are this module's own. Hold the result in a variable while it is scheduled: a schedule
        that is the only owner of a function changes it in place, and this module with it.
        """
        return _normalize_mod(self.module[function])


@dataclass
class _Derived:
    """A parameter that is another one reshaped or transposed."""

    source: str
    op: str
    argument: tuple[int, ...]


@dataclass
class ExportedNetwork:
    """A network exported once.

    Args:
        function: Relax's `main`, parameters as inputs.
        names: state_dict name of each parameter of `function` after the image.
        values: state_dict of the batch-norm-folded network.
        axes: extents of every parameter's axes; a parameter that is missing keeps its shape.
        target: what primitive functions are legalised for.
    """

    function: relax.Function
    names: tuple[str, ...]
    values: Mapping[str, NDArray[Any]]
    axes: Mapping[str, tuple[Extent, ...]]
    target: tvm.target.Target
    _cache: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._cache = lru_cache(maxsize=128)(self._lower)

    @staticmethod
    def export(model: nn.Module, example: torch.Tensor, axes: Mapping[str, tuple[Extent, ...]], target: tvm.target.Target) -> ExportedNetwork:
        """Folds batch norms and exports.

        Raises:
            ModelError: torch.export or TVM's importer does not take the network.
        """
        folded = fold_batch_norms(model)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of its own deprecated calls
                exported = torch.export.export(folded, (example.contiguous(),))
                module, _ = relax.frontend.detach_params(from_exported_program(exported, keep_params_as_input=True))
        except Exception as error:  # torch.export and the importer raise whatever the user's network provokes
            raise ModelError(f"the network cannot be exported: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from error
        targets = {spec.arg.name: spec.target for spec in exported.graph_signature.input_specs if spec.target}
        names = tuple(targets[p.name] for p in module["main"].params[1:])
        values = {name: value.detach().numpy() for name, value in exported.state_dict.items()}
        values |= {name: value.detach().numpy() for name, value in exported.constants.items() if isinstance(value, torch.Tensor)}
        return ExportedNetwork(module["main"], names, values, axes, target)

    def lowered(self, widths: Mapping[str, int]) -> LoweredModule:
        """The fused module where each group has the given width.

        Raises:
            ModelError: an operator has a shape that does not follow from its inputs.
        """
        return self._cache(tuple(sorted(widths.items())))[0]  # type: ignore[no-any-return]

    def bound(self, scheduled: tvm.IRModule, widths: Mapping[str, int], values: Mapping[str, NDArray[Any]]) -> tvm.IRModule:
        """Binds weights into a lowered module, so that it runs on an image alone.

        Args:
            scheduled: `lowered(widths).module`, with or without schedules.
            widths: of each group.
            values: state_dict of the folded network at these widths.
        """
        derived: dict[str, _Derived] = self._cache(tuple(sorted(widths.items())))[1]
        names = dict(zip((p.name for p in self.function.params[1:]), self.names, strict=True))
        arrays = {}
        for parameter in scheduled["main"].params[1:]:
            if parameter.name in derived:
                d = derived[parameter.name]
                value = values[names[d.source]]
                arrays[parameter.name] = value.reshape(d.argument) if d.op == "relax.reshape" else np.ascontiguousarray(value.transpose(d.argument))
            else:
                arrays[parameter.name] = values[names[parameter.name]]
        tensors = {name: tvm.runtime.tensor(np.ascontiguousarray(value)) for name, value in arrays.items()}
        return relax.transform.BindParams("main", tensors)(scheduled)

    def _lower(self, widths: tuple[tuple[str, int], ...]) -> tuple[LoweredModule, dict[str, _Derived]]:
        rebuilt, derived = _Rebuilder(self, dict(widths)).run()
        operators = _OperatorLog()
        names = {b.value.op.name for block in rebuilt["main"].body.blocks for b in block.bindings if isinstance(b.value, relax.Call)}
        with self.target:
            module = relax.transform.LegalizeOps({n: operators.recorder(n) for n in names if operators.has_rule(n)})(rebuilt)
            grouped = tvm.transform.Sequential([relax.transform.AnnotateTIROpPattern(), relax.transform.FuseOps()])(module)
            fused = relax.transform.FuseTIR()(grouped)
        sources = dict(zip((p.name for p in self.function.params[1:]), self.names, strict=True))
        sources |= {name: sources[d.source] for name, d in derived.items()}
        return LoweredModule(fused, tuple(_calls(fused, grouped, operators, sources))), derived


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode, batch norms folded into the convolutions before them.

    Raises:
        ModelError: torch.fx cannot trace the network.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folded: nn.Module = fuse(model.eval())
    except Exception as error:  # torch.fx raises whatever the user's forward provokes
        raise ModelError(f"torch.fx cannot trace the network to fold its batch norms: {error}") from error
    return folded.eval()


class _Rebuilder:
    """Emits the exported function again, parameters at other shapes."""

    def __init__(self, network: ExportedNetwork, widths: Mapping[str, int]) -> None:
        self._network, self._widths = network, widths
        self._builder = relax.BlockBuilder()
        self._variables: dict[Any, Any] = {}
        self._parameters: list[Any] = []
        self._constant_like: set[Any] = set()
        self._derived: dict[str, _Derived] = {}

    def run(self) -> tuple[tvm.IRModule, dict[str, _Derived]]:
        function = self._network.function
        image, *weights = function.params
        self._add_parameter(image, image, _shape(image))
        for parameter, name in zip(weights, self._network.names, strict=True):
            axes = self._network.axes.get(name)
            shape = tuple(e.at(self._widths) for e in axes) if axes else _shape(parameter)
            self._constant_like.add(self._add_parameter(parameter, parameter, shape))
        bindings = [b for block in function.body.blocks for b in block.bindings]
        with self._builder.function("main"):
            with self._builder.dataflow():
                for binding in bindings:
                    self._variables[binding.var] = self._visit(binding)
                result = self._builder.emit_output(self._unwrapped(self._variables[function.body.body]))
            self._builder.emit_func_output(result, self._used_parameters(image))
        return relax.transform.DeadCodeElimination()(self._builder.finalize()), self._derived

    def _used_parameters(self, image: Any) -> list[Any]:
        derived_sources = {d.source for d in self._derived.values()}
        return [p for p in self._parameters if p.name not in derived_sources or p.name == image.name]

    def _unwrapped(self, value: Any) -> Any:
        return value.fields[0] if isinstance(value, relax.Tuple) and len(value.fields) == 1 else value

    def _add_parameter(self, key: Any, like: Any, shape: Sequence[int], name: str | None = None) -> Any:
        variable = relax.Var(name or like.name, relax.TensorType(list(shape), like.ty.dtype))
        self._parameters.append(variable)
        self._variables[key] = variable
        return variable

    def _visit(self, binding: Any) -> Any:
        value = binding.value
        if isinstance(value, relax.Call):
            args = [self._argument(a) for a in value.args]
            if value.op.name == "relax.reshape":
                args[1] = relax.ShapeExpr(_moved_shape(_shape(value.args[0]), _dims(value.args[1]), _shape(args[0])))
            if value.op.name in _PARAMETER_ONLY and args[0] in self._constant_like:
                return self._derive(binding.var, value, args)
            return self._builder.emit(self._builder.normalize(_with_attrs(value, args)), name_hint=binding.var.name)
        return self._argument(value)

    def _derive(self, key: Any, call: Any, args: list[Any]) -> Any:
        source = args[0]
        if call.op.name == "relax.reshape":
            argument = _dims(args[1])
            shape = argument
        else:
            argument = tuple(int(a) for a in call.attrs.axes)
            shape = tuple(_shape(source)[a] for a in argument)
        variable = self._add_parameter(key, source, shape, f"{source.name}_{key.name}")
        self._derived[variable.name] = _Derived(source.name, call.op.name, argument)
        return variable

    def _argument(self, value: Any) -> Any:
        if isinstance(value, relax.Var):
            return self._variables[value]
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self._argument(f) for f in value.fields])
        if isinstance(value, relax.TupleGetItem):
            whole = self._argument(value.tuple_value)  # taken apart here, what nobody reads of it falls away
            return whole.fields[value.index] if isinstance(whole, relax.Tuple) else self._builder.emit(relax.TupleGetItem(whole, value.index))
        return value


def _with_attrs(call: Any, args: list[Any]) -> Any:
    """The call on new arguments; a grouped convolution keeps its channels per group."""
    if call.op.name == "relax.nn.conv2d" and int(call.attrs.groups) > 1:
        a = call.attrs
        groups = _shape(args[0])[1] // _shape(args[1])[1]
        return relax.op.nn.conv2d(args[0], args[1], a.strides, a.padding, a.dilation, groups, a.data_layout, a.kernel_layout, a.out_layout, a.out_dtype)
    return relax.Call(call.op, args, call.attrs, call.ty_args)


def _moved_shape(old_in: tuple[int, ...], old_out: tuple[int, ...], new_in: tuple[int, ...]) -> tuple[int, ...]:
    """The target of a reshape whose input changed: the first axis that can absorbs the change."""
    old, new = int(np.prod(old_in)), int(np.prod(new_in))
    if old == new:
        return old_out
    for axis, length in enumerate(old_out):
        if length > 1 and length * new % old == 0:
            return (*old_out[:axis], length * new // old, *old_out[axis + 1 :])
    raise ModelError(f"a reshape from {old_in} to {old_out} cannot follow its input to {new_in}")


class _OperatorLog:
    """Which Relax operator each primitive function was legalised from, recorded while it happens."""

    def __init__(self) -> None:
        self.origins: dict[str, tuple[str, Any]] = {}

    @staticmethod
    def has_rule(name: str) -> bool:
        return tvm.ir.Op.get(name).get_attr("FLegalize") is not None

    def recorder(self, name: str) -> Any:
        rule = tvm.ir.Op.get(name).get_attr("FLegalize")

        def legalize(builder: Any, call: Any) -> Any:
            result = rule(builder, call)
            if isinstance(result, relax.Call) and result.op.name == "relax.call_tir":
                self.origins[result.args[0].name_hint] = (name.removeprefix("relax."), call.attrs)
            return result

        return legalize


def _calls(fused: tvm.IRModule, grouped: tvm.IRModule, log: _OperatorLog, sources: Mapping[str, str]) -> list[Call]:
    calls = []
    for block in fused["main"].body.blocks:
        for binding in block.bindings:
            value = binding.value
            if not isinstance(value, relax.Call) or value.op.name != "relax.call_tir":
                continue
            name = value.args[0].name_hint
            args = list(value.args[1].fields)
            shapes = (*(_shape(a) for a in args), _shape(binding.var))
            inner = grouped[name]
            if isinstance(inner, relax.Function):
                operators = _fused_operators(inner, log)
            else:
                operators = (_operator(name, log, tuple(f"a{i}" for i in range(len(args))), shapes[:-1], shapes[-1]),)
            read = tuple(sources[a.name] for a in args if isinstance(a, relax.Var) and a.name in sources)
            calls.append(Call(name, operators, read, shapes, str(binding.var.ty.dtype)))
    return calls


def _fused_operators(function: Any, log: _OperatorLog) -> tuple[Operator, ...]:
    labels = {p: f"a{i}" for i, p in enumerate(function.params)}
    operators: list[Operator] = []
    for block in function.body.blocks:
        for binding in block.bindings:
            if isinstance(binding.value, relax.Call) and binding.value.op.name == "relax.call_tir":
                args = list(binding.value.args[1].fields)
                operands = tuple(labels.get(a, "const") for a in args)
                operators.append(_operator(binding.value.args[0].name_hint, log, operands, tuple(_shape(a) for a in args), _shape(binding.var)))
                labels[binding.var] = f"v{len(operators) - 1}"
            elif isinstance(binding.value, relax.Var):
                labels[binding.var] = labels[binding.value]
    return tuple(operators)


def _operator(function: str, log: _OperatorLog, operands: tuple[str, ...], shapes: tuple[tuple[int, ...], ...], out: tuple[int, ...]) -> Operator:
    name, attrs = log.origins.get(function, (function, None))
    text = "" if attrs is None else str(attrs).partition("(")[2].rstrip(")")
    stride, groups = 1, 1
    if name == "nn.conv2d":
        stride, groups = int(attrs.strides[0]), int(attrs.groups)
        if groups > 1:  # the number follows the channels; what stays is the channels of one group
            text = text.replace(f"groups={groups}", f"channels_per_group={shapes[1][1]}")
    return Operator(name, text, operands, shapes, out, stride, groups)


def _shape(expr: Any) -> tuple[int, ...]:
    return tuple(int(d) for d in expr.ty.shape)


def _dims(shape: Any) -> tuple[int, ...]:
    return tuple(int(d) for d in shape.values)
