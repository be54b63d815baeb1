"""Compares compiled networks with torch, and finds the layer where they part.

A schedule, a kernel, the lowering or the surgery may be at fault: whichever it is, the answers of
the library on real images differ from those of the network that it was made from.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cprune_rl.compiler.deploy.build import build_maps
from cprune_rl.compiler.deploy.run_networks import run_on_device, run_outputs
from cprune_rl.compiler.devices.base import RpcDevice
from cprune_rl.compiler.export.fused_calls import FusedCall
from cprune_rl.compiler.layouts.variants import VariantChoice
from cprune_rl.compiler.tuning.network_tuner import NetworkTuner
from cprune_rl.core.network import Plan
from cprune_rl.core.output_agreement import OutputAgreement, compare_answers
from cprune_rl.models.answers import torch_answers

__all__ = ["compare_library", "first_wrong_layer"]

_SAME_MAP = 1e-3  # largest difference of a map, as a share of its spread
_SMALLEST = 1e-12  # a spread where all values are zero


def compare_library(
    device: RpcDevice, path: Path, model: nn.Module, images: NDArray[np.float32]
) -> OutputAgreement:
    """Compare a library's answers on its device with torch's.

    Args:
        device: that it was compiled for.
        path: the library.
        model: the network that it was made from.
        images: `(n, channels, height, width)`, normalised.

    Raises:
        ModelError: the network's own answers are no numbers.
        DeviceError: the library does not run, or the device is gone.
    """
    return compare_answers(torch_answers(model.eval(), images), run_on_device(device, path, images))


def first_wrong_layer(
    tuner: NetworkTuner,
    plan: Plan,
    model: nn.Module,
    *,
    choice: VariantChoice,
    image: NDArray[np.float32],
) -> str:
    """Name the first layer whose map torch does not compute anywhere.

    All maps of the compiled network are compared with all values that torch computes on the way. A
    map that differs does not count where a later one that is made of it is right again: fusion ends
    in the middle of what torch does at once.

    Args:
        tuner: has tuned the tasks of the plan in the chosen variants.
        plan: what the network keeps.
        model: the network.
        choice: the variant of each subgraph.
        image: `(1, channels, height, width)`.

    Returns:
        Empty where every map is right.

    Raises:
        DeviceError: the network does not run.
    """
    path = tuner.device.build_folder / "maps.so"
    build_maps(tuner, plan, model, path, choice)
    maps = run_outputs(tuner.device, path, image)
    calls = [
        tuner.variants.all[variant].placed(plan)[subgraph].call
        for subgraph, variant in enumerate(choice.variants)
    ]
    values = _torch_values(model, image, {value.size for value in maps})
    is_right = [
        values.has(_in_nchw(value, call.layouts[-1]))
        for value, call in zip(maps, calls, strict=True)
    ]
    wrong = _first_wrong(calls, is_right)
    return "" if wrong is None else _described(tuner, wrong, choice.variants[wrong], calls[wrong])


def _first_wrong(calls: Sequence[FusedCall], is_right: Sequence[bool]) -> int | None:
    """Find the first wrong subgraph that nothing right is made of."""
    leads_to_right = list(is_right)
    for position in reversed(range(len(calls))):
        if leads_to_right[position]:
            for read in calls[position].reads:
                if isinstance(read, int):
                    leads_to_right[read] = True
    return next((at for at, leads in enumerate(leads_to_right) if not leads), None)


def _described(tuner: NetworkTuner, subgraph: int, variant: int, call: FusedCall) -> str:
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in call.parameters))
    operators = ", ".join(dict.fromkeys(operator.name for operator in call.operators))
    what = f"layer {layers[0]!r} ({operators})" if layers else f"the operators {operators}"
    return f"{what}, subgraph {subgraph} in {tuner.variants.all[variant].name}"


def _in_nchw(value: NDArray[np.float32], layout: str) -> NDArray[np.float32]:
    if layout != "NHWC":
        return value
    return np.ascontiguousarray(value.transpose(0, 3, 1, 2))


class _Values(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch states no types
    """Every value that torch computes, of some sizes.

    Args:
        sizes: numbers of elements that are kept.
    """

    def __init__(self, sizes: Collection[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self._sizes = frozenset(sizes)
        self._by_size: dict[int, list[NDArray[np.float32]]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.numel() in self._sizes:
                self._keep(value)
        return result

    def _keep(self, value: torch.Tensor) -> None:
        # A copy: what is changed in place afterwards was a value all the same.
        kept = np.array(value.detach().float().numpy(), np.float32).reshape(-1)
        self._by_size.setdefault(kept.size, []).append(kept)

    def has(self, value: NDArray[np.float32]) -> bool:
        """Tell whether torch computed this value somewhere."""
        flat = value.reshape(-1)
        return any(
            _difference(flat, other) <= _SAME_MAP for other in self._by_size.get(flat.size, ())
        )


def _difference(value: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the largest difference of two maps, as a share of the spread of the second."""
    scale = float(other.std() + _SAME_MAP * np.abs(other).max()) + _SMALLEST
    difference = float(np.abs(value - other).max())
    return difference / scale


@torch.no_grad()
def _torch_values(model: nn.Module, image: NDArray[np.float32], sizes: set[int]) -> _Values:
    values = _Values(sizes)
    with values:
        model.eval()(torch.from_numpy(image))
    return values
