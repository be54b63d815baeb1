"""Reads a trained network out of an ONNX file, as modules and operators that can be pruned.

onnx2pytorch converts each node. Layers become torch's own modules. Every other node is run once on
an example, and the operators of torch that it calls are put in its place: what it computes from
constants alone, such as the target of a reshape, is a constant from then on.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cprune_rl.errors import ConfigError, DataError, ModelError, first_line
from cprune_rl.models.export_check import EXPORT_TOLERANCE, random_images
from cprune_rl.models.onnx_export import check_onnx_installed, run_onnx
from cprune_rl.models.onnx_layers import as_layer
from cprune_rl.models.torchvision_import import import_torchvision

__all__ = ["is_onnx", "load_onnx"]

_MIN_OPSET = 7  # operators of before have broadcasting rules of their own
_IMAGE_AXES = 4
_CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")
_OPERATOR_DOMAINS = ("", "ai.onnx")
_FIX_SHAPES = (
    "python -m onnxruntime.tools.make_dynamic_shape_fixed --dim_param NAME --dim_value N IN OUT"
)
_aten = torch.ops.aten
_RESHAPES = (_aten.view.default, _aten._unsafe_view.default, _aten._reshape_alias.default)
_EXPANDS = (_aten.expand.default,)


def is_onnx(name: str) -> bool:
    """Whether the name of a network means an ONNX file."""
    return name.endswith(".onnx")


def load_onnx(path: Path) -> nn.Module:
    """Read a network and its weights, and check with ONNX Runtime that it computes the same.

    It takes batches of any size. A softmax at the end is left out: training needs logits.

    Raises:
        ConfigError: a package of the extra `onnx` is not installed.
        DataError: the file, or one that it keeps its weights in, is missing or damaged.
        ModelError: the network has an operator, an input or a shape that cannot be followed.
    """
    check_onnx_installed(f"reading {path.name}")
    if importlib.util.find_spec("onnx2pytorch") is None:
        raise ConfigError(
            f"reading {path.name} needs onnx2pytorch: pip install 'cprune-rl[onnx]' "
            "with Python 3.11 or newer"
        )
    import_torchvision()  # which the converter imports
    proto = _read(path)
    shape = _input_shape(proto, path)
    images = random_images(shape)
    expected = run_onnx(path, images)
    with warnings.catch_warnings(), torch.no_grad():
        # the converter warns of its own doings
        warnings.simplefilter("ignore")
        conversion = _Conversion(proto, shape)
        try:
            network = conversion.network()
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        except Exception as error:  # the converter raises anything for what it does not know
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise ModelError(f"{path} cannot be converted: {reason}") from error
        logits = network(torch.from_numpy(images))
        found = (logits.softmax(-1) if conversion.has_softmax else logits).numpy()
        if not _agree(found, expected):
            raise ModelError(
                f"{path} is converted to something else than ONNX Runtime computes: outputs "
                f"{found.shape} and {expected.shape}"
            )
        _check_batches(network, path, shape)
    return network


def _read(path: Path) -> Any:
    """Read the file and the files that it keeps weights in."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.load(str(path), load_external_data=False)
        if not proto.graph.node:
            raise DataError(f"{path} is no ONNX file: it holds no operators")
        _check_opset(proto, path)
        _load_external(proto, path)
    except DecodeError as error:
        raise DataError(f"{path} is no ONNX file: {first_line(error)}") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{path} cannot be read as ONNX: {first_line(error)}") from error
    return proto


def _load_external(proto: Any, path: Path) -> None:
    from onnx import external_data_helper

    for tensor in proto.graph.initializer:
        if not external_data_helper.uses_external_data(tensor):
            continue
        location = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
        if not (path.parent / location).is_file():
            raise DataError(
                f"{path} keeps its weights in {location!r}, which is not beside it: copy that "
                "file too"
            )
    external_data_helper.load_external_data_for_model(proto, str(path.parent))


