"""Times compiled networks in turns, so that drift of the machine meets all alike."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from cprune_rl.compiler.deploy.run_networks import START_S, run_guarded
from cprune_rl.compiler.devices.base import RpcDevice
from cprune_rl.compiler.devices.rpc_session import uploaded
from cprune_rl.core.intervals import Interval, median_interval, noise_floor, speedup_interval

__all__ = ["Rounds", "SideBySide", "compare_libraries", "time_interleaved"]

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
    timeout_s = START_S + n_timings * _LONGEST_TIMING_S
    return run_guarded(device, work, timeout_s, "timing the whole network")


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


def _timer(machine: relax.VirtualMachine, image: Any, device: Any) -> Callable[[], float]:
    machine.set_input("main", image)
    evaluate = machine.time_evaluator(
        "invoke_stateful", device, number=1, repeat=1, min_repeat_ms=20
    )
    return lambda: float(evaluate("main").results[0])
