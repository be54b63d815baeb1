"""A network as one file: its weights, and the graph of operators that computes with them.

The file is `.safetensors` with the graph as JSON in its metadata. Reading it runs no code of the
file: nothing is unpickled or evaluated, and the graph may only call torch's own operators on
tensors. So the network works without the code that once built it, also where the file comes from
somebody else. `torch.export.load` reads pickles, and so is not used.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from cprune_rl.core.untrusted import printable
from cprune_rl.errors import DataError, ModelError, first_line
from cprune_rl.models.weights import save_weights

__all__ = ["SavedNetwork", "has_graph", "load_network", "save_network"]

_FAKE_TENSOR_LOG = logging.getLogger("torch._subclasses.fake_tensor")
_KEY = "graph"  # of the metadata
_FORMAT = 1
_TRACED_BATCH = 3  # any number but 0 and 1, which torch.export takes for constants
_OPERATORS: Mapping[str, Callable[..., Any]] = {
    f"operator.{name}": getattr(operator, name)
    for name in ("getitem", "add", "sub", "mul", "floordiv", "mod", "neg")
}
"""What exported graphs do with sizes, and with operators that give several tensors."""
_WITH_FILES = ("from_file",)  # operators that read or write files
_CHECKS = ("_assert", "sym_constrain")  # operators that compute nothing
_NAMED = {
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}
"""Values that are written by their names in `torch`."""


@dataclass(frozen=True)
class _Node:
    """One call of the graph; a `_Value` in its arguments stands for what another one gave."""

    name: str
    call: Callable[..., Any]
    args: list[Any]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class _Value:
    """What a node gave, or the input, a weight or a constant, by its name."""

    name: str


class SavedNetwork(nn.Module):
    """A network in evaluation mode that was read from its graph.

    Its weights have the names that they had in the network. They can be trained further. Batch
    norms keep their statistics, also after `train()`.

    Attributes:
        input_shape: of one image as a batch.
        takes_batches: whether it takes batches of any size.
    """

    def __init__(self, graph: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.input_shape = tuple(_whole(length) for length in graph["input_shape"])
        self.takes_batches = bool(graph["takes_batches"])
        self._input = str(graph["input"])
        self._weights = {str(k): str(v) for k, v in graph["weights"].items()}
        self._constants = {str(k): _tensor(v) for k, v in graph["constants"].items()}
        parameters = set(graph["parameters"])
        for name in dict.fromkeys(self._weights.values()):
            _register(self, name, tensors[name], name in parameters)
        known = {self._input, *self._weights, *self._constants}
        self._nodes = list(_nodes(graph["nodes"], known))
        self._output = _decoded(graph["output"], known)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute logits of a batch of images."""
        values: dict[str, Any] = {self._input: images}
        for name, weight in self._weights.items():
            values[name] = _member(self, weight)
        for name, constant in self._constants.items():
            values[name] = constant.to(images.device)
        for node in self._nodes:
            args = [_filled(argument, values) for argument in node.args]
            kwargs = {key: _filled(argument, values) for key, argument in node.kwargs.items()}
            values[node.name] = node.call(*args, **kwargs)
        output: torch.Tensor = _filled(self._output, values)
        return output


def save_network(model: nn.Module, input_shape: tuple[int, ...], path: Path) -> None:
    """Write a network's weights, and its graph where torch.export can follow it.

    Args:
        model: in plain weights; left as it was, in evaluation mode.
        input_shape: of one image as a batch.
        path: of the file, `.safetensors`.
    """
    try:
        metadata = {_KEY: json.dumps(_graph(model.eval(), input_shape))}
    except ModelError:
        # without its graph the network still is what its code and these weights are
        metadata = None
    save_weights(model, path, metadata)


def has_graph(path: Path) -> bool:
    """Whether a file of weights has the graph beside them.

    Raises:
        DataError: the file is missing or damaged.
    """
    return _KEY in _metadata(path)