def _input_shape(proto: Any, path: Path) -> tuple[int, ...]:
    """Give the shape of the images, as a batch of the size that the file asks for, else of one."""
    import onnx

    _check_operators(proto.graph.node, path)
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise ModelError(f"{path} has {len(inputs)} inputs, {names}: one batch of images is taken")
    if len(proto.graph.output) != 1:
        names = ", ".join(value.name for value in proto.graph.output)
        raise ModelError(
            f"{path} has {len(proto.graph.output)} outputs, {names}: one is taken, the classes'"
        )
    kind = inputs[0].type.tensor_type
    if kind.elem_type != onnx.TensorProto.FLOAT:
        name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
        raise ModelError(f"{path} reads images of {name}: export it with float32")
    axes = list(kind.shape.dim)
    shown = " x ".join(str(d.dim_value or d.dim_param or "?") for d in axes) or "no known shape"
    if len(axes) != _IMAGE_AXES:
        raise ModelError(f"{path} reads {shown}: images are batch x channels x height x width")
    batch, *image = [int(axis.dim_value) for axis in axes]  # 0 of an axis without a length
    if min(image) < 1:
        raise ModelError(
            f"{path} reads images of any size, {shown}: give it one, with {_FIX_SHAPES}"
        )
    return (max(batch, 1), *image)


def _check_opset(proto: Any, path: Path) -> None:
    import onnx

    opset = max((e.version for e in proto.opset_import if e.domain in _OPERATOR_DOMAINS), default=0)
    newest = onnx.defs.onnx_opset_version()
    if not _MIN_OPSET <= opset <= newest:
        raise ModelError(
            f"{path} has opset {opset}, {_MIN_OPSET} to {newest} are read: export it with "
            "another, or convert it by onnx.version_converter.convert_version"
        )


