"""What all devices share: one path to them, TVM's RPC, and one way of timing.

`local` (`compiler.local`) and `rpc://host:port/key` (`compiler.tracker`) differ in how a session is
had and in
what they are compiled for. Called by the tuner, the probe and deployment; opened by
`compiler.devices`.
"""

from __future__ import annotations

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
from cprune_rl.compiler.devices.library import build, export_library
from cprune_rl.compiler.devices.rpc_session import RpcSession, last_line, make_arguments, uploaded
from cprune_rl.compiler.devices.target import require_linker
from cprune_rl.core.protocols import Artifact, Measurement
from cprune_rl.errors import DeviceError

if TYPE_CHECKING:
    from typing import Self

__all__ = ["RpcDevice", "TimingSettings", "build"]

T = TypeVar("T")
_LOST = "the program crashed, or its device went away"
_ENDED = "the session was ended"


@dataclass(frozen=True)
class TimingSettings:
    """How long a program is timed, and how drift is met.

    Attributes:
        n_repeats: samples of one program.
        min_repeat_ms: each sample averages as many runs as this takes.
        timeout_s: a trial that takes longer is ended, with an error for its value.
        max_spread: a program whose samples spread (max / min - 1) by more is timed once again.
        reference_every: trials between two looks at the reference workload.
        max_drift: how far a reference timing may be from the median of the device's own, as a share of it.
        max_retimings: how often trials between drifted looks are timed again.
    """

    n_repeats: int = 5
    min_repeat_ms: int = 5
    timeout_s: float = 10.0
    max_spread: float = 0.25
    reference_every: int = 8
    max_drift: float = 0.25
    max_retimings: int = 2


