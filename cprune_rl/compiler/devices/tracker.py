"""The device `rpc://host:port/key`: phones, boards and servers behind a TVM tracker.

A session is asked for with a time limit, is reached through a door that can be shut from here, and
is asked for
again, with growing pauses, when its device goes away. Boards run `rpc_server`, or TVM's own server.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import rpc

from cprune_rl.compiler.devices.rpc_device import RpcDevice, TimingSettings
from cprune_rl.compiler.devices.rpc_session import RpcSession, last_line
from cprune_rl.compiler.devices.spec import TrackerSpec
from cprune_rl.compiler.devices.target import (
    host_cpu,
    host_triple,
    require_linker,
    same_architecture,
    target_of,
)
from cprune_rl.compiler.devices.tcp_proxy import TcpProxy
from cprune_rl.compiler.devices.tracker_client import TrackerAddress, request_device, tracker_status
from cprune_rl.errors import ConfigError, DeviceError

__all__ = ["RetrySettings", "TrackerDevice"]

_SLACK_S = 10.0  # between our own time limit and the server's, so that ours is the one that is met
# in the tracker's queue before it is asked again: a tracker that lost power does not say so
_QUEUE_S = 20.0
_SHORT_QUEUE_S = 1.0  # the same where others may do the work meanwhile
_BIG_CORES = 1  # TVM's thread pool: prefer the fast cores


@dataclass(frozen=True)
class RetrySettings:
    """How long a device that does not answer is waited for.

    Attributes:
        session_s: a session is ended by its server after this: what a board is lost for when this
            process dies.
        connect_s: for a server to answer.
        first_pause_s: before a device is asked for again; each pause is twice the one before.
        longest_pause_s: no pause is longer.
    """

    session_s: float = 120.0
    connect_s: float = 10.0
    first_pause_s: float = 0.25
    longest_pause_s: float = 10.0


class TrackerSession(RpcSession):
    """Asks a tracker for a device of one key.

    Args:
        tracker: where it listens.
        key: what is asked for.
        n_threads: that a program may use.
        wait_s: how long a device is waited for.
        patience: with each step of it.
    """

    def __init__(
        self,
        tracker: TrackerAddress,
        key: str,
        n_threads: int,
        wait_s: float,
        patience: RetrySettings | None = None,
    ) -> None:
        super().__init__()
        self._tracker, self._key, self._n_threads, self._wait_s = tracker, key, n_threads, wait_s
        self._patience = patience or RetrySettings()
        self._relay: TcpProxy | None = None
        self._ends = 0.0

    def cut(self) -> None:
        """Shuts the door to the session's server."""
        if self._relay is not None:
            self._relay.cut()

    def _is_usable(self, needed_s: float) -> bool:
        return time.monotonic() + needed_s < self._ends

    def _open(self, needed_s: float, is_wanted: Callable[[], bool] | None) -> Any:
        deadline = time.monotonic() + self._wait_s
        pause = self._patience.first_pause_s
        queue_s = _QUEUE_S if is_wanted is None else _SHORT_QUEUE_S
        while is_wanted is None or is_wanted():
            try:
                return self._request(
                    max(self._patience.session_s, needed_s + _SLACK_S),
                    min(max(deadline - time.monotonic(), 0.5), queue_s),
                )
            except (OSError, RuntimeError) as error:
                self.cut()
                if time.monotonic() + pause > deadline:
                    raise DeviceError(
                        f"no device of key {self._key!r} could be had from the tracker at {self._tracker} for {self._wait_s:.0f} s: {last_line(error)}. "
                        f"See `cprune-rl device list --tracker {self._tracker}`; start its server again, or wait longer with wait=SECONDS in the device's name."
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, self._patience.longest_pause_s)
        return None

    def _request(self, session_s: float, queue_s: float) -> Any:
        """One session; an `OSError` or a `RuntimeError` where there is none now."""
        grant = request_device(self._tracker, self._key, queue_s)
        self._relay = relay = TcpProxy(
            grant.host, grant.port, self._patience.connect_s, session_s + _SLACK_S
        )
        watchdog = threading.Timer(self._patience.connect_s, relay.cut)
        watchdog.daemon = True
        watchdog.start()
        try:
            self._ends = time.monotonic() + session_s
            session = rpc.connect(
                "127.0.0.1", relay.port, grant.match_key, session_timeout=session_s
            )
            if ask_description(session).get("threads") != self._n_threads:
                session.get_function("runtime.config_threadpool")(_BIG_CORES, self._n_threads)
            return session
        finally:
            watchdog.cancel()


