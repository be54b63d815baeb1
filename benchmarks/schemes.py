"""Where fine-grained pruning pays:

latency of one layer over density and block size, against dense, narrower and torch's own sparse
layers.

`python benchmarks/schemes.py [--threads 1 2] [--layer NAME ...] [--trials 32] [--storage URL]
[--json FILE] [--png FILE]`. Each way of computing a layer is tuned
from random programs with the same number of trials in each of its variants; then the best programs of
all ways are timed in turns, and every ratio
is to the dense layer's in the same rounds. A narrower layer has about as many multiplications as
the sparse one, at channel counts that fill
vectors, as a search would take them. torch multiplies a sparse matrix (CSR, the best single entries
of the same density) by the unfolded map.
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
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
import tvm
from matplotlib.figure import Figure
from runtimes import timer
from torch import nn
from torch.nn import functional

from cprune_rl.compiler.devices.local import LocalDevice
from cprune_rl.compiler.devices.rpc_device import RpcDevice
from cprune_rl.compiler.devices.target import host_cpu
from cprune_rl.compiler.export.exported_network import ExportedNetwork
from cprune_rl.compiler.layouts.variants import LayoutVariants, find_layout_variants
from cprune_rl.compiler.tuning.budget import TuningBudget
from cprune_rl.compiler.tuning.output_check import OutputCheck
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
_N_TRIALS = 32  # of each variant
_N_ROUNDS = 15
_EVENNESS = 0.2  # how much it counts that both channel counts are narrowed alike
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
        """With about as many multiplications as a sparse one, at whole vectors of channels, and
        both counts narrowed about alike.
        """

        def unlike(counts: tuple[int, int]) -> float:
            read, written = math.log(counts[0] / self.n_in), math.log(counts[1] / self.n_out)
            return abs(read + written - math.log(density)) + _EVENNESS * abs(read - written)

        n_in, n_out = min(
            itertools.product(
                *(
                    range(step, n + 1, step)
                    for n, step in ((self.n_in, _step(self.n_in)), (self.n_out, _step(self.n_out)))
                )
            ),
            key=unlike,
        )
        return replace(self, n_in=n_in, n_out=n_out)


def _step(channels: int) -> int:
    return 8 if channels >= 64 else 4


LAYERS = {
    "16->16 3x3 at 32x32": Layer(16, 16, 32),
    "64->64 3x3 at 8x8": Layer(64, 64, 8),
    "64->64 3x3 at 16x16": Layer(64, 64, 16),
    "128->128 3x3 at 8x8": Layer(128, 128, 8),
    "32->64 3x3 stride 2 at 16x16": Layer(32, 64, 16, stride=2),
    "64->64 1x1 at 16x16": Layer(64, 64, 16, 1),
}


class _Alone(nn.Module):
    """The layer behind something that makes its map, because the layer that reads the image stays
    dense.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            layer.n_in, layer.n_out, layer.kernel, layer.stride, layer.kernel // 2
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.conv(functional.relu(x)))


class Workshop:
    """Tunes ways of computing layers on a device.

    Args:
        device: where.
        store: keeps the trials.
        n_trials: of each variant of a task.
    """

    def __init__(self, device: RpcDevice, store: CostStore, n_trials: int) -> None:
        self._device, self._effort = (
            device,
            TuningBudget(n_pool=0, n_random=min(12, n_trials), n_max=n_trials, worth_s=math.inf),
        )
        self._tuner = TaskTuner(device, store, 0, math.inf)

    def fastest(self, layer: Layer, scheme: str | None = None) -> Artifact | None:
        """The library of the fastest program of any variant; None where none runs.

        Args:
            layer: to compute.
            scheme: that prunes it.
        """
        variants = _described(layer, self._device)
        network = variants.network
        plan = Plan(network.dense.widths, (("conv", scheme),) if scheme else ())
        at = network.scheme_layers["conv"]
        found: list[tuple[float, Artifact]] = []
        seen: set[str] = set()
        for variant in variants.all:
            workload = variant.network.workloads(plan)[at]
            if workload.key in seen:
                continue  # some variants have the same task
            seen.add(workload.key)
            widths, schemes = variant.network.widths(plan), variant.network.schemes_by_layer(plan)
            lowered = variant.exported.lowered(widths, schemes)
            call = lowered.calls[at]
            task, check = (
                lowered.task(call.function),
                OutputCheck(call, variant.exported.packings(widths, call, schemes), self._device),
            )
            self._tuner.tune(
                TuningTask(workload, partial(_given, task, check), 1.0), "schemes", self._effort
            )
            best = self._tuner.best_schedule(workload)
            if best is None:
                continue
            candidate = transfer_schedule(best[0], task, self._device.target)
            assert candidate is not None, "the program was found for this task"
            built = build_candidate(
                self._device, candidate, self._device.build_folder / f"best{time.monotonic_ns()}.so"
            )
            if isinstance(built, Artifact):
                found.append((best[1], replace(built, tables=check.tables())))
        return min(found, key=lambda item: item[0])[1] if found else None


