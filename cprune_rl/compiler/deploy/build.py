"""Builds the whole network from the schedules whose times the table shows, and times it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tvm
from numpy.typing import NDArray
from torch import nn
from tvm import relax

from cprune_rl.compiler.deploy.apply_schedules import apply_schedules
from cprune_rl.compiler.devices.rpc_device import RpcDevice
from cprune_rl.compiler.devices.rpc_session import uploaded
from cprune_rl.compiler.export.weight_sources import state_arrays
from cprune_rl.compiler.layouts.compose import ComposedNetwork, compose
from cprune_rl.compiler.layouts.variants import VariantChoice
from cprune_rl.compiler.tuning.network_tuner import NetworkTuner
from cprune_rl.core.intervals import Interval, median_interval, noise_floor, speedup_interval
from cprune_rl.core.machine_failures import machine_failure
from cprune_rl.core.network import Plan
from cprune_rl.errors import DeviceError, ModelError, last_line

__all__ = [
    "Rounds",
    "SideBySide",
    "build_maps",
    "build_network",
    "compare_libraries",
    "run_library",
    "run_on_device",
    "run_outputs",
    "time_interleaved",
]

T = TypeVar("T")
_RUN_S = 60.0  # for libraries to be sent and run once
_LONGEST_TIMING_S = 2.0  # of one network in one round
_FIRST_AGAIN = "\0again"  # the first network's second name where it is timed against itself


@dataclass(frozen=True)
class Rounds:
    """Rounds of a timing in turns: each network is timed once in each.

    Attributes:
        count: how many.
        seed: of the order within the rounds.
        on_round: called with the number of rounds done after each.
    """

    count: int
    seed: int = 0
    on_round: Callable[[int], None] | None = None


@dataclass(frozen=True)
class SideBySide:
    """Networks timed in turns.

    Attributes:
        latency_ms: of each, the median.
        speedup: of each but the first: the first's latency over its own.
        noise_floor: how far two timings of the first differ, as a share.
    """

    latency_ms: Mapping[str, Interval]
    speedup: Mapping[str, Interval]
    noise_floor: float

    def is_gain(self, name: str) -> bool:
        """Tell whether a network is faster than the first.

        The speed-up must be above the noise floor, and its whole interval above 1.
        """
        return self.speedup[name].value > 1 + self.noise_floor and self.speedup[name].low > 1


def build_network(
    tuner: NetworkTuner,
    plan: Plan,
    model: nn.Module,
    path: Path,
    choice: VariantChoice | None = None,
) -> None:
    """Compile a pruned network into one library that runs with TVM's runtime alone.

    Args:
        tuner: has tuned the tasks of the network.
        plan: what `model` keeps.
        model: the pruned network, with its trained weights.
        path: library to write.
        choice: the variant of each subgraph; None for the fastest.

    Raises:
        ModelError: a task has no schedule that runs.
    """
    choice = choice or tuner.choice(plan)
    _build(tuner, compose(tuner.variants, plan, choice, state_arrays(model)), path)


def build_maps(
    tuner: NetworkTuner, plan: Plan, model: nn.Module, path: Path, choice: VariantChoice
) -> None:
    """Compile a network that answers with the map of every subgraph.

    Args:
        tuner: see `build_network`.
        plan: see `build_network`.
        model: see `build_network`.
        path: see `build_network`.
        choice: the variant of each subgraph.

    Raises:
        ModelError: a task has no schedule that runs.
    """
    values = state_arrays(model)
    _build(tuner, compose(tuner.variants, plan, choice, values, gives_maps=True), path)


def _build(tuner: NetworkTuner, composed: ComposedNetwork, path: Path) -> None:
    traces = {}
    for function, workload in composed.tasks.items():
        best = tuner.tasks.best_schedule(workload)
        if best is None:
            raise ModelError(
                f"task {workload.key[:80]} has no program that runs, "
                "so the network cannot be compiled"
            )
        traces[function], _ = best
    target = tuner.device.target
    scheduled = apply_schedules(composed.module, traces, target)
    tuner.device.export(tvm.compile(scheduled, target=target), path)


def run_library(path: Path, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run a library in this process.

    Args:
        path: the library.
        image: `(1, channels, height, width)`.

    Returns:
        The logits, `(1, n_classes)`.
    """
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
    logits = machine["main"](tvm.runtime.tensor(image)).numpy()
    return np.asarray(logits).reshape(len(image), -1)