def ask_description(session: Any) -> dict[str, Any]:
    """What a server tells of its machine:

    `cpu`, `machine`, `threads`; empty for TVM's own server.
    """
    try:
        answer: dict[str, Any] = json.loads(str(session.get_function("cprune_rl.describe")()))
        return answer
    except (AttributeError, ValueError):
        return {}


def _ask_llvm(session: Any, what: str) -> str:
    try:
        return str(session.get_function(f"target.llvm_get_system_{what}")())
    except AttributeError:  # a server with TVM's runtime alone
        return ""


class TrackerDevice(RpcDevice):
    """Devices of one key behind a tracker (see `protocols.Device`).

    Args:
        spec: what the device's name says.
        timing: how long a program is timed.
        patience: with devices that do not answer.

    Raises:
        ConfigError: the target is none of TVM's, or its processor none of LLVM's, or it has to be
            given.
        ToolchainError: no compiler links programs for it.
        DeviceError: no tracker answers, or no device of that key.
    """

    def __init__(
        self,
        spec: TrackerSpec,
        timing: TimingSettings | None = None,
        patience: RetrySettings | None = None,
    ) -> None:
        self._spec = spec
        target = target_of(spec.target) if spec.target is not None else None
        if target is not None:
            require_linker(target, spec.linker)  # said before a device is waited for
        known = {status.key: status for status in tracker_status(spec.tracker)}
        if spec.key not in known or not known[spec.key].n_servers:
            listed = ", ".join(k for k, s in known.items() if s.n_servers) or "none"
            start = f"python -m cprune_rl.compiler.devices.rpc_server --tracker {spec.tracker} --key {spec.key}"
            raise DeviceError(
                f"the tracker at {spec.tracker} knows no device of key {spec.key!r}. Known: {listed}. Start one with `{start}`."
            )
        links = [
            TrackerSession(spec.tracker, spec.key, spec.threads, spec.wait_s, patience)
            for _ in range(spec.devices or max(known[spec.key].n_free, 1))
        ]
        session = links[0].session(0.0)
        self._remote = ask_description(session)
        try:
            target = target or target_of(
                _native_target(
                    _ask_llvm(session, "triple"), _ask_llvm(session, "cpu"), spec.threads, self.name
                )
            )
            super().__init__(target, links, timing, spec.linker)
        except BaseException:
            links[0].close()
            raise

    @property
    def name(self) -> str:
        """The full name, also where the user left parts of it to the environment."""
        spec, options = self._spec, []
        if spec.target is not None:
            options.append("target=" + json.dumps(spec.target, separators=(",", ":")))
        options += [
            f"{key}={value}"
            for key, value in (
                ("cc", spec.linker),
                ("threads", spec.threads),
                ("devices", spec.devices),
            )
            if value is not None
        ]
        options += [f"wait={spec.wait_s:.0f}"] if spec.wait_s != TrackerSpec.wait_s else []
        return f"rpc://{spec.tracker}/{spec.key}?{'&'.join(options)}"

    @property
    def fingerprint(self) -> str:
        """Key, what the machine tells of itself, threads, timing settings."""
        t, told = self._timing, self._remote.get("cpu", "unknown")
        return f"key={self._spec.key};cpu={told};threads={self._spec.threads};repeats={t.n_repeats};min_repeat_ms={t.min_repeat_ms}"

    @property
    def is_remote(self) -> bool:
        """True: building here does not disturb timing there."""
        return True


def _native_target(triple: str, mcpu: str, n_threads: int, name: str) -> dict[str, Any]:
    """LLVM for the processor that the device names, or for this machine's where it names none."""
    if triple and not same_architecture(triple, host_triple()):
        example = f"target=llvm,mtriple={triple},mcpu={mcpu or 'generic'},num-cores={n_threads}"
        raise ConfigError(
            f"{name} is of another kind ({triple}) than this machine ({host_triple()}): say what to compile for, e.g. {example}"
        )
    return {"kind": "llvm", "mcpu": mcpu or host_cpu(), "num-cores": n_threads}
