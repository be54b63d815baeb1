"""Devices: where programs are timed. One path for all of them, TVM's RPC.

`local` is an RPC server of ours on loopback (`rpc_server`); a session is one forked process, so a
program that crashes or hangs costs one trial. Called by the tuner and by deployment.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import numpy as np
import psutil
import tvm
from tvm import rpc, te

import cprune_rl
from cprune_rl.compiler.target import host_cpu, make_target, require_cxx_compiler, vector_width
from cprune_rl.contracts import Artifact, Measurement
from cprune_rl.errors import ConfigError, DeviceError, UnknownNameError

__all__ = ["LocalDevice", "TimingSettings", "build", "open_device", "parse_device"]

T = TypeVar("T")


@dataclass(frozen=True)
class TimingSettings:
    """How long a program is timed.

    Attributes:
        n_repeats: samples of one program.
        min_repeat_ms: each sample averages as many runs as this takes.
        timeout_s: a trial that takes longer is ended, with an error for its value.
        max_spread: a program whose samples spread (max / min - 1) by more is timed once again.
    """

    n_repeats: int = 5
    min_repeat_ms: int = 5
    timeout_s: float = 10.0
    max_spread: float = 0.25


class _Server:
    """The server process, and the sessions that it forked."""

    def __init__(self, n_threads: int) -> None:
        self.key = secrets.token_hex(8)
        self._known: list[psutil.Process] = []
        here = str(Path(cprune_rl.__file__).parent.parent)  # the server finds this package where this process found it
        paths = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
        environment = dict(os.environ, TVM_NUM_THREADS=str(n_threads), OMP_NUM_THREADS=str(n_threads), PYTHONPATH=paths)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cprune_rl.compiler.rpc_server", self.key],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise DeviceError("the local RPC server did not start; run `python -m cprune_rl.compiler.rpc_server test` to see why")
        self.port = int(line)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def sessions(self) -> list[psutil.Process]:
        """The forked sessions; remembered, because they outlive a server that is killed."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._known = list({*self._known, *psutil.Process(self._process.pid).children()})
        return self._known

    def kill_sessions(self) -> None:
        for session in self.sessions():
            with contextlib.suppress(psutil.NoSuchProcess):
                session.kill()
        self._known = []

    def close(self) -> None:
        self.kill_sessions()
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class LocalDevice:
    """This machine's CPU behind a loopback RPC server (see `contracts.Device`).

    One thread is the default: it is how small networks are deployed at the edge, and on a shared
    machine the only form whose timings are quiet. The session is pinned to the last `n_threads` cores.

    Args:
        n_threads: threads that a program may use.
        mcpu: LLVM's name of the processor to compile for; None for this one.
        timing: how long a program is timed.
    """

    def __init__(self, n_threads: int = 1, mcpu: str | None = None, timing: TimingSettings | None = None) -> None:
        self._n_threads, self._mcpu = n_threads, mcpu or host_cpu()
        self._timing = timing or TimingSettings()
        self._server: _Server | None = None
        self._session: Any = None
        self._uses = 0
        self._folder = tempfile.TemporaryDirectory(prefix="cprune-rl-")
        self._reference: Artifact | None = None
        self.target = make_target(n_threads, self._mcpu)
        require_cxx_compiler()

    @property
    def name(self) -> str:
        return "local" if self._n_threads == 1 and self._mcpu == host_cpu() else f"local?threads={self._n_threads}&mcpu={self._mcpu}"

    @property
    def fingerprint(self) -> str:
        t = self._timing
        return f"cpu={_processor_name()};mcpu={self._mcpu};threads={self._n_threads};repeats={t.n_repeats};min_repeat_ms={t.min_repeat_ms}"

    @property
    def build_folder(self) -> Path:
        """Where programs for this device may be written; removed with the device."""
        return Path(self._folder.name)

    def time_reference(self) -> Measurement:
        """Times the reference workload, a 64x64 matrix product."""
        return self._time_one(self._reference_artifact())

    def descriptor(self, reference: Measurement) -> tuple[float, ...]:
        """What a policy sees of the device: log2 vector width, log2 threads, log10 GFLOP/s of the reference workload; scaled to about 1."""
        gflops = 2 * 64 * 64 * 64 / reference.latency_s / 1e9
        return (float(np.log2(vector_width(self.target)) / 4), float(np.log2(self._n_threads) / 3), float(np.log10(gflops) / 2))

    def time(self, artifacts: Sequence[Artifact]) -> list[Measurement]:
        reference = self.time_reference()
        measurements = []
        for artifact in artifacts:
            measurement = self._time_one(artifact)
            if measurement.samples_s and max(measurement.samples_s) / min(measurement.samples_s) - 1 > self._timing.max_spread:
                again = self._time_one(artifact)
                measurement = again if again.error is not None else Measurement(measurement.samples_s + again.samples_s)
            measurements.append(Measurement(measurement.samples_s, measurement.error, reference.latency_s if reference.samples_s else 0.0))
        return measurements

    def run_guarded(self, work: Callable[[Any], T], timeout_s: float) -> T:
        """Runs `work(session)` with the session killed when it takes too long.

        Raises:
            RuntimeError: the work failed, or was killed.
            DeviceError: no session could be had.
        """
        session = self._connected()
        watchdog = threading.Timer(timeout_s, self._kill_sessions)
        watchdog.daemon = True
        watchdog.start()
        try:
            return work(session)
        except Exception:
            self._drop_session()
            raise
        finally:
            watchdog.cancel()

    def close(self) -> None:
        self._drop_session()
        if self._server is not None:
            self._server.close()
            self._server = None
        self._folder.cleanup()

    def __enter__(self) -> LocalDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _time_one(self, artifact: Artifact) -> Measurement:
        def work(session: Any) -> tuple[float, ...]:
            with _uploaded(session, artifact.path) as module:
                device = session.cpu(0)
                rng = np.random.default_rng(0)
                args = [tvm.runtime.tensor(_random_array(rng, s, d), device) for s, d in zip(artifact.shapes, artifact.dtypes, strict=True)]
                module["main"](*args)  # warm-up, dropped
                timer = module.time_evaluator("main", device, number=1, repeat=self._timing.n_repeats, min_repeat_ms=self._timing.min_repeat_ms)
                return tuple(float(s) for s in timer(*args).results)

        try:
            return Measurement(self.run_guarded(work, self._timing.timeout_s))
        except DeviceError:
            raise
        except Exception as error:  # whatever a broken program or a dying session raises is the value of this trial
            return Measurement(error=f"{type(error).__name__}: {_last_line(error)}")

    def _connected(self) -> Any:
        self._uses += 1
        if self._uses > 500:  # libraries a session has loaded are never unloaded
            self._drop_session()
            self._uses = 1
        if self._server is not None and not self._server.is_alive:
            self._drop_session()
        if self._session is not None:
            return self._session
        for _ in range(3):
            if self._server is None or not self._server.is_alive:
                if self._server is not None:
                    self._server.close()
                self._server = _Server(self._n_threads)
            try:
                self._session = rpc.connect("127.0.0.1", self._server.port, self._server.key)
                self._pin()
                return self._session
            except Exception:  # the server died between the check and the call; the next round starts a new one
                self._server.close()
        raise DeviceError("the local RPC server cannot be reached, three new ones in a row; is loopback networking allowed here?")

    def _pin(self) -> None:
        assert self._server is not None
        cores = sorted(psutil.Process().cpu_affinity() or [])[-self._n_threads :]
        for session in self._server.sessions():
            with contextlib.suppress(psutil.Error):
                session.cpu_affinity(cores)

    def _kill_sessions(self) -> None:
        if self._server is not None:
            self._server.kill_sessions()

    def _drop_session(self) -> None:
        self._session = None
        self._kill_sessions()

    def _reference_artifact(self) -> Artifact:
        if self._reference is None:
            a, b = te.placeholder((64, 64), name="a"), te.placeholder((64, 64), name="b")
            k = te.reduce_axis((0, 64), name="k")
            c = te.compute((64, 64), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="c")
            module = tvm.IRModule({"main": te.create_prim_func([a, b, c]).with_attr("global_symbol", "main")})
            self._reference = build(module, ((64, 64),) * 3, ("float32",) * 3, self.target, self.build_folder / "reference.so")
        return self._reference


