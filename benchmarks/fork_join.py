"""Tells whether networks on several threads can be timed on a machine.

`python benchmarks/fork_join.py LIBRARY --shape 1,3,32,32 [--device 'local?threads=2']
[--seconds 60] [--json FILE]`. LIBRARY is a finished network's `lib.so`.

It measures what handing work to the other threads takes, beside the network's latency. A host may
move a virtual machine's cores between cores that share a cache and cores that do not. The hand-over
then takes another time for seconds or minutes, and so does every network of many short parallel
loops. Nothing on the machine itself changes that.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tvm.script import ir as I
from tvm.script import tirx as T

from cprune_rl.compiler.deploy.time_networks import Rounds, time_interleaved
from cprune_rl.compiler.devices.base import RpcDevice
from cprune_rl.compiler.devices.open import open_device
from cprune_rl.core.system_info import command_line, describe_system, now_utc

_N_REGIONS = 100  # parallel loops of one run
_FAR = 1.5  # a hand-over that takes that many times the shortest ones is of the other kind
_LINE = 64  # floats between what two threads write: no cache line is shared


@I.ir_module
class ForkJoin:
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((1024,), "float32")):  # noqa: N803, N805  # TVMScript's way to write a buffer
        T.func_attr({"global_symbol": "main"})
        for _ in range(_N_REGIONS):
            for i in T.parallel(16):
                A[i * _LINE] = A[i * _LINE] * T.float32(0.5)


def main() -> None:
    """Time hand-overs and the network in turns, and show both by the kind of hand-over."""
    options = _options()
    with open_device(options.device) as device:
        hand_over_us, latency_ms = _measure(device, options)
        figures: dict[str, Any] = {"device": device.name, "fingerprint": device.fingerprint}
    Console().print(_table(hand_over_us, latency_ms))
    if options.json:
        provenance = {
            "command": command_line(),
            "when": now_utc(),
            "system": describe_system(),
        }
        figures["hand_over_us"] = hand_over_us.round(3).tolist()
        figures["latency_ms"] = latency_ms.round(4).tolist()
        options.json.write_text(json.dumps({**provenance, **figures}, indent=1) + "\n")


def _measure(
    device: RpcDevice, options: argparse.Namespace
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a hand-over's microseconds and the network's milliseconds, `(n_turns,)` each."""
    shape = tuple(int(n) for n in options.shape.split(","))
    libraries = {"network": options.library}
    regions = device.build(ForkJoin, device.build_folder / "fork_join.so")
    turns: list[tuple[float, float]] = []
    ends = time.monotonic() + options.seconds
    for _ in track(
        iter(lambda: time.monotonic() < ends, False),
        f"Timing for {options.seconds:g} s",
        console=Console(stderr=True),
    ):
        (before,) = device.time([regions])
        network_s = time_interleaved(device, libraries, shape, rounds=Rounds(5))["network"]
        (after,) = device.time([regions])
        if before.samples_s and after.samples_s:
            hand_over_s = (before.latency_s + after.latency_s) / 2 / _N_REGIONS
            turns.append((hand_over_s * 1e6, float(np.median(network_s)) * 1e3))
    hand_over_us, latency_ms = np.array(turns).T
    return hand_over_us, latency_ms


def _table(hand_over_us: NDArray[np.float64], latency_ms: NDArray[np.float64]) -> Table:
    is_far = hand_over_us > _FAR * np.percentile(hand_over_us, 5)
    table = Table("hand-over", "turns", "hand-over, us", "latency, ms")
    for name, chosen in (("near", ~is_far), ("far", is_far)):
        if chosen.any():
            table.add_row(
                name,
                str(chosen.sum()),
                f"{np.median(hand_over_us[chosen]):.2f}",
                f"{np.median(latency_ms[chosen]):.3f}",
            )
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("library", type=Path, metavar="LIBRARY")
    parser.add_argument("--shape", required=True, help="of the network's input, e.g. 1,3,32,32")
    parser.add_argument("--device", default="local?threads=2")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
