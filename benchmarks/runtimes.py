"""Times whole packaged networks, tuned by this project, beside ONNX Runtime and torch.compile.

`python benchmarks/runtimes.py [--json FILE]`; needs the extra `benchmark`.

Each rival runs at its best: ONNX Runtime with all graph optimisations and inputs bound in place,
torch.compile with frozen weights in the faster memory format. All are timed in turns on the same
cores, so only ratios within a row mean anything.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn

from cprune_rl.compiler.deploy.build import build_network
from cprune_rl.compiler.deploy.time_networks import Rounds, time_interleaved
from cprune_rl.compiler.devices.local import LocalDevice
from cprune_rl.compiler.devices.open import open_device
from cprune_rl.compiler.export.exported_network import ExportedNetwork
from cprune_rl.compiler.layouts.variants import find_layout_variants
from cprune_rl.compiler.tuning.network_tuner import NetworkTuner
from cprune_rl.core.intervals import speedup_interval
from cprune_rl.cost_cache import open_store
from cprune_rl.models.registry import build_model
from cprune_rl.models.zoo import MODELS
from cprune_rl.pruning.groups import find_groups

NETWORKS = ("resnet8", "vgg-small", "mobilenetv2-small", "resnet20")
THREADS = tuple(n for n in (1, 2) if n <= (psutil.cpu_count() or 1))
Run = Callable[[], Any]
_TOLERANCE = 1e-3  # of the largest logit
# For a runtime whose threads spin on after a run: whoever comes next has the cores to itself.
_REST_S = 0.25
_SAMPLE_S = 0.02


def require_rivals() -> None:
    """End the program, before anything is measured, where what a rival needs is not installed."""
    needed = ("onnx", "onnxscript", "onnxruntime")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        sys.exit(
            f"the runtimes to compare with need {', '.join(missing)}: "
            "pip install -c constraints.txt -e '.[benchmark]'"
        )


def compare(name: str, n_threads: int, storage: str | None, rounds: int = 40) -> dict[str, object]:
    """Time one packaged network, batch 1, in all three runtimes.

    Args:
        name: of the network.
        n_threads: that each runtime may use.
        storage: cost cache that schedules are taken from and kept in; None for one in memory.
        rounds: each is timed once in each.
    """
    model = build_model(name, 10).eval()
    example = torch.randn(MODELS[name].input_shape)
    store = open_store(storage)
    with (
        open_device(f"local?threads={n_threads}") as device,
        tempfile.TemporaryDirectory() as folder,
    ):
        assert isinstance(device, LocalDevice)
        groups = find_groups(model, example)
        model.to(memory_format=torch.contiguous_format)
        exported = ExportedNetwork.export(
            model, example, groups.axes, device.target, groups.written
        )
        variants = find_layout_variants(name, exported, groups.groups)
        tuner = NetworkTuner(variants, device, store)
        tuner.tune_dense()
        library = Path(folder) / "net.so"
        build_network(tuner, variants.network.dense, model, path=library)
        estimate = sum(c.latency_s for c in tuner.measure(variants.network.dense))
        rivals = {
            "onnxruntime": onnxruntime_run(model, example, n_threads, Path(folder)),
            **torch_runs(model, example, n_threads),
        }
        samples = time_interleaved(
            device,
            {"ours": library},
            tuple(example.shape),
            rounds=Rounds(rounds),
            others={k: timer(run, n_threads) for k, run in rivals.items()},
        )
    store.close()
    return _row(name, n_threads, estimate, samples)


def onnxruntime_run(model: nn.Module, example: torch.Tensor, n_threads: int, folder: Path) -> Run:
    """Make a run of the exported network, input and output bound in place."""
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecated calls
        torch.onnx.export(model, (example,), folder / "net.onnx", dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        folder / "net.onnx", options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    image = onnxruntime.OrtValue.ortvalue_from_numpy(example.numpy())
    binding.bind_ortvalue_input(session.get_inputs()[0].name, image)
    binding.bind_output(session.get_outputs()[0].name, "cpu")
    return lambda: session.run_with_iobinding(binding)


def torch_runs(model: nn.Module, example: torch.Tensor, n_threads: int) -> dict[str, Run]:
    """Make runs of the compiled network with frozen weights, in both memory formats.

    Each has a model of its own: a change of format is made in place, and a graph that is compiled
    again later would take the other one's weights. Both are run once more when both are made.

    Raises:
        RuntimeError: one of them does not compute what the model does.
    """
    import torch._inductor.config as inductor

    torch.set_num_threads(n_threads)
    # Drop the graphs of other networks: beyond a number of one class nothing more is compiled.
    torch._dynamo.reset()
    inductor.freezing = True
    runs: dict[str, Run] = {}
    formats = {
        "torch.compile": torch.contiguous_format,
        "torch.compile channels_last": torch.channels_last,
    }
    for label, memory_format in formats.items():
        placed = copy.deepcopy(model).to(memory_format=memory_format)
        image = example.contiguous(memory_format=memory_format)
        runs[label] = _inference(torch.compile(placed), image)
        runs[label]()
    with torch.inference_mode():
        expected = model(example)
    for label, run in runs.items():
        error = float((run() - expected).abs().max() / expected.abs().max())
        if error > _TOLERANCE:
            raise RuntimeError(
                f"{label} differs from the network by {error:.2g} of its largest logit"
            )
    return runs


def _inference(compiled: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor) -> Run:
    def run() -> torch.Tensor:
        with torch.inference_mode():
            return compiled(image)

    return run


def timer(run: Run, n_threads: int) -> Callable[[], float]:
    """Make a timer: seconds of one run, from as many as take 20 ms, on the device's cores.

    Several threads are given time to come to rest.
    """
    process = psutil.Process()
    everything = process.cpu_affinity() or []

    def timed() -> float:
        process.cpu_affinity(sorted(everything)[-n_threads:])
        run()
        count = 0
        started = time.perf_counter()
        while (elapsed := time.perf_counter() - started) < _SAMPLE_S:
            run()
            count += 1
        process.cpu_affinity(everything)
        time.sleep(_REST_S if n_threads > 1 else 0.0)
        return elapsed / count

    return timed


def _row(
    name: str, n_threads: int, estimate: float, samples: dict[str, np.ndarray]
) -> dict[str, object]:
    medians = {k: float(np.median(v)) for k, v in samples.items()}
    rival = min((k for k in samples if k != "ours"), key=medians.__getitem__)
    ratio = speedup_interval(samples[rival], samples["ours"])
    return {
        "network": name,
        "threads": n_threads,
        "latency_us": {k: round(v * 1e6, 1) for k, v in medians.items()},
        "estimate_us": round(estimate * 1e6, 1),
        "best_rival": rival,
        "best_rival_over_ours": [round(v, 3) for v in (ratio.value, ratio.low, ratio.high)],
    }


def main() -> None:
    """Compare the networks that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", nargs="*", default=NETWORKS)
    parser.add_argument("--threads", type=int, nargs="*", default=THREADS)
    parser.add_argument("--storage", help="cost cache to take schedules from and keep them in")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    require_rivals()
    rows = []
    for n_threads in options.threads:
        for name in options.network:
            rows.append(compare(name, n_threads, options.storage))
            print(rows[-1], flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
