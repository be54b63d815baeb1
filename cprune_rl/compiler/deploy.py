"""The whole network: built from the programs whose times the table shows, timed, exported.

Each function of the lowered module is replaced by itself scheduled with its fastest program: the same
module that the tasks were taken from, so no lookup can miss and nothing falls back to an untuned schedule
unseen.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tvm
from numpy.typing import NDArray
from torch import nn
from tvm import relax

from cprune_rl.compiler.device import LocalDevice
from cprune_rl.compiler.program import apply_program
from cprune_rl.compiler.tuner import Tuner
from cprune_rl.compiler.workload import ExportedNetwork, fold_batch_norms
from cprune_rl.errors import DeviceError, ModelError
from cprune_rl.table import Network, Plan

__all__ = ["build_network", "export_torch", "run_library", "time_interleaved"]


def build_network(network: Network, exported: ExportedNetwork, plan: Plan, model: nn.Module, tuner: Tuner, device: LocalDevice, path: Path) -> None:
    """Compiles a pruned network into one library that runs with TVM's runtime alone.

    Args:
        network: the dense network's description.
        exported: the dense network, exported once.
        plan: what `model` keeps.
        model: the pruned network, with its trained weights.
        tuner: knows the fastest program of every task.
        device: what to compile for.
        path: library to write.

    Raises:
        ModelError: a task has no program that runs.
    """
    widths = network.widths(plan)
    lowered = exported.lowered(widths)
    functions: dict[str, Any] = {}
    for workload, call in zip(network.workloads(plan), lowered.calls, strict=True):
        if call.function in functions:
            continue
        best = tuner.best_program(workload)
        if best is None:
            raise ModelError(f"task {workload.key[:80]} has no program that runs, so the network cannot be compiled")
        functions[call.function] = apply_program(best[0], lowered.task(call.function), device.target)["main"]
    module = tvm.IRModule({gv: functions.get(gv.name_hint, f) for gv, f in lowered.module.functions.items()})
    for gv, function in module.functions.items():
        if gv.name_hint in functions:
            module.update_func(gv, function.without_attr("global_symbol").with_attr("tirx.is_scheduled", True))
    values = {name: value.detach().numpy() for name, value in fold_batch_norms(model).state_dict().items()}
    tvm.compile(exported.bound(module, widths, values), target=device.target).export_library(str(path))


def run_library(path: Path, image: NDArray[np.float32], n_outputs: int) -> NDArray[np.float32]:
    """Runs a library in this process on one image `(1, channels, height, width)`; gives the logits `(1, n_outputs)`."""
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
    return np.asarray(machine["main"](tvm.runtime.tensor(image)).numpy()).reshape(len(image), n_outputs)


def time_interleaved(device: LocalDevice, libraries: Mapping[str, Path], input_shape: tuple[int, ...], n_rounds: int, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """Times whole networks in turns, in one session and in random order, so that drift meets all alike.

    Args:
        device: where.
        libraries: by name.
        input_shape: of one batch.
        n_rounds: each library is timed once in each.
        seed: of the order.

    Returns:
        Seconds of one run for each library, `(n_rounds,)`.

    Raises:
        DeviceError: a network crashes or hangs.
    """

    def work(session: Any) -> dict[str, NDArray[np.float64]]:
        rng = np.random.default_rng(seed)
        target = session.cpu(0)
        image = tvm.runtime.tensor(rng.standard_normal(input_shape).astype(np.float32), target)
        timers = {}
        for name, path in libraries.items():
            session.upload(bytearray(path.read_bytes()), f"{name}.so")
            machine = relax.VirtualMachine(session.load_module(f"{name}.so"), target)
            machine.set_input("main", image)
            timers[name] = machine.time_evaluator("invoke_stateful", target, number=1, repeat=1, min_repeat_ms=20)
            timers[name]("main")
        samples: dict[str, list[float]] = {name: [] for name in libraries}
        for _ in range(n_rounds):
            for name in rng.permutation(list(timers)):
                samples[str(name)].append(float(timers[str(name)]("main").results[0]))
        return {name: np.array(s) for name, s in samples.items()}

    try:
        return device.run_guarded(work, timeout_s=60 + n_rounds * len(libraries) * 2)
    except (RuntimeError, OSError) as error:
        raise DeviceError(f"timing the whole network failed: {str(error).strip().splitlines()[-1]}") from error


def export_torch(model: nn.Module, input_shape: tuple[int, ...], path: Path) -> None:
    """Writes a file that `torch.export.load` reads, without this package."""
    example = torch.zeros(input_shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own deprecated calls
        plain: nn.Module = model.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stub lacks this form
        torch.export.save(torch.export.export(plain, (example,)), path)
