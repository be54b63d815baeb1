"""Runs compiled networks, in this process or on their device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from cprune_rl.compiler.devices.base import RpcDevice
from cprune_rl.compiler.devices.library import cannot_build
from cprune_rl.compiler.devices.rpc_session import uploaded
from cprune_rl.core.machine_failures import machine_failure
from cprune_rl.errors import DeviceError, last_line

__all__ = ["START_S", "run_guarded", "run_library", "run_on_device", "run_outputs"]

T = TypeVar("T")
START_S = 60.0
"""For libraries to be sent and run once."""
_LONGEST_RUN_S = 2.0  # of one image


def run_library(path: Path, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run a library in this process.

    Args:
        path: the library.
        image: `(1, channels, height, width)`.

    Returns:
        The logits, `(1, n_classes)`.

    Raises:
        ToolchainError: nothing that was built can be loaded here.
    """
    try:
        module = tvm.runtime.load_module(str(path))
    except (RuntimeError, OSError) as error:
        reason = last_line(error)
        if machine_failure(reason) is None:
            raise
        raise cannot_build(reason) from error
    machine = relax.VirtualMachine(module, tvm.cpu())
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

    timeout_s = START_S + len(images) * _LONGEST_RUN_S
    return run_guarded(device, work, timeout_s, f"running {path.name}")


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

    return run_guarded(device, work, START_S, f"running {path.name}")


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


def run_guarded(device: RpcDevice, work: Callable[[Any], T], timeout_s: float, action: str) -> T:
    """Run `work(remote)`.

    Args:
        device: where.
        work: gets the session with the device.
        timeout_s: seconds until it counts as hanging.
        action: what is done, for the error.

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
