"""Records the operators that a network runs, with what they read and write.

The network itself runs once, on one example. So asserts, switches and constants in its forward are
no hindrance, and the sizes that it computes from its input are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cprune_rl.models.side_heads import tensors_by_name

__all__ = ["Call", "Trace", "Value", "tensors_in", "trace"]

_MAX_NUMBERS = 100_000  # of a tensor of integers whose content is kept: it may be an index


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the run.

    Attributes:
        shape: of it.
        source: name of the parameter or buffer that it is; empty where it is none.
        numbers: its content, of a small tensor of integers.
    """

    shape: tuple[int, ...]
    source: str = ""
    numbers: NDArray[Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False, kw_only=True)
class Call:
    """One call of an ATen operator.

    Attributes:
        name: of the operator without its overload; `add` for `add_` too.
        is_pointwise: whether each number of the result follows from the operands' at its place.
        changes_input: whether it writes into its first operand.
        args: by the names of the operator's schema, defaults filled in; a `Value` for each tensor.
        outputs: the results that are tensors.
        module: the innermost module that was running.
    """

    name: str
    is_pointwise: bool
    changes_input: bool
    args: Mapping[str, Any]
    outputs: tuple[Value, ...]
    module: str

    @property
    def inputs(self) -> list[Value]:
        """The tensors that it reads, in order."""
        return list(tensors_in(list(self.args.values())))


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What a network ran.

    Attributes:
        calls: in order.
        outputs: the tensors that the network returned.
        modules: names of the modules that ran.
    """

    calls: Sequence[Call]
    outputs: Sequence[Value]
    modules: frozenset[str]

    def needed_for(self, outputs: Iterable[Value]) -> list[bool]:
        """Tells of each call whether some tensors depend on it.

        A forward may also compute what it only keeps, such as a mean for a plot. What a call
        changes in place may be a part of any other tensor, so that such calls always count.
        """
        values = set(outputs)
        is_needed = []
        for call in reversed(self.calls):
            needed = call.changes_input or not values.isdisjoint(call.outputs)
            if needed:
                values.update(call.inputs)
            is_needed.append(needed)
        return is_needed[::-1]


def trace(model: nn.Module, example: torch.Tensor) -> Trace:
    """Runs a network without gradients and records what it runs.

    Args:
        model: in the mode that is to be seen. Its forward may leave something behind on it, and in
            training a norm changes its statistics.
        example: one batch of its input.
    """
    recorder = _Recorder(model)
    modules: list[str] = []
    with ExitStack() as stack:
        for name, module in model.named_modules():
            handles = (
                module.register_forward_pre_hook(_Enter(recorder.running, modules, name)),
                module.register_forward_hook(_Leave(recorder.running), always_call=True),
            )
            for handle in handles:
                stack.callback(handle.remove)
        with torch.no_grad(), recorder:
            outputs = model(example)
    return Trace(
        calls=recorder.calls,
        outputs=[recorder.value(tensor) for tensor in tensors_by_name(outputs).values()],
        modules=frozenset(modules),
    )


def tensors_in(nested: Any, kind: type = Value) -> Iterator[Any]:
    """Finds what is of a kind in nested lists, tuples and dictionaries, in order."""
    if isinstance(nested, kind):
        yield nested
    elif isinstance(nested, Mapping):
        for value in nested.values():
            yield from tensors_in(value, kind)
    elif isinstance(nested, (list, tuple)):
        for value in nested:
            yield from tensors_in(value, kind)


class _Enter:
    """Notes that a module begins; a class, because copies of the network copy its hooks."""

    def __init__(self, running: list[str], modules: list[str], name: str) -> None:
        self._running = running
        self._modules = modules
        self._name = name

    def __call__(self, *_: Any) -> None:
        self._running.append(self._name)
        self._modules.append(self._name)


class _Leave:
    """Notes that the innermost module has ended."""

    def __init__(self, running: list[str]) -> None:
        self._running = running

    def __call__(self, *_: Any) -> None:
        self._running.pop()


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Records the calls that reach ATen.

    Attributes:
        calls: so far.
        running: names of the modules that are running, the innermost last.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self.running: list[str] = [""]
        # a tensor is known by its identity: none may go while the network runs
        self._alive: list[torch.Tensor] = []
        self._values: dict[int, Value] = {}
        self._sources: dict[tuple[Any, ...], str] = {}
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._sources.setdefault(_place(tensor), name)

    def value(self, tensor: torch.Tensor) -> Value:
        """The value that stands for a tensor."""
        value = self._values.get(id(tensor))
        if value is None:
            source = self._sources.get(_place(tensor), "")
            is_index = not tensor.is_floating_point() and tensor.numel() <= _MAX_NUMBERS
            value = Value(
                shape=tuple(tensor.shape),
                source=source,
                numbers=np.array(tensor.tolist()) if is_index and not tensor.is_complex() else None,
            )
            self._values[id(tensor)] = value
            self._alive.append(tensor)
        return value

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        named = _by_name(func._schema, args, kwargs or {})
        read = {name: self._replaced(value) for name, value in named.items()}
        outputs = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        is_in_place = name.endswith("_") and not name.endswith("__")
        self.calls.append(
            Call(
                name=name.rstrip("_") if is_in_place else name,
                is_pointwise=torch.Tag.pointwise in func.tags,
                changes_input=is_in_place,
                args=read,
                outputs=tuple(self.value(t) for t in tensors_in(outputs, torch.Tensor)),
                module=self.running[-1],
            )
        )
        return outputs

    def _replaced(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self.value(value)
        if isinstance(value, (list, tuple)):
            return [self._replaced(each) for each in value]
        return value


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What tells a parameter from others, also where a forward reads its `.data`."""
    if not tensor.numel():
        return (id(tensor),)
    return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())


def _by_name(schema: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """An operator's arguments by name, defaults filled in."""
    named = {}
    for position, argument in enumerate(schema.arguments):
        if position < len(args):
            named[argument.name] = args[position]
        elif argument.name in kwargs:
            named[argument.name] = kwargs[argument.name]
        else:
            named[argument.name] = argument.default_value if argument.has_default_value() else None
    return named
