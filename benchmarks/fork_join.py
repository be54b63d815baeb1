"""Whether networks on several threads can be timed on a machine:

what it takes to hand work to the other threads, beside a network's latency.

`python benchmarks/fork_join.py LIBRARY --shape 1,3,32,32 [--device 'local?threads=2'] [--seconds
60] [--json FILE]`. LIBRARY is a finished
network's `lib.so`. A virtual machine's cores may be moved by its host between cores that share a
cache and cores that do not: the hand-over then
takes another time for seconds or minutes, and so does every network of many short parallel loops.
Nothing on the machine itself changes that.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tvm.script import ir as I
from tvm.script import tirx as T

from cprune_rl.compiler.deploy.build import Rounds, time_interleaved
from cprune_rl.compiler.devices.open import open_device
from cprune_rl.core.system_info import command_line, describe_system, now_utc

_N_REGIONS = 100  # parallel loops of one run
_FAR = 1.5  # a hand-over that takes so many times the shortest ones is of the other kind
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
    options = _options()
    shape = tuple(int(n) for n in options.shape.split(","))
    turns: list[tuple[float, float]] = []
    with open_device(options.device) as device:
        regions = device.build(ForkJoin, device.build_folder / "fork_join.so")
        ends = time.monotonic() + options.seconds
        for _ in track(
            iter(lambda: time.monotonic() < ends, False),
            f"Timing for {options.seconds:g} s",
            console=Console(stderr=True),
        ):
            (before,), network, (after,) = (
                device.time([regions]),
                time_interleaved(device, {"network": options.library}, shape, rounds=Rounds(5))[
                    "network"
                ],
                device.time([regions]),
            )
            if before.samples_s and after.samples_s:
                turns.append(
                    (
                        (before.latency_s + after.latency_s) / 2 / _N_REGIONS * 1e6,
                        float(np.median(network)) * 1e3,
                    )
                )
        figures = {"device": device.name, "fingerprint": device.fingerprint}
    hand_over_us, latency_ms = np.array(turns).T
    is_far = hand_over_us > _FAR * np.percentile(hand_over_us, 5)
    table = Table("hand-over", "turns", "hand-over, us", "latency, ms")
    kinds = [
        (name, chosen) for name, chosen in (("near", ~is_far), ("far", is_far)) if chosen.any()
    ]
    for name, chosen in kinds:
        table.add_row(
            name,
            str(chosen.sum()),
            f"{np.median(hand_over_us[chosen]):.2f}",
            f"{np.median(latency_ms[chosen]):.3f}",
        )
    Console().print(table)
    if options.json:
        seen = {
            "command": command_line(),
            "when": now_utc(),
            "system": describe_system(),
            **figures,
        }
        options.json.write_text(
            json.dumps(
                {
                    **seen,
                    "hand_over_us": hand_over_us.round(3).tolist(),
                    "latency_ms": latency_ms.round(4).tolist(),
                },
                indent=1,
            )
            + "\n"
        )


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