def _given(task: tvm.IRModule, check: OutputCheck) -> tuple[tvm.IRModule, OutputCheck]:
    return task, check


def _described(layer: Layer, device: RpcDevice) -> LayoutVariants:
    torch.manual_seed(0)
    exported = ExportedNetwork.export(
        _Alone(layer).eval(), torch.zeros(1, layer.n_in, layer.size, layer.size), {}, device.target
    )
    return find_layout_variants("layer", exported, ())


def sparse_run(
    layer: Layer, weight: torch.Tensor, image: torch.Tensor
) -> Callable[[], torch.Tensor]:
    """torch's way: a CSR matrix times the unfolded map, bias and ReLU left out.

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
        is_plain = layer.kernel == layer.stride == 1
        return matrix @ (
            image.reshape(layer.n_in, -1)
            if is_plain
            else functional.unfold(
                image, layer.kernel, padding=layer.kernel // 2, stride=layer.stride
            )[0]
        )

    return run


def _sparse_run(layer: Layer, density: float) -> Callable[[], torch.Tensor]:
    """With the largest single weights of a random layer."""
    weight = _Alone(layer).conv.weight.detach()
    kept = torch.zeros(weight.numel()).scatter_(
        0, weight.abs().flatten().topk(round(density * weight.numel())).indices, 1.0
    )
    return sparse_run(
        layer,
        weight * kept.reshape(weight.shape),
        torch.randn(1, layer.n_in, layer.size, layer.size),
    )


def compare(
    name: str, layer: Layer, n_threads: int, storage: str | None, n_trials: int = _N_TRIALS
) -> dict[str, Any]:
    """Every way of computing a layer, timed in turns.

    Args:
        name: of the layer.
        layer: to compute.
        n_threads: that a program may use.
        storage: cost cache; None for one in memory.
        n_trials: of each variant of a task.
    """
    store = open_store(storage)
    with LocalDevice(n_threads, host_cpu()) as device:
        workshop = Workshop(device, store, n_trials)
        ways: dict[str, Artifact | None] = {"dense": workshop.fastest(layer)}
        for density in DENSITIES:
            ways[f"narrower, {density:g}"] = workshop.fastest(layer.narrowed(density))
            for kind, scheme in schemes_of(layer, density).items():
                ways[f"{kind}, {density:g}"] = workshop.fastest(layer, str(scheme))
        torch.set_num_threads(n_threads)
        others = {
            f"torch sparse, {d:g}": timer(_sparse_run(layer, d), n_threads) for d in DENSITIES
        }
        samples = _time_in_turns(device, {k: a for k, a in ways.items() if a is not None}, others)
    store.close()
    dense = samples["dense"]
    speedups = {way: speedup_interval(dense, timed) for way, timed in samples.items()}
    return {
        "layer": name,
        "threads": n_threads,
        "dense_us": round(float(np.median(dense)) * 1e6, 2),
        "speedup_over_dense": {
            way: [round(v, 3) for v in (s.value, s.low, s.high)] for way, s in speedups.items()
        },
        "break_even_density": {
            kind: _break_even(kind, speedups)
            for kind in ("narrower", *schemes_of(layer, min(DENSITIES)))
        },
    }


def schemes_of(layer: Layer, density: float) -> dict[str, Scheme]:
    """The schemes that can prune a layer at a density, by what a result calls them."""
    found = {
        f"block of {'all' if size == _ALL else size}": Scheme("block", size, density)
        for size in SIZES
    }
    if layer.kernel == 3:
        found |= {
            f"kernel, block of {size}": Scheme("kernel", size, density) for size in KERNEL_SIZES
        }
        if density <= MAX_PATTERN_DENSITY:
            found["pattern, block of 4"] = Scheme("pattern", 4, density)
    return found


def _break_even(kind: str, speedups: Mapping[str, Interval]) -> float | None:
    """The largest density at which a kind is as fast as dense, in logarithms between those that
    were timed; None where it never is.
    """
    points = [
        (d, math.log(s.value))
        for d in DENSITIES
        if (s := speedups.get(f"{kind}, {d:g}")) is not None
    ]
    faster = [d for d, gain in points if gain >= 0]
    if not faster:
        return None
    at = [d for d, _ in points].index(max(faster))
    if at == 0:
        return max(faster)  # or denser still: denser ones were not timed
    (above, slower), (below, quicker) = points[at - 1], points[at]
    return round(math.exp(np.interp(0.0, [slower, quicker], [math.log(above), math.log(below)])), 3)


def _time_in_turns(
    device: RpcDevice, ways: Mapping[str, Artifact], others: Mapping[str, Callable[[], float]]
) -> dict[str, np.ndarray]:
    """Seconds of each, `(_N_ROUNDS,)`, in another order each round."""
    rng, names = np.random.default_rng(0), list(ways)
    samples: dict[str, list[float]] = {name: [] for name in (*names, *others)}
    for _ in range(_N_ROUNDS):
        order = [names[i] for i in rng.permutation(len(names))]
        for name, measured in zip(order, device.time([ways[n] for n in order]), strict=True):
            samples[name].append(measured.latency_s)
        for name, timed in others.items():
            samples[name].append(timed())
    return {name: np.array(timed) for name, timed in samples.items() if np.isfinite(timed).all()}


def plot(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Speed-up over the dense layer by density, a picture for each layer and number of threads."""
    figure, all_axes = plt.subplots(
        1, len(rows), figsize=(4.2 * len(rows), 3.6), sharey=True, squeeze=False
    )
    kinds = list(
        dict.fromkeys(
            way.rpartition(", ")[0]
            for row in rows
            for way in row["speedup_over_dense"]
            if way != "dense"
        )
    )
    for axes, row in zip(all_axes[0], rows, strict=True):
        for at, kind in enumerate(kinds):
            points = [
                (d, row["speedup_over_dense"][f"{kind}, {d:g}"])
                for d in DENSITIES
                if f"{kind}, {d:g}" in row["speedup_over_dense"]
            ]
            if points:
                line = {"torch sparse": ":", "pattern, block of 4": "-."}.get(
                    kind, "--" if kind.startswith("kernel") else "-"
                )
                axes.plot(
                    [d for d, _ in points],
                    [s[0] for _, s in points],
                    line,
                    marker="o",
                    ms=3,
                    label=kind,
                    color="k" if kind in ("narrower", "torch sparse") else f"C{at}",
                )
        axes.axhline(1.0, color="#a0a4ab", lw=1)
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="density",
            title=f"{row['layer']}, {row['threads']} thread{'s' if row['threads'] > 1 else ''}",
        )
        axes.title.set_fontsize(9)
        axes.set_xticks(DENSITIES, [f"{d:g}" for d in DENSITIES])
        axes.minorticks_off()
    all_axes[0][0].set_ylabel("times as fast as dense")
    all_axes[0][-1].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--layer", nargs="*", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument(
        "--trials", type=int, default=_N_TRIALS, help="of each layout variant of a task"
    )
    parser.add_argument("--storage", help="cost cache to take programs from and keep them in")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args(arguments)
    rows = []
    for n_threads in options.threads:
        for name in options.layer:
            rows.append(compare(name, LAYERS[name], n_threads, options.storage, options.trials))
            print(json.dumps(rows[-1]), flush=True)
            if options.json:
                made = {
                    "command": command_line(),
                    "when": now_utc(),
                    "system": describe_system(),
                    "trials_of_each_form": options.trials,
                    "rounds": _N_ROUNDS,
                }
                options.json.write_text(json.dumps({**made, "layers": rows}, indent=1) + "\n")
            if options.png:
                plot(rows).savefig(options.png, dpi=110, bbox_inches="tight")
                plt.close("all")


if __name__ == "__main__":
    main()