def run_on_device(
    device: RpcDevice, path: Path, images: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Run a library on its device: one for another kind of machine cannot run in this process.

    Args:
        device: where.
        path: the library.
        images: `(n, channels, height, width)`; it is given one at a time.

    Returns:
        The logits, `(n, n_classes)`.

    Raises:
        DeviceError: the network crashes or hangs, or the device is gone.
    """

    def work(remote: Any) -> NDArray[np.float32]:
        with _machine_on(remote, path) as machine:
            answers = [
                _outputs(machine, remote, image)[0].reshape(1, -1)
                for image in np.split(images, len(images))
            ]
        return np.concatenate(answers)

    timeout_s = _RUN_S + len(images) * _LONGEST_TIMING_S
    return _run_guarded(device, work, timeout_s, f"running {path.name}")


def run_outputs(
    device: RpcDevice, path: Path, image: NDArray[np.float32]
) -> list[NDArray[np.float32]]:
    """Run a library of `build_maps` on its device.

    Args:
        device: where.
        path: the library.
        image: `(1, channels, height, width)`.

    Returns:
        The map of each subgraph, in its layout.

    Raises:
        DeviceError: see `run_on_device`.
    """

    def work(remote: Any) -> list[NDArray[np.float32]]:
        with _machine_on(remote, path) as machine:
            return _outputs(machine, remote, image)

    return _run_guarded(device, work, _RUN_S, f"running {path.name}")


@contextlib.contextmanager
def _machine_on(remote: Any, path: Path) -> Iterator[relax.VirtualMachine]:
    with uploaded(remote, str(path)) as module:
        yield relax.VirtualMachine(module, remote.cpu(0))


def _outputs(
    machine: relax.VirtualMachine, remote: Any, image: NDArray[np.float32]
) -> list[NDArray[np.float32]]:
    given = tvm.runtime.tensor(np.ascontiguousarray(image), remote.cpu(0))
    machine.set_input("main", given)
    machine.invoke_stateful("main")
    outputs = machine.get_outputs("main")
    values = outputs if isinstance(outputs, tuple) else (outputs,)
    return [np.asarray(value.numpy(), np.float32) for value in values]


def time_interleaved(
    device: RpcDevice,
    libraries: Mapping[str, Path],
    input_shape: tuple[int, ...],
    *,
    rounds: Rounds,
    others: Mapping[str, Callable[[], float]] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Time whole networks in turns, in one session and in random order: drift meets all alike.

    Args:
        device: where.
        libraries: by name.
        input_shape: of one batch.
        rounds: how often.
        others: what else to time in the same turns; each gives the seconds of one run.

    Returns:
        Seconds of one run for each, `(rounds.count,)`.

    Raises:
        DeviceError: a network crashes or hangs.
    """

    def work(remote: Any) -> dict[str, NDArray[np.float64]]:
        rng = np.random.default_rng(rounds.seed)
        device = remote.cpu(0)
        image = tvm.runtime.tensor(rng.standard_normal(input_shape).astype(np.float32), device)
        timers: dict[str, Callable[[], float]] = dict(others or {})
        with contextlib.ExitStack() as stack:
            for name, path in libraries.items():
                module = stack.enter_context(uploaded(remote, str(path)))
                timers[name] = _timer(relax.VirtualMachine(module, device), image, device)
                timers[name]()
            samples: dict[str, list[float]] = {name: [] for name in timers}
            for done in range(1, rounds.count + 1):
                for name in rng.permutation(list(timers)):
                    samples[str(name)].append(timers[str(name)]())
                if rounds.on_round is not None:
                    rounds.on_round(done)
        return {name: np.array(s) for name, s in samples.items()}

    n_timings = rounds.count * (len(libraries) + len(others or {}))
    timeout_s = _RUN_S + n_timings * _LONGEST_TIMING_S
    return _run_guarded(device, work, timeout_s, "timing the whole network")


def compare_libraries(
    device: RpcDevice,
    libraries: Mapping[str, Path],
    input_shape: tuple[int, ...],
    *,
    rounds: Rounds,
) -> SideBySide:
    """Time whole networks in turns and compare each with the first.

    The first is timed twice: against itself it shows the noise.

    Args:
        device: where.
        libraries: by name; all take the same input.
        input_shape: of one batch.
        rounds: how often.

    Raises:
        DeviceError: a network crashes or hangs.
    """
    first, *others = libraries
    timed = {**libraries, _FIRST_AGAIN: libraries[first]}
    samples = time_interleaved(device, timed, input_shape, rounds=rounds)
    return SideBySide(
        {name: median_interval(samples[name] * 1e3) for name in libraries},
        {name: speedup_interval(samples[first], samples[name]) for name in others},
        noise_floor(samples[first], samples[_FIRST_AGAIN]),
    )


def _run_guarded(device: RpcDevice, work: Callable[[Any], T], timeout_s: float, action: str) -> T:
    """Run `work(remote)`.

    Raises:
        DeviceError: whatever a broken network raises, with the action that failed.
    """
    try:
        return device.run_guarded(work, timeout_s)
    except DeviceError:
        raise
    # AttributeError: a library without a network in it.
    except (RuntimeError, OSError, AttributeError, TypeError, ValueError) as error:
        reason = f"{action} failed: {last_line(error)}"
        if machine_failure(reason) is not None:
            raise device.fault(reason) from error
        raise DeviceError(reason) from error


def _timer(machine: relax.VirtualMachine, image: Any, device: Any) -> Callable[[], float]:
    machine.set_input("main", image)
    evaluate = machine.time_evaluator(
        "invoke_stateful", device, number=1, repeat=1, min_repeat_ms=20
    )
    return lambda: float(evaluate("main").results[0])
