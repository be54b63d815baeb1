"""Devices to test on: a tracker and servers as real processes, and programs that crash and hang."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import tirx as T

from cprune_rl.compiler.devices.base import TimingSettings
from cprune_rl.compiler.devices.library import build_library
from cprune_rl.compiler.devices.spec import TrackerSpec, parse_device
from cprune_rl.compiler.devices.target import make_target
from cprune_rl.compiler.devices.tracker import RetrySettings, TrackerDevice
from cprune_rl.compiler.devices.tracker_client import TrackerAddress, tracker_status
from cprune_rl.errors import DeviceError

ROOT = Path(__file__).parents[2]
BRIEF = TimingSettings(n_repeats=2, min_repeat_ms=1, timeout_s=2.5, max_spread=1e9, max_drift=1e9)
SOON = RetrySettings(session_s=60, first_pause_s=0.1, longest_pause_s=0.5)


@I.ir_module
class TimesTwo:
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((4,), "float32"), B: T.Buffer((4,), "float32")):  # noqa: N803, N805  # TVMScript's way to write a buffer
        T.func_attr({"global_symbol": "main"})
        for i in range(4):
            B[i] = A[i] * T.float32(2)


@I.ir_module
class Slow:
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((4,), "float32"), B: T.Buffer((4,), "float32")):  # noqa: N803, N805
        T.func_attr({"global_symbol": "main"})
        B[0] = A[0]
        for _ in range(3000000):
            B[0] = B[0] * T.float32(0.5) + A[0]


@I.ir_module
class Hangs:
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((4,), "float32")):  # noqa: N803, N805
        T.func_attr({"global_symbol": "main"})
        while A[0] < T.float32(9):
            A[0] = A[0] * T.float32(0)


@I.ir_module
class Crashes:
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((4,), "float32")):  # noqa: N803, N805
        T.func_attr({"global_symbol": "main"})
        T.evaluate(T.call_extern("int32", "abort"))


class SampleArtifacts:
    """The four as libraries for this machine, which serves as every device here."""

    def __init__(self, folder: Path) -> None:
        target = make_target(1)
        self.good = build_library(TimesTwo, target, folder / "good.so")
        self.slow = build_library(Slow, target, folder / "slow.so")
        self.hanging = build_library(Hangs, target, folder / "hanging.so")
        self.crashing = build_library(Crashes, target, folder / "crashing.so")


def build_doubling_network(folder: Path) -> Path:
    """Compile a network that doubles its input, `(1, 4)`."""
    builder = relax.BlockBuilder()
    image = relax.Var("image", relax.TensorType([1, 4], "float32"))
    with builder.function("main", [image]):
        builder.emit_func_output(builder.emit(relax.op.add(image, image)))
    path = folder / "doubling.so"
    tvm.compile(builder.get(), target=make_target(1)).export_library(str(path))
    return path


class RpcCluster:
    """A real tracker and real servers, as processes of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.tmp = folder / "tmp"  # of the servers
        self.tmp.mkdir()
        port = free_port()
        self.tracker = TrackerAddress("127.0.0.1", port)
        # Port ranges end before `--port-end`: another port would be no use to the servers.
        options = ["--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1)]
        self._start("tracker", "tvm.exec.rpc_tracker", options)

    def _start(self, log: str, module: str, options: list[str]) -> subprocess.Popen[bytes]:
        with (self._folder / f"{log}.log").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *options],
                cwd=ROOT,
                env={**os.environ, "TMPDIR": str(self.tmp)},
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def _server_options(self, key: str) -> list[str]:
        return ["--tracker", str(self.tracker), "--key", key, "--host", "127.0.0.1"]

    def serve(self, key: str, log: str | None = None) -> subprocess.Popen[bytes]:
        """Start a server of ours."""
        module = "cprune_rl.compiler.devices.rpc_server"
        return self._start(log or key, module, self._server_options(key))

    def serve_stock(self, key: str) -> subprocess.Popen[bytes]:
        """Start a server of TVM's own."""
        return self._start(key, "tvm.exec.rpc_server", self._server_options(key))

    def sessions(self, key: str) -> list[psutil.Process]:
        """Return the sessions that servers of a key have forked."""
        running = [p for p in self._processes if p.poll() is None and "--key" in p.args]
        servers = [p for p in running if p.args[p.args.index("--key") + 1] == key]
        return [child for p in servers for child in psutil.Process(p.pid).children()]

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def wait_for(self, free: dict[str, int], timeout_s: float = 60) -> None:
        """Wait until this many servers of each key are free."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(DeviceError):
                if free.items() <= {s.key: s.n_free for s in tracker_status(self.tracker)}.items():
                    return
            time.sleep(0.1)
        raise AssertionError(f"servers did not come up: {tracker_status(self.tracker)}")

    def close(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its sessions too
            process.wait()


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def open_key(
    cluster: RpcCluster, key: str, options: str = "", timing: TimingSettings = BRIEF
) -> TrackerDevice:
    """Open the devices of a key, which are asked for again soon."""
    spec = parse_device(f"rpc://{cluster.tracker}/{key}{options}")
    assert isinstance(spec, TrackerSpec)
    return TrackerDevice(spec, timing, SOON)
