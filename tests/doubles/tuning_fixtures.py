"""Tasks of a small network, and devices on which nothing is compiled or run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tvm
from tvm_ffi import structural_hash

from cprune_rl.compiler.devices.local import LocalDevice
from cprune_rl.compiler.devices.target import make_target
from cprune_rl.compiler.tuning.trace_search import SearchTask
from cprune_rl.core.network import Plan
from cprune_rl.core.protocols import Artifact, Measurement
from tests.conftest import Lowered


def conv_task(lowered: Lowered, plan: Plan) -> tvm.IRModule:
    """The function of the network's second convolution, in NCHW.

    Hold it in a variable while it is scheduled: a schedule that owns its function alone changes it
    in place.
    """
    module = lowered.variants.all[0].lowered(plan)
    return module.task(module.calls[1])


def packed_conv_task(lowered: Lowered) -> tvm.IRModule:
    """The same convolution, packed."""
    variant = lowered.variants.all[1]
    return variant.lowered(lowered.network.dense).task(variant.calls[1])


def search_task(lowered: Lowered, seed: int = 0) -> SearchTask:
    """A search for the schedules of the packed convolution, from an empty pool."""
    return SearchTask(
        module=packed_conv_task(lowered), target=make_target(1), pool=[], share=0.2, seed=seed
    )


class MadeUpDevice(LocalDevice):
    """The local device with made-up latencies, one for each scheduled function."""

    def build(self, module: tvm.IRModule, path: Path) -> Artifact:
        path.write_text(str(structural_hash(module)))
        return Artifact(path=str(path), shapes=(), dtypes=())

    def time(self, artifacts: Sequence[Artifact]) -> list[Measurement]:
        return [Measurement((made_up_s(int(Path(a.path).read_text())),)) for a in artifacts]


def made_up_s(function_hash: int) -> float:
    """Between 1 and 2 milliseconds."""
    return 1e-3 * (1 + abs(function_hash) % 9973 / 9973)


class CrashingDevice(MadeUpDevice):
    """A device on which every program crashes."""

    def time(self, artifacts: Sequence[Artifact]) -> list[Measurement]:
        return [Measurement(error="crashed") for _ in artifacts]