def load_network(path: Path) -> SavedNetwork:
    """Read a network that `save_network` wrote; no code is needed, and none in the file is run.

    Raises:
        DataError: the file is missing or damaged, or has no graph.
    """
    metadata = _metadata(path)
    if _KEY not in metadata:
        raise DataError(f"{path} holds weights alone, without the network's graph")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        graph = json.loads(metadata[_KEY])
        if graph["format"] != _FORMAT:
            raise ValueError(f"format {graph['format']!r}, this version reads {_FORMAT}")
        network = SavedNetwork(graph, tensors).eval()
        _try(network)
    except Exception as error:  # torch raises anything for operators that do not fit together
        reason = f"{type(error).__name__}: {printable(first_line(error))}"
        raise DataError(f"{path} holds no network that can be run: {reason}") from error
    return network


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} cannot be read as weights: {printable(first_line(error))}"
        ) from error


def _try(network: SavedNetwork) -> None:
    """Run the graph on shapes alone, which allocates nothing."""
    with (
        torch.no_grad(),
        warnings.catch_warnings(),
        FakeTensorMode(allow_non_fake_inputs=True),
    ):
        # torch warns of odd arguments, and logs where its operators stop
        warnings.simplefilter("ignore")
        before = _FAKE_TENSOR_LOG.disabled
        _FAKE_TENSOR_LOG.disabled = True
        try:
            network(torch.empty(network.input_shape))
        finally:
            _FAKE_TENSOR_LOG.disabled = before


def _graph(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, Any]:
    """Give the graph as JSON values.

    Raises:
        ModelError: torch.export cannot follow the network, or it does more than call operators.
    """
    program = _exported(model, input_shape)
    signature = program.graph_signature
    constants = {**signature.inputs_to_lifted_tensor_constants}
    weights = {**signature.inputs_to_parameters}
    for name, buffer in signature.inputs_to_buffers.items():
        kept_in_state = buffer not in signature.non_persistent_buffers
        (weights if kept_in_state else constants)[name] = buffer
    inputs = [node for node in program.graph.nodes if node.name in signature.user_inputs]
    outputs = program.graph.output_node().args[0]
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(f"it has {len(inputs)} inputs and {len(outputs)} outputs")
    image = inputs[0]
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    others = {node.op for node in program.graph.nodes} - {"placeholder", "call_function", "output"}
    if others:
        raise ModelError(f"its graph has {', '.join(sorted(others))}")
    return {
        "format": _FORMAT,
        "input_shape": list(input_shape),
        "takes_batches": isinstance(image.meta["val"].shape[0], torch.SymInt),
        "input": image.name,
        "weights": weights,
        "parameters": sorted(signature.parameters),
        "constants": {
            name: _encoded_tensor(_constant(program, target)) for name, target in constants.items()
        },
        "nodes": [
            [node.name, _call_name(node.target), _encoded(node.args), _encoded(node.kwargs)]
            for node in calls
            if not _is_check(node.target)
        ],
        "output": _encoded(outputs[0]),
    }


def _exported(model: nn.Module, input_shape: tuple[int, ...]) -> torch.export.ExportedProgram:
    """Follow a network with batches of any size, or else with the size that is given."""
    one, *image = input_shape
    any_batch = ({0: torch.export.Dim.AUTO},)
    # torch's stub lacks this overload
    plain: nn.Module = model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with warnings.catch_warnings():
        # torch warns of its own deprecated calls
        warnings.simplefilter("ignore")
        try:
            images = torch.zeros((_TRACED_BATCH, *image))
            return torch.export.export(plain, (images,), dynamic_shapes=any_batch)
        except Exception:  # torch.export raises whatever a network does with a batch
            try:
                return torch.export.export(plain, (torch.zeros((one, *image)),))
            except Exception as error:
                raise ModelError(f"torch.export cannot follow it: {first_line(error)}") from error


def _constant(program: torch.export.ExportedProgram, name: str) -> torch.Tensor:
    value = program.constants[name]
    if not isinstance(value, torch.Tensor):
        raise ModelError(f"its constant {name} is no tensor")
    return value


def _is_check(target: Any) -> bool:
    name = getattr(target, "__name__", "")
    return isinstance(target, torch._ops.OpOverload) and name.startswith(_CHECKS)


