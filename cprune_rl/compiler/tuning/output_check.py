"""What a task should compute, by torch: a program that is fast and wrong must not win.

Called by the tuner for the fastest program of each task, and before a new fastest one is believed.
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

from cprune_rl.compiler.devices.rpc_device import RpcDevice
from cprune_rl.compiler.export.exported_network import LoweredModule
from cprune_rl.compiler.export.fused_calls import FusedCall, Operator
from cprune_rl.compiler.export.parameters import DerivedParameter
from cprune_rl.compiler.kernels.implementations import BLOCK_SPARSE
from cprune_rl.core.protocols import Artifact, Measurement

__all__ = ["OutputCheck", "checked_task"]

_TOLERANCE = 1e-3  # of the largest value: sums are taken in another order
Values = Sequence[torch.Tensor]


@dataclass(frozen=True)
class OutputCheck:
    """Compares a program's output with torch's, on random inputs.

    Attributes:
        call: the task.
        packings: for each argument how it is computed from its logical form, None where it is that.
        device: where the program runs.
    """

    call: FusedCall
    packings: tuple[DerivedParameter | None, ...]
    device: RpcDevice

    def __call__(self, artifact: Artifact) -> str | None:
        """What is wrong with a program's output;

        None where nothing is, or where torch has no counterpart of an operator.
        """
        inputs = self._inputs()
        expected = _evaluate(self.call, [torch.from_numpy(i) for i in inputs])
        if expected is None:
            return None
        found = self.device.run(artifact, self._arguments(inputs))
        if isinstance(found, Measurement):
            return f"it ran when it was timed and not when its output was looked at: {found.error}"
        error = float(
            np.abs(np.asarray(found[-1], np.float32).reshape(expected.shape) - expected).max()
        )
        scale = float(np.abs(expected).max())
        return (
            None
            if error <= _TOLERANCE * scale + 1e-5
            else f"wrong output: it differs from torch's by {error:.3g} where values reach {scale:.3g}"
        )

    def tables(self) -> dict[int, NDArray[Any]]:
        """Arguments that say what the program reads, by position:

        whole numbers, which a timing must not make up.
        """
        if not any(packing is not None and packing.prune is not None for packing in self.packings):
            return {}
        return {
            at: value
            for at, value in enumerate(self._arguments(self._inputs()))
            if np.issubdtype(value.dtype, np.integer)
        }

    def _arguments(self, inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[Any]]:
        return [
            i if packing is None else packing.compute(i)
            for i, packing in zip(inputs, self.packings, strict=True)
        ]

    def _inputs(self) -> list[NDArray[np.float32]]:
        """Random values of the arguments' logical forms;

        one for those that are computed from the same weights.
        """
        rng = np.random.default_rng(0)
        weights: dict[str, NDArray[np.float32]] = {}
        inputs = []
        for shape, packing in zip(self.call.shapes[:-1], self.packings, strict=True):
            value = rng.standard_normal(shape).astype(np.float32)
            if packing is not None:
                value = weights.setdefault(
                    packing.source, value if packing.prune is None else packing.prune(value)
                )
            inputs.append(value)
        return inputs


def checked_task(
    lowered: LoweredModule, call: FusedCall, device: RpcDevice
) -> tuple[tvm.IRModule, OutputCheck]:
    """Return the task of a call, and the check of its output on a device."""
    return lowered.task(call), OutputCheck(call, lowered.packings(call), device)


def _evaluate(call: FusedCall, inputs: Values) -> NDArray[np.float32] | None:
    known = {f"a{i}": value for i, value in enumerate(inputs)}
    for position, operator in enumerate(call.operators):
        if operator.name not in _OPERATORS or "const" in operator.operands:
            return None
        operands: list[torch.Tensor] = [known[name] for name in operator.operands]
        for at, value in operator.constants:
            operands.insert(at, torch.tensor(value))
        known[f"v{position}"] = _OPERATORS[operator.name](operator, operands)
    return np.asarray(known[f"v{len(call.operators) - 1}"].numpy(), np.float32)


def _conv2d(operator: Operator, values: Values) -> torch.Tensor:
    a = operator.attrs
    data, weights = values[0], values[1]
    padding = [int(p) for p in a.padding]  # top, left, bottom, right
    padded = functional.pad(
        _moved(data, operator.layouts[0], "NCHW"), (padding[1], padding[3], padding[0], padding[2])
    )
    groups = (
        padded.shape[1] // weights.shape[1]
    )  # the attribute is of the dense network where a form of ours took the operator's place
    result = functional.conv2d(
        padded, weights, None, [int(s) for s in a.strides], 0, [int(d) for d in a.dilation], groups
    )
    return _moved(result, "NCHW", operator.out_layout)


def _matmul(operator: Operator, values: Values) -> torch.Tensor:
    return (
        functional.linear(values[0], values[1])
        if operator.implementation == BLOCK_SPARSE
        else torch.matmul(*values)
    )


def _max_pool2d(operator: Operator, values: Values) -> torch.Tensor:
    a = operator.attrs
    top, left, bottom, right = (int(p) for p in a.padding)
    padded = functional.pad(
        _moved(values[0], operator.layouts[0], "NCHW"),
        (left, right, top, bottom),
        value=-float("inf"),
    )
    pooled = functional.max_pool2d(
        padded,
        [int(p) for p in a.pool_size],
        [int(s) for s in a.strides],
        0,
        [int(d) for d in a.dilation],
        bool(a.ceil_mode),
    )
    return _moved(pooled, "NCHW", operator.out_layout)


def _reduced(reduce: Callable[..., torch.Tensor]) -> Callable[[Operator, Values], torch.Tensor]:
    return lambda operator, values: reduce(
        values[0], tuple(int(a) for a in operator.attrs.axis), keepdim=bool(operator.attrs.keepdims)
    )


def _elementwise(
    function: Callable[..., torch.Tensor],
) -> Callable[[Operator, Values], torch.Tensor]:
    return lambda _, values: function(*values)


def _moved(value: torch.Tensor, source: str, wanted: str) -> torch.Tensor:
    return value if source == wanted else value.permute([source.index(axis) for axis in wanted])


_OPERATORS: dict[str, Callable[[Operator, Values], torch.Tensor]] = {
    "nn.conv2d": _conv2d,
    "nn.max_pool2d": _max_pool2d,
    "matmul": _matmul,
    "mean": _reduced(torch.mean),
    "sum": _reduced(torch.sum),
    "reshape": lambda operator, values: values[0].reshape(operator.out_shape),
    "permute_dims": lambda operator, values: values[0].permute(
        [int(a) for a in operator.attrs.axes]
    ),
    **{
        name: _elementwise(getattr(torch, name))
        for name in (
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
    },
    **{f"nn.{name}": _elementwise(getattr(functional, name)) for name in ("relu", "silu")},
}
