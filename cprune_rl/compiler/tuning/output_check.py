"""Computes with torch what a task should compute: a schedule that is fast and wrong must not win.

A schedule is checked before it is believed to be a task's fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import tvm
from numpy.typing import NDArray
from torch.nn import functional

from cprune_rl.compiler.devices.base import RpcDevice
from cprune_rl.compiler.export.exported_network import LoweredModule
from cprune_rl.compiler.export.fused_calls import FusedCall, Operator
from cprune_rl.compiler.export.parameters import DerivedParameter
from cprune_rl.compiler.kernels.implementations import BLOCK_SPARSE
from cprune_rl.core.protocols import Artifact, Measurement

__all__ = ["OutputCheck", "checked_task"]

_TOLERANCE = 1e-3  # of the largest value: sums are taken in another order
_SMALLEST = 1e-5  # a difference that is none, where all values are next to zero
_ELEMENTWISE = (
    "add",
    "subtract",
    "multiply",
    "divide",
    "maximum",
    "minimum",
    "sigmoid",
    "tanh",
    "exp",
    "sqrt",
)
Values = Sequence[torch.Tensor]
Evaluate = Callable[[Operator, Values], torch.Tensor]


@dataclass(frozen=True)
class OutputCheck:
    """Compares a program's output with torch's, on random inputs.

    Attributes:
        call: the task.
        packings: for each argument how it is computed from its logical form; None where it has it.
        device: where the program runs.
    """

    call: FusedCall
    packings: tuple[DerivedParameter | None, ...]
    device: RpcDevice

    def __call__(self, artifact: Artifact) -> str | None:
        """Return what is wrong with a program's output.

        Returns:
            None where nothing is, or where torch has no counterpart of an operator.
        """
        inputs = self._inputs()
        expected = _evaluate(self.call, [torch.from_numpy(value) for value in inputs])
        if expected is None:
            return None
        outputs = self.device.run(artifact, self._arguments(inputs))
        if isinstance(outputs, Measurement):
            return (
                f"it ran when it was timed and not when its output was looked at: {outputs.error}"
            )
        output = np.asarray(outputs[-1], np.float32).reshape(expected.shape)
        error = float(np.abs(output - expected).max())
        scale = float(np.abs(expected).max())
        if error <= _TOLERANCE * scale + _SMALLEST:
            return None
        return (
            f"wrong output: it differs from torch's by {error:.3g} where values reach {scale:.3g}"
        )

    def tables(self) -> dict[int, NDArray[Any]]:
        """Return arguments that say what the program reads, by position.

        They are whole numbers, and a timing must not make them up.
        """
        if not any(packing is not None and packing.prune is not None for packing in self.packings):
            return {}
        arguments = enumerate(self._arguments(self._inputs()))
        return {at: value for at, value in arguments if np.issubdtype(value.dtype, np.integer)}

    def _arguments(self, inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[Any]]:
        pairs = zip(inputs, self.packings, strict=True)
        return [value if packing is None else packing.compute(value) for value, packing in pairs]

    def _inputs(self) -> list[NDArray[np.float32]]:
        """Draw values of the arguments' logical forms.

        Arguments that are computed from the same weights get the same values.
        """
        rng = np.random.default_rng(0)
        weights: dict[str, NDArray[np.float32]] = {}
        inputs = []
        for shape, packing in zip(self.call.shapes[:-1], self.packings, strict=True):
            value = rng.standard_normal(shape).astype(np.float32)
            if packing is not None:
                if packing.prune is not None:
                    value = packing.prune(value)
                value = weights.setdefault(packing.source, value)
            inputs.append(value)
        return inputs


def checked_task(
    lowered: LoweredModule, call: FusedCall, device: RpcDevice
) -> tuple[tvm.IRModule, OutputCheck]:
    """Return the task of a call, and the check of its output on a device."""
    return lowered.task(call), OutputCheck(call, lowered.packings(call), device)


def _evaluate(call: FusedCall, inputs: Values) -> NDArray[np.float32] | None:
    """Return the output of a task; None where torch has no counterpart of an operator."""
    values = {f"a{i}": value for i, value in enumerate(inputs)}
    result = f"v{len(call.operators) - 1}"
    for position, operator in enumerate(call.operators):
        if operator.name not in _OPERATORS or "const" in operator.operands:
            return None
        operands: list[torch.Tensor] = [values[name] for name in operator.operands]
        for at, value in operator.constants:
            operands.insert(at, torch.tensor(value))
        values[f"v{position}"] = _OPERATORS[operator.name](operator, operands)
    return np.asarray(values[result].numpy(), np.float32)


def _conv2d(operator: Operator, values: Values) -> torch.Tensor:
    data, weights, *_ = values  # the offsets of a block-sparse layer say no more
    padded = _padded(operator, data, 0.0)
    convolved = functional.conv2d(
        padded,
        weights,
        stride=[int(s) for s in operator.attrs.strides],
        dilation=[int(d) for d in operator.attrs.dilation],
        # Where a function of ours took the operator's place, the attribute `groups` is that of the
        # dense network.
        groups=padded.shape[1] // weights.shape[1],
    )
    return _permuted(convolved, "NCHW", operator.out_layout)


def _max_pool2d(operator: Operator, values: Values) -> torch.Tensor:
    pooled = functional.max_pool2d(
        _padded(operator, values[0], -float("inf")),
        [int(p) for p in operator.attrs.pool_size],
        stride=[int(s) for s in operator.attrs.strides],
        dilation=[int(d) for d in operator.attrs.dilation],
        ceil_mode=bool(operator.attrs.ceil_mode),
    )
    return _permuted(pooled, "NCHW", operator.out_layout)


def _padded(operator: Operator, data: torch.Tensor, fill: float) -> torch.Tensor:
    """Return the map in NCHW, with its borders."""
    top, left, bottom, right = (int(p) for p in operator.attrs.padding)
    moved = _permuted(data, operator.layouts[0], "NCHW")
    return functional.pad(moved, (left, right, top, bottom), value=fill)


def _permuted(value: torch.Tensor, source: str, wanted: str) -> torch.Tensor:
    return value.permute([source.index(axis) for axis in wanted])


def _matmul(operator: Operator, values: Values) -> torch.Tensor:
    left, right, *_ = values
    if operator.implementation == BLOCK_SPARSE:
        return functional.linear(left, right)
    return torch.matmul(left, right)


def _reduction(reduce: Callable[..., torch.Tensor]) -> Evaluate:
    def evaluate(operator: Operator, values: Values) -> torch.Tensor:
        axes = tuple(int(a) for a in operator.attrs.axis)
        return reduce(values[0], axes, keepdim=bool(operator.attrs.keepdims))

    return evaluate


def _permute_dims(operator: Operator, values: Values) -> torch.Tensor:
    return values[0].permute([int(a) for a in operator.attrs.axes])


def _elementwise(function: Callable[..., torch.Tensor]) -> Evaluate:
    return lambda _, values: function(*values)


_OPERATORS: dict[str, Evaluate] = {
    "nn.conv2d": _conv2d,
    "nn.max_pool2d": _max_pool2d,
    "matmul": _matmul,
    "mean": _reduction(torch.mean),
    "sum": _reduction(torch.sum),
    "reshape": lambda operator, values: values[0].reshape(operator.out_shape),
    "permute_dims": _permute_dims,
    **{name: _elementwise(getattr(torch, name)) for name in _ELEMENTWISE},
    **{f"nn.{name}": _elementwise(getattr(functional, name)) for name in ("relu", "silu")},
}
