"""The base of all devices: one path to them, TVM's RPC, and one way of timing.

`local` and `tracker` differ in how a session is opened and in what they are compiled for.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import te

from cprune_rl.compiler.devices.drift import DriftMonitor
from cprune_rl.compiler.devices.library import build_library, cannot_build, export_library
from cprune_rl.compiler.devices.rpc_session import (
    RpcSession,
    make_arguments,
    uploaded,
)
from cprune_rl.compiler.devices.target import require_linker
from cprune_rl.core.machine_failures import is_exhausted, remedy
from cprune_rl.core.protocols import Artifact, Measurement
from cprune_rl.errors import CPruneError, DeviceError, ToolchainError, last_line

if TYPE_CHECKING:
    from typing import Self

__all__ = ["RpcDevice", "TimingSettings"]

T = TypeVar("T")
# Parts of errors, by which a lost session is told from a program that failed.
_LOST = "the program crashed, or its device went away"
_ENDED = "the session was ended"


@dataclass(frozen=True, kw_only=True)
class TimingSettings:
    """How long a program is timed, and how drift is met.

    Attributes:
        n_repeats: samples of one program.
        min_repeat_ms: each sample averages as many runs as this takes.
        timeout_s: a trial that takes longer is ended, with an error for its value.
        max_spread: a program whose samples spread (max / min - 1) by more is timed once again.
        reference_every: trials between two timings of the reference workload.
        max_drift: how far a reference timing may be from the median of the device's own, as a
            share of it.
        max_retimings: how often trials between drifted reference timings are timed again.
    """

    n_repeats: int = 5
    min_repeat_ms: int = 5
    timeout_s: float = 10.0
    max_spread: float = 0.25
    reference_every: int = 8
    max_drift: float = 0.25
    max_retimings: int = 2


@dataclass(frozen=True)
class _Batch:
    """Artifacts that several sessions time at once; each takes the next chunk.

    Attributes:
        artifacts: all of them.
        chunks: positions of those that wait.
        measurements: by position.
    """

    artifacts: Sequence[Artifact]
    chunks: deque[list[int]]
    measurements: dict[int, Measurement]


class RpcDevice(ABC):
    """A device behind TVM's RPC; it keeps the contract of `protocols.Device`.

    Several sessions are on machines of one kind, and programs are timed on all of them at once.

    Args:
        target: what programs are compiled for.
        sessions: at least one.
        timing: how long a program is timed.
        linker: compiler that links programs; None for the one that fits the target.

    Raises:
        ToolchainError: that compiler is missing, or no temporary folder can be made.
    """

    def __init__(
        self,
        target: tvm.target.Target,
        sessions: Sequence[RpcSession],
        timing: TimingSettings | None = None,
        linker: str | None = None,
    ) -> None:
        self.target = target
        self._linker = require_linker(target, linker)
        self._timing = timing or TimingSettings()
        self._sessions = list(sessions)
        self._loss: DeviceError | None = None
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._folder = _temporary_folder()
        self._reference: Artifact | None = None
        self._drift_monitors = {id(session): self._drift_monitor(session) for session in sessions}

    @property
    @abstractmethod
    def name(self) -> str:
        """In full, as `parse_device` reads it back."""

    @property
    @abstractmethod
    def is_remote(self) -> bool:
        """Whether it is another machine, so that building here does not disturb timing there."""

    @property
    @abstractmethod
    def _hardware(self) -> str:
        """The part of the fingerprint that is the device's own: processor and threads."""

    @property
    def fingerprint(self) -> str:
        """What decides a latency besides the program: processor, threads, timing settings."""
        timing = self._timing
        return f"{self._hardware};repeats={timing.n_repeats};min_repeat_ms={timing.min_repeat_ms}"

    @property
    def n_sessions(self) -> int:
        """Programs that are timed at once."""
        return len(self._sessions)

    @property
    def context(self) -> str:
        """What a trial depends on besides workload and schedule: its place in the cost cache."""
        return f"{self.target};{self.fingerprint};tvm={tvm.__version__}"

    @property
    def build_folder(self) -> Path:
        """Where programs for this device may be written; removed with the device."""
        return Path(self._folder.name)

    def build(self, module: tvm.IRModule, path: Path) -> Artifact:
        """Compile a scheduled function for this device, as `build_library` does.

        A function is at fault only where the reference workload can be built.
        """
        try:
            return build_library(module, self.target, path, self._linker)
        except CPruneError:
            raise
        except Exception as error:
            self._require_toolchain(error)
            raise

    def export(self, executable: tvm.runtime.Executable, path: Path) -> None:
        """Link what `tvm.compile` gave into a shared library for this device."""
        export_library(executable, path, self._linker)

    def fault(self, reason: str) -> DeviceError:
        """Make the error of a device, or a machine, on which programs do not run."""
        where = f"{self._folder.name} (TMPDIR)"
        if self.is_remote:
            where = "its server's folder for temporary files"
        return DeviceError(f"programs do not run on {self.name}: {reason}. {remedy(reason, where)}")

    def time_reference(self) -> Measurement:
        """Time the reference workload, a 64x64 matrix product."""
        return self._time_once(self._reference_artifact(), self._any_session())

    def time(self, artifacts: Sequence[Artifact]) -> list[Measurement]:
        """Time each artifact alone, on the next free session."""
        self._reference_artifact()  # built once, before several threads ask for it
        measurements: dict[int, Measurement] = {}
        while len(measurements) < len(artifacts):
            sessions = list(self._sessions) or [self._any_session()]
            waiting = [at for at in range(len(artifacts)) if at not in measurements]
            size = len(waiting)
            if len(sessions) > 1:
                share = -(-len(artifacts) // len(sessions))
                size = min(share, self._timing.reference_every)
            chunks = deque(waiting[at : at + size] for at in range(0, len(waiting), size))
            batch = _Batch(artifacts, chunks, measurements)
            if len(sessions) == 1:
                self._time_batch(batch, sessions[0])
                continue
            with ThreadPoolExecutor(len(sessions)) as pool:
                try:
                    list(pool.map(partial(self._join_batch, batch), sessions))
                except BaseException:
                    chunks.clear()  # an interrupted search does not wait for the rest
                    raise
        return [measurements[at] for at in range(len(artifacts))]

    def run(
        self, artifact: Artifact, arguments: Sequence[NDArray[np.generic]]
    ) -> tuple[NDArray[np.generic], ...] | Measurement:
        """Run a program, and once again where its session was lost.

        A second loss is the program's doing.
        """
        n_inputs = len(arguments)

        def work(remote: Any) -> tuple[NDArray[np.generic], ...]:
            with uploaded(remote, artifact.path) as module:
                outputs = zip(artifact.shapes[n_inputs:], artifact.dtypes[n_inputs:], strict=True)
                values = [*arguments, *(np.zeros(shape, dtype) for shape, dtype in outputs)]
                tensors = [
                    tvm.runtime.tensor(np.ascontiguousarray(value), remote.cpu(0))
                    for value in values
                ]
                module["main"](*tensors)
                return tuple(tensor.numpy() for tensor in tensors[n_inputs:])

        outputs = self._try_anywhere(work)
        if isinstance(outputs, Measurement) and _is_loss(outputs):
            outputs = self._try_anywhere(work)
        if isinstance(outputs, Measurement):
            self._require_reference(self._any_session())
        return outputs

    def run_guarded(
        self, work: Callable[[Any], T], timeout_s: float, session: RpcSession | None = None
    ) -> T:
        """Run `work(remote)`, and end the session when it takes too long.

        Args:
            work: is given TVM's `RPCSession`.
            timeout_s: its time.
            session: where; None for one that is open, or the first.

        Raises:
            RuntimeError, OSError: the work failed, or was ended.
            DeviceError: no session can be had any more.
        """
        session = session or self._any_session()
        remote = session.connect(timeout_s)
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            session.abort()

        watchdog = threading.Timer(timeout_s, expire)
        watchdog.daemon = True
        watchdog.start()
        try:
            return work(remote)
        except Exception as error:
            session.disconnect()
            if expired.is_set():
                raise TimeoutError(f"no answer within {timeout_s:g} s; {_ENDED}") from error
            raise
        finally:
            watchdog.cancel()
            watchdog.join()
            if expired.is_set():  # it may have come just when the work was done
                session.disconnect()

    def close(self) -> None:
        """End all sessions and remove the build folder."""
        for session in self._sessions:
            session.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drift_monitor(self, session: RpcSession) -> DriftMonitor:
        return DriftMonitor(
            lambda: self._time_once(self._reference_artifact(), session),
            every=self._timing.reference_every,
            max_drift=self._timing.max_drift,
            max_retimings=self._timing.max_retimings,
        )

    def _any_session(self) -> RpcSession:
        """Return an open session, or the first: the device of a closed one may be away."""
        if not self._sessions:
            raise self._loss or DeviceError(f"{self.name} has no device left")
        return next((s for s in self._sessions if s.is_open), self._sessions[0])

    def _join_batch(self, batch: _Batch, session: RpcSession) -> None:
        """Take part in a batch once there is a session: a busy device holds nothing up."""
        try:
            remote = session.connect(self._timing.timeout_s, lambda: bool(batch.chunks))
        except DeviceError as error:
            self._retire(session, error)
            return
        if remote is not None:
            self._time_batch(batch, session)

    def _time_batch(self, batch: _Batch, session: RpcSession) -> None:
        """Time chunks until none waits; without its device it leaves the rest to others."""
        while True:
            try:
                chunk = batch.chunks.popleft()
            except IndexError:
                return
            trials = [partial(self._time_well, batch.artifacts[at], session) for at in chunk]
            try:
                timed = self._drift_monitors[id(session)].time(trials)
            except DeviceError as error:
                batch.chunks.appendleft(chunk)
                self._retire(session, error)
                return
            batch.measurements.update(zip(chunk, timed, strict=True))

    def _retire(self, session: RpcSession, error: DeviceError) -> None:
        with self._lock:
            self._sessions.remove(session)
            session.close()
            self._loss = error

    def _time_well(self, artifact: Artifact, session: RpcSession) -> Measurement:
        """Time a program, and once again where its session was lost or its samples spread.

        A second loss is the program's doing, and so is any failure, where the reference runs.
        """
        measurement = self._time_once(artifact, session)
        if _LOST in (measurement.error or ""):
            measurement = self._time_once(artifact, session)
        if measurement.error is not None:
            self._require_reference(session)
        samples = measurement.samples_s
        if not samples or max(samples) / min(samples) - 1 <= self._timing.max_spread:
            return measurement
        again = self._time_once(artifact, session)
        if again.samples_s:
            return Measurement(samples + again.samples_s)
        # It ran well before: a session that is lost now says more of the device.
        return measurement if _is_loss(again) else again

    def _time_once(self, artifact: Artifact, session: RpcSession) -> Measurement:
        def work(remote: Any) -> Measurement:
            with uploaded(remote, artifact.path) as module:
                arguments = make_arguments(remote, artifact)
                module["main"](*arguments)  # warm-up, dropped
                timer = module.time_evaluator(
                    "main",
                    remote.cpu(0),
                    number=1,
                    repeat=self._timing.n_repeats,
                    min_repeat_ms=self._timing.min_repeat_ms,
                )
                return Measurement(tuple(float(s) for s in timer(*arguments).results))

        return self._try(work, session)

    def _try_anywhere(self, work: Callable[[Any], T]) -> T | Measurement:
        """Run `work` in one session, and where its device stays away in the next."""
        while True:
            session = self._any_session()
            try:
                return self._try(work, session)
            except DeviceError as error:
                self._retire(session, error)

    def _try(self, work: Callable[[Any], T], session: RpcSession) -> T | Measurement:
        """Run `work`; where it fails, return a measurement with the error.

        Raises:
            DeviceError: no session can be had any more, or the machine is at fault.
        """
        try:
            return self.run_guarded(work, self._timing.timeout_s, session)
        except DeviceError:
            raise
        # Whatever a broken program or a dying session raises is the value of this trial.
        except Exception as error:
            reason = f"{type(error).__name__}: {last_line(error)}"
            if is_exhausted(reason):
                raise self.fault(reason) from error
            prefix = f"{_LOST}: " if "kShutdown" in str(error) else ""
            return Measurement(error=f"{prefix}{reason}")

    def _require_reference(self, session: RpcSession) -> None:
        """Run the reference workload after a program failed: where it fails too, it was no program.

        Raises:
            DeviceError: it failed twice.
        """
        for _ in range(2):
            reference = self._time_once(self._reference_artifact(), session)
            if reference.error is None:
                return
        raise self.fault(f"not even the reference workload does ({reference.error})")

    def _require_toolchain(self, failed: Exception) -> None:
        """Build the reference workload after a build failed.

        Raises:
            ToolchainError: that fails too, so no program is at fault.
        """
        path = self.build_folder / f"reference{next(self._numbers)}.so"
        try:
            build_library(_reference_module(), self.target, path, self._linker)
        except CPruneError:
            raise
        except Exception:
            raise cannot_build(f"{type(failed).__name__}: {last_line(failed)}") from failed
        path.unlink()

    def _reference_artifact(self) -> Artifact:
        if self._reference is None:
            path = self.build_folder / "reference.so"
            self._reference = build_library(_reference_module(), self.target, path, self._linker)
        return self._reference


def _reference_module() -> tvm.IRModule:
    a = te.placeholder((64, 64), name="a")
    b = te.placeholder((64, 64), name="b")
    k = te.reduce_axis((0, 64), name="k")
    c = te.compute((64, 64), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="c")
    function = te.create_prim_func([a, b, c]).with_attr("global_symbol", "main")
    return tvm.IRModule({"main": function})


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="cprune-rl-")
    except OSError as error:
        raise ToolchainError(
            f"no folder for temporary files can be made: {error}. Set TMPDIR to a folder that "
            "can be written to, e.g. TMPDIR=/var/tmp."
        ) from error


def _is_loss(measurement: Measurement) -> bool:
    """Tell whether the session went away: the device's doing, or the program's."""
    return any(sign in (measurement.error or "") for sign in (_LOST, _ENDED))