def _call_name(target: Any) -> str:
    """Name what a node calls, as `_call` finds it."""
    name = str(target)
    if isinstance(target, torch._ops.OpOverload):
        _call(name)
        return name
    for known, function in _OPERATORS.items():
        if function is target:
            return known
    raise ModelError(f"its graph calls {name}")


def _call(name: str) -> Callable[..., Any]:
    """Find an operator of torch's that computes with tensors, and nothing else.

    Raises:
        ModelError: there is none of that name.
    """
    if name in _OPERATORS:
        return _OPERATORS[name]
    namespace, _, rest = name.partition(".")
    packet_name, _, overload = rest.partition(".")
    is_plain = packet_name.isidentifier() and overload.isidentifier()
    if rest == "view.default":
        # the same for any memory layout
        packet_name = "reshape"
    if namespace == "aten" and is_plain and packet_name not in _WITH_FILES:
        packet = getattr(torch.ops.aten, packet_name, None)
        found = getattr(packet, overload, None)
        # TorchScript has operators with files and text of the same namespace, without the tag
        if isinstance(found, torch._ops.OpOverload) and torch.Tag.pt2_compliant_tag in found.tags:
            return found
    raise ModelError(f"its graph calls {name}, which is no operator on tensors")


def _encoded(value: Any) -> Any:
    """Write an argument as JSON values."""
    if isinstance(value, torch.fx.Node):
        return {"value": value.name}
    if isinstance(value, (list, tuple)):
        return [_encoded(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _encoded(item) for key, item in value.items()}
    for kind, of in _NAMED.items():
        if isinstance(value, of):
            return {kind: str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": value.type}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ModelError(f"its graph has {type(value).__name__} for an argument")


def _decoded(value: Any, known: set[str]) -> Any:
    """Read an argument; `known` are the values that there are by then."""
    if isinstance(value, list):
        return [_decoded(item, known) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "value":
        if content not in known:
            raise ValueError(f"its graph reads {content!r} before anything gives it")
        return _Value(content)
    if kind in _NAMED:
        named = getattr(torch, str(content), None)
        if not isinstance(named, _NAMED[kind]):
            raise ValueError(f"torch has no {kind} {content!r}")
        return named
    if kind == "device":
        return torch.device(str(content))
    if kind == "float":
        return float(content)
    raise ValueError(f"its graph has {kind!r} for an argument")


def _nodes(written: Sequence[Any], known: set[str]) -> Iterator[_Node]:
    for name, target, args, kwargs in written:
        yield _Node(
            name=name,
            call=_call(target),
            args=[_decoded(argument, known) for argument in args],
            kwargs={str(key): _decoded(argument, known) for key, argument in kwargs.items()},
        )
        known.add(name)


def _filled(argument: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(argument, _Value):
        return values[argument.name]
    if isinstance(argument, list):
        return [_filled(item, values) for item in argument]
    return argument


def _encoded_tensor(value: torch.Tensor) -> dict[str, Any]:
    array = value.detach().cpu().contiguous().numpy()
    content = base64.b64encode(array.tobytes()).decode()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "content": content}


def _tensor(written: Mapping[str, Any]) -> torch.Tensor:
    dtype = np.dtype(str(written["dtype"]))
    if dtype.kind not in "biuf":
        raise ValueError(f"a constant of {dtype}")
    content = np.frombuffer(base64.b64decode(written["content"]), dtype)
    return torch.from_numpy(content.reshape([_whole(n) for n in written["shape"]]).copy())


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no length")
    return value


def _register(root: nn.Module, name: str, value: torch.Tensor, is_parameter: bool) -> None:
    """Keep a tensor under a name with dots, in modules of no function."""
    *parents, last = name.split(".")
    module = root
    for parent in parents:
        if parent not in module._modules:
            module.add_module(parent, nn.Module())
        module = module.get_submodule(parent)
    if is_parameter:
        module.register_parameter(last, nn.Parameter(value))
    else:
        module.register_buffer(last, value)


def _member(root: nn.Module, name: str) -> torch.Tensor:
    *parents, last = name.split(".")
    module = root
    for parent in parents:
        module = module._modules[parent]  # type: ignore[assignment]  # made by `_register`
    value = module._parameters.get(last)
    return module._buffers[last] if value is None else value  # type: ignore[return-value]