@dataclass
class _Conversion:
    """Builds a graph of modules and operators, node by node, while it runs them on an example.

    Attributes:
        proto: the file's content; changed.
        shape: of the example.
        values: by the file's names, what each node gave on the example.
        known: names of values that do not depend on the images.
        nodes: of the graph, by the file's names of their values.
        modules: layers, by their names.
        constants: tensors that operators take, by their names.
        has_softmax: whether the file ends in one, which is left out.
    """

    proto: Any
    shape: tuple[int, ...]
    values: dict[str, Any] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    nodes: dict[str, fx.Node] = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    constants: dict[str, torch.Tensor] = field(default_factory=dict)
    graph: fx.Graph = field(default_factory=fx.Graph)
    has_softmax: bool = False

    def network(self) -> fx.GraphModule:
        """Convert the whole graph."""
        from onnx2pytorch.convert.operations import convert_operations

        graph = self.proto.graph
        _lift_constants(graph)
        self._begin()
        opset = max(e.version for e in self.proto.opset_import if e.domain in _OPERATOR_DOMAINS)
        converted = list(convert_operations(graph, opset, 0, False))
        # the converter joins some nodes, so their list is read after it is done
        for node, (_, _, operation) in zip(graph.node, converted, strict=True):
            self._convert(node, operation)
        last = graph.output[0].name
        if last in self.known:
            raise ModelError("its output does not depend on the images")
        self.graph.output(self._logits(self.nodes[last]))
        root = {**self.modules, **self.constants}
        network = fx.GraphModule(root, self.graph, "OnnxNetwork").eval()
        network.graph.eliminate_dead_code()
        network.recompile()
        return network

    def _logits(self, output: fx.Node) -> fx.Node:
        """Leave a softmax over the classes out."""
        is_softmax = output.op == "call_function" and output.target is _aten._softmax.default
        before = output.args[0] if is_softmax else None
        if not isinstance(before, fx.Node):
            return output
        self.has_softmax = True
        return before

    def _begin(self) -> None:
        from onnx import numpy_helper

        graph = self.proto.graph
        for tensor in graph.initializer:
            # a copy: arrays of a file are not writable
            self.values[tensor.name] = torch.from_numpy(numpy_helper.to_array(tensor).copy())
            self.known.add(tensor.name)
        (name,) = [value.name for value in graph.input if value.name not in self.known]
        generator = torch.Generator().manual_seed(0)
        self.values[name] = torch.randn(self.shape, generator=generator)
        self.nodes[name] = self.graph.placeholder("images")

    def _convert(self, node: Any, operation: Any) -> None:
        inputs = [self._input(name) for name in node.input]
        while inputs and inputs[-1] is None:
            inputs.pop()
        depends = [name for name in node.input if name in self.nodes]
        if node.op_type in ("Shape", "Size") or not depends:
            self._keep(node, _run(operation, inputs), None)
            return
        known = {name: self.values[name] for name in node.input if name in self.known}
        layer = as_layer(node, operation, known, self.values[depends[0]])
        if layer is None:
            self._record(node, operation, inputs)
            return
        name = self._name(node)
        self.modules[name] = layer.eval()
        result = layer(self.values[depends[0]])
        self._keep(node, result, self.graph.call_module(name, (self.nodes[depends[0]],)))

    def _input(self, name: str) -> Any:
        """Give a value; an input that is left out has no name."""
        return self.values[name] if name else None

    def _keep(self, node: Any, result: Any, made: fx.Node | None) -> None:
        """Keep what a node gave, which no image had a part in where no node was made of it."""
        results = result if isinstance(result, (tuple, list)) else (result,)
        for at, (name, value) in enumerate(zip(node.output, results, strict=False)):
            self.values[name] = torch.as_tensor(value)
            if made is None:
                self.known.add(name)
            elif isinstance(result, (tuple, list)):
                self.nodes[name] = self.graph.call_function(_item, (made, at))
            else:
                self.nodes[name] = made

    def _record(self, node: Any, operation: Any, inputs: Sequence[Any]) -> None:
        """Put the operators in a node's place that it calls on the example."""
        recorder = _Recorder(self)
        for name in node.input:
            if name in self.nodes:
                recorder.follow(self.values[name], self.nodes[name])
        with recorder:
            result = _run(operation, inputs)
        results = result if isinstance(result, (tuple, list)) else (result,)
        for name, value in zip(node.output, results, strict=False):
            self.values[name] = value
            made = recorder.node_of(value)
            if made is None:
                self.known.add(name)
            else:
                self.nodes[name] = made

    def _name(self, node: Any) -> str:
        """Name a layer as its weight is named, else as its node is."""
        names = [n.removesuffix(".weight") for n in node.input[1:] if n.endswith(".weight")]
        path = names[0] if names else node.name or f"{node.op_type}_{len(self.modules)}"
        parts = [re.sub(r"\W", "_", part) for part in re.split(r"[./:]+", path) if part]
        name = ".".join(parts) or node.op_type
        taken = self.modules
        inside = any(t.startswith(f"{name}.") or name.startswith(f"{t}.") for t in taken)
        if inside or name in taken or name.split(".")[0] == "constants":
            name = f"{name.replace('.', '_')}_{len(taken)}"
        return name


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's is not typed
    """Writes down the operators that are called on followed tensors, and runs them.

    Args:
        conversion: whose graph they are added to.
    """

    def __init__(self, conversion: _Conversion) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._conversion = conversion
        # the tensors are kept: an identity is free for another one as soon as its object is gone
        self._followed: dict[int, tuple[torch.Tensor, fx.Node]] = {}

    def follow(self, value: torch.Tensor, node: fx.Node) -> None:
        """Take a tensor for what a node gives."""
        self._followed[id(value)] = (value, node)

    def node_of(self, value: Any) -> fx.Node | None:
        """The node that gives a tensor; None of a constant."""
        found = self._followed.get(id(value))
        return None if found is None else found[1]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operator, and write it down where a followed tensor has a part in it."""
        kwargs = dict(kwargs or {})
        result = func(*args, **kwargs)
        tensors = _tensors([*args, *kwargs.values()])
        if all(self.node_of(tensor) is None for tensor in tensors):
            return result
        source = self.node_of(args[0]) if func in _RESHAPES else None
        if source is not None and args[0].shape == result.shape:
            self.follow(result, source)
            return result
        target, arguments = _for_any_batch(func, args, result)
        node = self._conversion.graph.call_function(
            target,
            tuple(self._argument(argument) for argument in arguments),
            {key: self._argument(argument) for key, argument in kwargs.items()},
        )
        if isinstance(result, torch.Tensor):
            self.follow(result, node)
        else:
            for at, part in enumerate(result):
                item = self._conversion.graph.call_function(_item, (node, at))
                self.follow(part, item)
        return result

    def _argument(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._argument(item) for item in value]
        if not isinstance(value, torch.Tensor):
            return value
        node = self.node_of(value)
        if node is not None:
            return node
        constants = self._conversion.constants
        name = f"constants.c{len(constants)}"
        constants[name] = value.detach().clone()
        return self._conversion.graph.get_attr(name)


def _run(operation: Any, inputs: Sequence[Any]) -> Any:
    is_concatenation = isinstance(operation, functools.partial) and operation.func is torch.cat
    return operation(list(inputs)) if is_concatenation else operation(*inputs)


def _item(values: Sequence[Any], at: int) -> Any:
    return values[at]


def _tensors(values: Sequence[Any]) -> list[torch.Tensor]:
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _tensors(value)
    return found


def _for_any_batch(
    func: Any, args: Sequence[Any], result: Any
) -> tuple[Callable[..., Any], Sequence[Any]]:
    """Free operators of the example's size of the batch, and a flattening of channels too."""
    if func not in (*_RESHAPES, *_EXPANDS):
        return func, args
    before, after = tuple(args[0].shape), tuple(result.shape)
    if func in _EXPANDS:
        is_batch = len(before) == len(after) and before[0] == after[0]
        return func, (args[0], [-1 if is_batch else after[0], *after[1:]])
    if not before or not after or before[0] != after[0]:
        return torch.reshape, (args[0], list(after))
    if len(after) == 2 and len(before) > 2:
        return torch.flatten, (args[0], 1)
    return torch.reshape, (args[0], [-1, *after[1:]])


