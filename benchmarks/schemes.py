"""Where fine-grained pruning pays: latency of one layer over density and block size.

It is compared with the dense layer, with narrower ones and with torch's own sparse layer.

`python benchmarks/schemes.py [--threads 1 2] [--layer NAME ...] [--trials 32] [--storage URL]
[--json FILE] [--png FILE]`. Each implementation is tuned from random schedules, with the same
number of trials in each of its layout variants. Then the best schedules of all are timed in turns,
and every ratio is to the dense layer's in the same rounds. A narrower layer has about as many
multiplications as the sparse one, at channel counts that fill vectors, as a search would take
them. torch multiplies a sparse matrix by the unfolded map: in CSR, with the best single entries of
the same density.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from runtimes import timer
from torch import nn
from torch.nn import functional

from cprune_rl.compiler.devices.base import RpcDevice
from cprune_rl.compiler.devices.local import LocalDevice
from cprune_rl.compiler.devices.target import host_cpu
from cprune_rl.compiler.export.exported_network import ExportedNetwork
from cprune_rl.compiler.layouts.variants import (
    LayoutVariants,
    distinct_variants,
    find_layout_variants,
)
from cprune_rl.compiler.tuning.budget import TuningBudget
from cprune_rl.compiler.tuning.output_check import checked_task
from cprune_rl.compiler.tuning.schedule import transfer_schedule
from cprune_rl.compiler.tuning.task_tuner import TaskTuner, TuningTask
from cprune_rl.compiler.tuning.trials import build_candidate
from cprune_rl.core.intervals import Interval, speedup_interval
from cprune_rl.core.network import Plan
from cprune_rl.core.protocols import Artifact
from cprune_rl.core.scheme import MAX_PATTERN_DENSITY, Scheme
from cprune_rl.core.system_info import command_line, describe_system, now_utc
from cprune_rl.cost_cache import CostStore, open_store

matplotlib.use("Agg")  # no display is needed, or taken
_N_TRIALS = 32  # of each layout variant
_N_RANDOM = 12  # of them, at most
_N_ROUNDS = 15
_EVENNESS = 0.2  # how much it counts that both channel counts are narrowed alike
_WHOLE_VECTORS = 64  # channels from which counts are multiples of 8, below of 4
_ALL = 1 << 20  # channels: one block
SIZES = (1, 4, 8, 16, _ALL)
KERNEL_SIZES = (8, 16)
DENSITIES = (0.5, 0.25, 0.125, 0.0625)


@dataclass(frozen=True)
class Layer:
    """A convolution.

    Attributes:
        n_in: channels read.
        n_out: channels written.
        size: height and width of the map read.
        kernel: height and width.
        stride: both ways.
    """

    n_in: int
    n_out: int
    size: int
    kernel: int = 3
    stride: int = 1

    def narrowed(self, density: float) -> Layer:
        """Return a layer with about as many multiplications as the sparse one.

        Channels go in whole vectors, and both counts are narrowed about alike.
        """

        def distance(counts: tuple[int, int]) -> float:
            read = math.log(counts[0] / self.n_in)
            written = math.log(counts[1] / self.n_out)
            return abs(read + written - math.log(density)) + _EVENNESS * abs(read - written)

        counts = itertools.product(_vector_multiples(self.n_in), _vector_multiples(self.n_out))
        n_in, n_out = min(counts, key=distance)
        return replace(self, n_in=n_in, n_out=n_out)


def _vector_multiples(channels: int) -> range:
    step = 8 if channels >= _WHOLE_VECTORS else 4
    return range(step, channels + 1, step)


LAYERS = {
    "16->16 3x3 at 32x32": Layer(16, 16, 32),
    "64->64 3x3 at 8x8": Layer(64, 64, 8),
    "64->64 3x3 at 16x16": Layer(64, 64, 16),
    "128->128 3x3 at 8x8": Layer(128, 128, 8),
    "32->64 3x3 stride 2 at 16x16": Layer(32, 64, 16, stride=2),
    "64->64 1x1 at 16x16": Layer(64, 64, 16, 1),
}


class _SecondLayer(nn.Module):
    """A layer behind something that makes its map: one that reads the image stays dense."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            layer.n_in, layer.n_out, layer.kernel, layer.stride, layer.kernel // 2
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.conv(functional.relu(x)))