@contextlib.contextmanager
def _uploaded(session: Any, path: str) -> Iterator[Any]:
    name = Path(path).name
    session.upload(bytearray(Path(path).read_bytes()), name)  # given a path, TVM leaves the file open
    try:
        yield session.load_module(name)
    finally:
        with contextlib.suppress(RuntimeError):  # a dead session has no files left
            session.remove(name)


def _random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Any:
    if dtype.startswith("float"):
        return rng.standard_normal(shape).astype(dtype)
    return np.zeros(shape, dtype)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"


def _processor_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return hashlib.sha256(os.uname().machine.encode()).hexdigest()[:8]


def build(module: tvm.IRModule, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str], target: tvm.target.Target, path: Path) -> Artifact:
    """Compiles a scheduled function into a shared library.

    Raises:
        RuntimeError: the compiler refused it.
    """
    tvm.compile(module, target=target).export_library(str(path))
    return Artifact(str(path), tuple(shapes), tuple(dtypes))


def open_device(spec: str, timing: TimingSettings | None = None) -> LocalDevice:
    """Opens a device by its name.

    Args:
        spec: `local`, or `local?threads=2&mcpu=haswell`.
        timing: how long programs are timed.

    Raises:
        UnknownNameError: no device of that kind.
        ConfigError: an option of the device is unknown or wrong.
    """
    n_threads, mcpu = parse_device(spec)
    return LocalDevice(n_threads, mcpu, timing)


def parse_device(spec: str) -> tuple[int, str | None]:
    """Threads and processor of a local device; opens nothing.

    Raises:
        UnknownNameError: no device of that kind.
        ConfigError: an option of the device is unknown or wrong.
    """
    kind, _, query = spec.partition("?")
    if kind != "local":
        raise UnknownNameError("device", spec, ["local", "local?threads=2", "local?threads=1&mcpu=haswell"])
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := set(options) - {"threads", "mcpu"}:
        raise ConfigError(f"device {spec!r}: unknown option {sorted(unknown)[0]!r}. Known: threads, mcpu.")
    n_cores = psutil.cpu_count() or 1
    threads = options.get("threads", "1")
    if not threads.isdigit() or not 1 <= int(threads) <= n_cores:
        raise ConfigError(f"device {spec!r}: threads is {threads!r}, this machine allows 1 to {n_cores}")
    return int(threads), options.get("mcpu")