def _lift_constants(graph: Any) -> None:
    """Turn nodes that only hold a tensor, or hand one on, into the graph's own tensors."""
    import onnx

    weights = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Constant" and "value" in attributes:
            tensor = attributes["value"].t
        elif node.op_type == "Identity" and node.input[0] in weights:
            tensor = weights[node.input[0]]
        else:
            kept.append(node)
            continue
        copied = onnx.TensorProto()
        copied.CopyFrom(tensor)
        copied.name = node.output[0]
        weights[copied.name] = copied
        graph.initializer.append(copied)
    kept = [_copied(node) for node in kept]
    del graph.node[:]
    graph.node.extend(kept)


def _copied(node: Any) -> Any:
    """Copy a node, without an attribute of batch norms that the converter does not know."""
    import onnx

    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    for attribute in list(copied.attribute):
        if attribute.name == "training_mode" and attribute.i == 0:
            copied.attribute.remove(attribute)
    return copied


def _check_operators(nodes: Sequence[Any], path: Path) -> None:
    import onnx

    foreign = {f"{n.domain}.{n.op_type}" for n in nodes if n.domain not in _OPERATOR_DOMAINS}
    own = {node.op_type for node in nodes if node.domain in _OPERATOR_DOMAINS}
    unknown = {kind for kind in own if kind in _CONTROL_FLOW or not onnx.defs.has(kind)}
    if refused := sorted(foreign | unknown):
        raise ModelError(
            f"{path} has operators that cannot be followed: {', '.join(refused)}. Export it with "
            "ONNX's own operators, without branches"
        )


def _check_batches(network: nn.Module, path: Path, shape: tuple[int, ...]) -> None:
    """Refuse a network that computes a batch otherwise than its images one by one."""
    batch, *image = shape
    several = torch.from_numpy(random_images((3, *image)))
    try:
        together = network(several).numpy()
        alone = torch.cat([network(one) for one in torch.split(several, 1)]).numpy()
        is_free = _agree(together, alone)
    except RuntimeError:  # shapes that do not fit
        is_free = False
    if not is_free:
        raise ModelError(
            f"{path} computes batches of {batch} alone: export it with a dynamic batch axis"
        )


def _agree(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> bool:
    if found.shape != expected.shape:
        return False
    return bool(np.abs(found - expected).max() <= EXPORT_TOLERANCE * np.abs(expected).max())