class LayerTuner:
    """Tunes the implementations of layers on a device.

    Args:
        device: where.
        store: keeps the trials.
        n_trials: of each layout variant of a task.
    """

    def __init__(self, device: RpcDevice, store: CostStore, n_trials: int) -> None:
        self._device = device
        self._budget = TuningBudget(
            n_pool=0, n_random=min(_N_RANDOM, n_trials), n_max=n_trials, worth_s=math.inf
        )
        self._tuner = TaskTuner(device, store, 0, math.inf)

    def fastest(self, layer: Layer, scheme: str | None = None) -> Artifact | None:
        """Return the library of the fastest schedule of any variant; None where none runs.

        Args:
            layer: to compute.
            scheme: that prunes it.
        """
        variants = _described(layer, self._device)
        network = variants.network
        plan = Plan(network.dense.widths, (("conv", scheme),) if scheme else ())
        at = network.scheme_layers["conv"]
        libraries: dict[float, Artifact] = {}  # by seconds
        tasks = variants.workloads(plan)[at]
        for position in distinct_variants(tasks):
            placed = variants.all[position].placed(plan)[at]
            task, check = checked_task(placed.lowered, placed.call, self._device)
            tuning_task = TuningTask(tasks[position], lambda t=task, c=check: (t, c), 1.0)
            self._tuner.tune(tuning_task, "schemes", self._budget)
            best = self._tuner.best_schedule(tasks[position])
            if best is None:
                continue
            schedule, seconds = best
            candidate = transfer_schedule(schedule, task, self._device.target)
            assert candidate is not None, "the schedule was found for this task"
            path = self._device.build_folder / f"best{time.monotonic_ns()}.so"
            built = build_candidate(self._device, candidate, path)
            if isinstance(built, Artifact):
                libraries.setdefault(seconds, replace(built, tables=check.tables()))
        return libraries[min(libraries)] if libraries else None


def _described(layer: Layer, device: RpcDevice) -> LayoutVariants:
    torch.manual_seed(0)
    model = _SecondLayer(layer).eval()
    example = torch.zeros(1, layer.n_in, layer.size, layer.size)
    return find_layout_variants(
        "layer", ExportedNetwork.export(model, example, {}, device.target), ()
    )