class RpcDevice(ABC):
    """A device behind TVM's RPC (see `protocols.Device`).

    Where it has several links, programs are timed on all of them at once: they are machines of one
    kind.

    Args:
        target: what programs are compiled for.
        links: ways to the device, at least one.
        timing: how long a program is timed.
        linker: compiler that links programs; None for the one that fits the target.

    Raises:
        ToolchainError: that compiler is missing.
    """

    def __init__(
        self,
        target: tvm.target.Target,
        links: Sequence[RpcSession],
        timing: TimingSettings | None = None,
        linker: str | None = None,
    ) -> None:
        self.target = target
        self._linker = require_linker(target, linker)
        self._timing = timing or TimingSettings()
        self._links = list(links)
        self._gone: DeviceError | None = None
        self._lock = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="cprune-rl-")
        self._reference: Artifact | None = None
        t = self._timing
        self._watches = {
            id(link): DriftMonitor(
                partial(self._time_reference, link), t.reference_every, t.max_drift, t.max_retimings
            )
            for link in self._links
        }

    @property
    @abstractmethod
    def name(self) -> str:
        """In full, as `parse_device` reads it back."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """What decides a latency besides the program: processor, threads, timing settings."""

    @property
    @abstractmethod
    def is_remote(self) -> bool:
        """Whether it is another machine, so that building here does not disturb timing there."""

    @property
    def n_sessions(self) -> int:
        """Programs that are timed at once."""
        return len(self._links)

    @property
    def context(self) -> str:
        """What a trial depends on besides workload and program: its place in the cost cache."""
        return f"{self.target};{self.fingerprint};tvm={tvm.__version__}"

    @property
    def build_folder(self) -> Path:
        """Where programs for this device may be written; removed with the device."""
        return Path(self._folder.name)

    def build(
        self,
        module: tvm.IRModule,
        shapes: Sequence[tuple[int, ...]],
        dtypes: Sequence[str],
        path: Path,
    ) -> Artifact:
        """Compiles a scheduled function into a shared library for this device (see `build`)."""
        return build(module, shapes, dtypes, self.target, path, self._linker)

    def export(self, executable: tvm.runtime.Executable, path: Path) -> None:
        """Links what `tvm.compile` gave into a shared library for this device."""
        export_library(executable, path, self._linker)

    def time_reference(self) -> Measurement:
        """Times the reference workload, a 64x64 matrix product."""
        return self._time_reference(self._first())

    def time(self, artifacts: Sequence[Artifact]) -> list[Measurement]:
        """Times each artifact alone, on the next free link (see `protocols.Device.time`)."""
        results: dict[int, Measurement] = {}
        waiting = deque(range(len(artifacts)))
        self._reference_artifact()  # built once, before several threads ask for it
        while len(results) < len(artifacts):
            links = list(self._links) or [self._first()]
            drain = partial(
                self._drain,
                waiting=waiting,
                artifacts=artifacts,
                results=results,
                n_sessions=len(links),
            )
            if len(links) == 1:
                drain(links[0])
                continue
            with ThreadPoolExecutor(len(links)) as pool:
                try:
                    list(pool.map(drain, links))
                except BaseException:
                    waiting.clear()  # an interrupted search does not wait for the rest
                    raise
        return [results[i] for i in range(len(artifacts))]

    def run(
        self, artifact: Artifact, arguments: Sequence[NDArray[np.generic]]
    ) -> tuple[NDArray[np.generic], ...] | Measurement:
        """Runs a program, and once again where its session was lost or ended under it (see
        `protocols.Device.run`): a second time is the program's doing.
        """

        def work(session: Any) -> tuple[NDArray[np.generic], ...]:
            with uploaded(session, artifact.path) as module:
                rest = zip(
                    artifact.shapes[len(arguments) :],
                    artifact.dtypes[len(arguments) :],
                    strict=True,
                )
                values = [*arguments, *(np.zeros(shape, dtype) for shape, dtype in rest)]
                tensors = [
                    tvm.runtime.tensor(np.ascontiguousarray(v), session.cpu(0)) for v in values
                ]
                module["main"](*tensors)
                return tuple(t.numpy() for t in tensors[len(arguments) :])

        found = self._attempt_anywhere(work)
        if isinstance(found, Measurement) and _is_loss(found):
            found = self._attempt_anywhere(work)
        return found

    def run_guarded(
        self, work: Callable[[Any], T], timeout_s: float, link: RpcSession | None = None
    ) -> T:
        """Runs `work(session)` and ends the session when it takes too long.

        Args:
            work: is given TVM's session.
            timeout_s: its time.
            link: way to the device; None for one with a session, or the first.

        Raises:
            RuntimeError, OSError: the work failed, or was ended.
            DeviceError: no session can be had any more.
        """
        link = link or self._first()
        session = link.session(timeout_s)
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            link.cut()

        watchdog = threading.Timer(timeout_s, expire)
        watchdog.daemon = True
        watchdog.start()
        try:
            return work(session)
        except Exception as error:
            link.drop()
            if expired.is_set():
                raise TimeoutError(f"no answer within {timeout_s:g} s; {_ENDED}") from error
            raise
        finally:
            watchdog.cancel()
            watchdog.join()
            if expired.is_set():  # it may have come just when the work was done
                link.drop()

    def close(self) -> None:
        """Ends all sessions and removes the build folder."""
        for link in self._links:
            link.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _first(self) -> RpcSession:
        """The link to take where one will do:

        one with a session, because the device of another may be away.
        """
        if not self._links:
            raise self._gone or DeviceError(f"{self.name} has no device left")
        return next((link for link in self._links if link.is_open), self._links[0])

    def _drain(
        self,
        link: RpcSession,
        waiting: deque[int],
        artifacts: Sequence[Artifact],
        results: dict[int, Measurement],
        n_sessions: int,
    ) -> None:
        """Times what waits until nothing does;

        a link without a device leaves its share to the others.
        """
        share = -(-len(artifacts) // n_sessions) if n_sessions > 1 else len(artifacts)
        size = min(share, self._timing.reference_every) if n_sessions > 1 else share
        try:  # work is taken by who has a device: one that is busy or away holds nothing up
            if (
                n_sessions > 1
                and link.session(self._timing.timeout_s, lambda: bool(waiting)) is None
            ):
                return
        except DeviceError as error:
            with self._lock:
                self._retire(link, error)
            return
        while True:
            with self._lock:
                taken = [waiting.popleft() for _ in range(min(size, len(waiting)))]
            if not taken:
                return
            try:
                timed = self._watches[id(link)].time(
                    [partial(self._time_well, artifacts[i], link) for i in taken]
                )
            except DeviceError as error:
                with self._lock:
                    self._retire(link, error)
                    waiting.extendleft(reversed(taken))
                return
            results.update(zip(taken, timed, strict=True))

    def _retire(self, link: RpcSession, error: DeviceError) -> None:
        self._links.remove(link)
        link.close()
        self._gone = error

    def _time_well(self, artifact: Artifact, link: RpcSession) -> Measurement:
        """Times a program, and once again where its samples spread too far or its session was lost:

        a second loss is the program's doing.
        """
        measurement = self._time_one(artifact, link)
        if _LOST in (measurement.error or ""):
            measurement = self._time_one(artifact, link)
        if (
            measurement.samples_s
            and max(measurement.samples_s) / min(measurement.samples_s) - 1
            > self._timing.max_spread
        ):
            again = self._time_one(artifact, link)
            if again.samples_s:
                return Measurement(measurement.samples_s + again.samples_s)
            return (
                measurement if _is_loss(again) else again
            )  # it ran well before: a session that is lost now says more of the device
        return measurement

    def _time_one(self, artifact: Artifact, link: RpcSession) -> Measurement:
        def work(session: Any) -> Measurement:
            with uploaded(session, artifact.path) as module:
                arguments = make_arguments(session, artifact)
                module["main"](*arguments)  # warm-up, dropped
                timer = module.time_evaluator(
                    "main",
                    session.cpu(0),
                    number=1,
                    repeat=self._timing.n_repeats,
                    min_repeat_ms=self._timing.min_repeat_ms,
                )
                return Measurement(tuple(float(s) for s in timer(*arguments).results))

        return self._attempt(work, link)

    def _attempt_anywhere(self, work: Callable[[Any], T]) -> T | Measurement:
        """On one link, and where its device stays away on the next."""
        while True:
            link = self._first()
            try:
                return self._attempt(work, link)
            except DeviceError as error:
                with self._lock:
                    self._retire(link, error)

    def _attempt(self, work: Callable[[Any], T], link: RpcSession) -> T | Measurement:
        try:
            return self.run_guarded(work, self._timing.timeout_s, link)
        except DeviceError:
            raise
        except Exception as error:  # whatever a broken program or a dying session raises is the value of this trial
            lost = f"{_LOST}: " if "kShutdown" in str(error) else ""
            return Measurement(error=f"{lost}{type(error).__name__}: {last_line(error)}")

    def _time_reference(self, link: RpcSession) -> Measurement:
        return self._time_one(self._reference_artifact(), link)

    def _reference_artifact(self) -> Artifact:
        if self._reference is None:
            a, b = te.placeholder((64, 64), name="a"), te.placeholder((64, 64), name="b")
            k = te.reduce_axis((0, 64), name="k")
            c = te.compute((64, 64), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="c")
            module = tvm.IRModule(
                {"main": te.create_prim_func([a, b, c]).with_attr("global_symbol", "main")}
            )
            self._reference = self.build(
                module, ((64, 64),) * 3, ("float32",) * 3, self.build_folder / "reference.so"
            )
        return self._reference


def _is_loss(measurement: Measurement) -> bool:
    """Whether the session went away under a program, which may be the device's doing as well as the
    program's.
    """
    return any(sign in (measurement.error or "") for sign in (_LOST, _ENDED))