def sparse_run(
    layer: Layer, weight: torch.Tensor, image: torch.Tensor
) -> Callable[[], torch.Tensor]:
    """Compute a layer as torch does: a CSR matrix times the unfolded map, without bias and ReLU.

    Args:
        layer: to compute.
        weight: `(out, in, kernel, kernel)`, zero where it is pruned.
        image: `(1, in, size, size)`.

    Returns:
        What computes `(out, height * width)`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its CSR tensors beta
        matrix = weight.reshape(layer.n_out, -1).to_sparse_csr()

    def run() -> torch.Tensor:
        if layer.kernel == layer.stride == 1:
            return matrix @ image.reshape(layer.n_in, -1)
        unfolded = functional.unfold(
            image, layer.kernel, padding=layer.kernel // 2, stride=layer.stride
        )
        return matrix @ unfolded[0]

    return run


def _sparse_run(layer: Layer, density: float) -> Callable[[], torch.Tensor]:
    """Prune a random layer to its largest single weights."""
    weight = _SecondLayer(layer).conv.weight.detach()
    largest = weight.abs().flatten().topk(round(density * weight.numel())).indices
    kept = torch.zeros(weight.numel()).scatter_(0, largest, 1.0).reshape(weight.shape)
    return sparse_run(layer, weight * kept, torch.randn(1, layer.n_in, layer.size, layer.size))


def compare(
    name: str, layer: Layer, n_threads: int, storage: str | None, n_trials: int = _N_TRIALS
) -> dict[str, Any]:
    """Time every implementation of a layer in turns.

    Args:
        name: of the layer.
        layer: to compute.
        n_threads: that a library may use.
        storage: cost cache; None for one in memory.
        n_trials: of each layout variant of a task.
    """
    store = open_store(storage)
    with LocalDevice(n_threads, host_cpu()) as device:
        tuner = LayerTuner(device, store, n_trials)
        libraries = {"dense": tuner.fastest(layer)}
        for density in DENSITIES:
            libraries[f"narrower, {density:g}"] = tuner.fastest(layer.narrowed(density))
            for kind, scheme in schemes_of(layer, density).items():
                libraries[f"{kind}, {density:g}"] = tuner.fastest(layer, str(scheme))
        torch.set_num_threads(n_threads)
        others = {
            f"torch sparse, {d:g}": timer(_sparse_run(layer, d), n_threads) for d in DENSITIES
        }
        running = {name: library for name, library in libraries.items() if library is not None}
        samples = _time_in_turns(device, running, others)
    store.close()
    dense = samples["dense"]
    speedups = {name: speedup_interval(dense, timed) for name, timed in samples.items()}
    kinds = ("narrower", *schemes_of(layer, min(DENSITIES)))
    return {
        "layer": name,
        "threads": n_threads,
        "dense_us": round(float(np.median(dense)) * 1e6, 2),
        "speedup_over_dense": {
            name: [round(s.value, 3), round(s.low, 3), round(s.high, 3)]
            for name, s in speedups.items()
        },
        "break_even_density": {kind: _break_even(kind, speedups) for kind in kinds},
    }


def schemes_of(layer: Layer, density: float) -> dict[str, Scheme]:
    """Return the schemes that can prune a layer at a density, by what a result calls them."""
    sizes = {size: "all" if size == _ALL else str(size) for size in SIZES}
    schemes = {f"block of {name}": Scheme("block", size, density) for size, name in sizes.items()}
    if layer.kernel == 3:
        for size in KERNEL_SIZES:
            schemes[f"kernel, block of {size}"] = Scheme("kernel", size, density)
        if density <= MAX_PATTERN_DENSITY:
            schemes["pattern, block of 4"] = Scheme("pattern", 4, density)
    return schemes


def _break_even(kind: str, speedups: Mapping[str, Interval]) -> float | None:
    """Find the largest density at which a kind is as fast as dense; None where it never is.

    It is interpolated, in logarithms, between the densities that were timed.
    """
    gains = {
        density: math.log(speedups[name].value)
        for density in DENSITIES
        if (name := f"{kind}, {density:g}") in speedups
    }
    timed = list(gains)
    faster = [density for density in timed if gains[density] >= 0]
    if not faster:
        return None
    below = max(faster)
    if below == timed[0]:
        return below  # or denser still: denser ones were not timed
    above = timed[timed.index(below) - 1]
    log_densities = [math.log(above), math.log(below)]
    return round(math.exp(np.interp(0.0, [gains[above], gains[below]], log_densities)), 3)


def _time_in_turns(
    device: RpcDevice,
    libraries: Mapping[str, Artifact],
    others: Mapping[str, Callable[[], float]],
) -> dict[str, np.ndarray]:
    """Return seconds of each, `(_N_ROUNDS,)`, timed in another order each round."""
    rng = np.random.default_rng(0)
    names = list(libraries)
    samples: dict[str, list[float]] = {name: [] for name in (*names, *others)}
    for _ in range(_N_ROUNDS):
        order = [names[i] for i in rng.permutation(len(names))]
        timed = device.time([libraries[name] for name in order])
        for name, measurement in zip(order, timed, strict=True):
            samples[name].append(measurement.latency_s)
        for name, time_once in others.items():
            samples[name].append(time_once())
    arrays = {name: np.array(seconds) for name, seconds in samples.items()}
    return {name: seconds for name, seconds in arrays.items() if np.isfinite(seconds).all()}


def plot(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw speed-up over the dense layer by density, for each layer and number of threads."""
    figure, all_axes = plt.subplots(
        1, len(rows), figsize=(4.2 * len(rows), 3.6), sharey=True, squeeze=False
    )
    names = dict.fromkeys(name for row in rows for name in row["speedup_over_dense"])
    kinds = list(dict.fromkeys(name.rpartition(", ")[0] for name in names if name != "dense"))
    for axes, row in zip(all_axes[0], rows, strict=True):
        for at, kind in enumerate(kinds):
            _plot_kind(axes, kind, row["speedup_over_dense"], f"C{at}")
        axes.axhline(1.0, color="#a0a4ab", lw=1)
        threads = f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"
        axes.set(xscale="log", yscale="log", xlabel="density", title=f"{row['layer']}, {threads}")
        axes.title.set_fontsize(9)
        axes.set_xticks(DENSITIES, [f"{d:g}" for d in DENSITIES])
        axes.minorticks_off()
    all_axes[0][0].set_ylabel("times as fast as dense")
    all_axes[0][-1].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _plot_kind(axes: Axes, kind: str, speedups: Mapping[str, Sequence[float]], color: str) -> None:
    timed = [density for density in DENSITIES if f"{kind}, {density:g}" in speedups]
    if not timed:
        return
    style = "--" if kind.startswith("kernel") else "-"
    axes.plot(
        timed,
        [speedups[f"{kind}, {density:g}"][0] for density in timed],
        {"torch sparse": ":", "pattern, block of 4": "-."}.get(kind, style),
        marker="o",
        ms=3,
        label=kind,
        color="k" if kind in ("narrower", "torch sparse") else color,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--layer", nargs="*", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument(
        "--trials", type=int, default=_N_TRIALS, help="of each layout variant of a task"
    )
    parser.add_argument("--storage", help="cost cache to take schedules from and keep them in")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args(arguments)
    rows = []
    for n_threads in options.threads:
        for name in options.layer:
            rows.append(compare(name, LAYERS[name], n_threads, options.storage, options.trials))
            print(json.dumps(rows[-1]), flush=True)
            if options.json:
                origin = {
                    "command": command_line(),
                    "when": now_utc(),
                    "system": describe_system(),
                    "trials_of_each_form": options.trials,
                    "rounds": _N_ROUNDS,
                }
                options.json.write_text(json.dumps({**origin, "layers": rows}, indent=1) + "\n")
            if options.png:
                plot(rows).savefig(options.png, dpi=110, bbox_inches="tight")
                plt.close("all")


if __name__ == "__main__":
    main()
