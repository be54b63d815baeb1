"""The device `rpc://host:port/key`: phones, boards and servers behind a TVM tracker.

A session has a time limit and goes through a proxy that can be cut off from here. When its device
goes away it is asked for again, with growing pauses. Boards run `rpc_server`, or TVM's own server.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import rpc

from cprune_rl.compiler.devices.base import RpcDevice, TimingSettings
from cprune_rl.compiler.devices.rpc_session import RpcSession
from cprune_rl.compiler.devices.spec import TrackerSpec
from cprune_rl.compiler.devices.target import (
    host_cpu,
    host_triple,
    require_linker,
    same_architecture,
    target_from_options,
)
from cprune_rl.compiler.devices.tcp_proxy import TcpProxy
from cprune_rl.compiler.devices.tracker_client import (
    KeyStatus,
    request_device,
    tracker_status,
)
from cprune_rl.errors import ConfigError, DeviceError, last_line

__all__ = ["RetrySettings", "TrackerDevice"]

# Between our time limit and the server's, so that ours is met first.
_SLACK_S = 10.0
# In the tracker's queue before it is asked again: a tracker that lost its power does not say so.
_QUEUE_S = 20.0
# The same where other devices may do the work meanwhile.
_SHORT_QUEUE_S = 1.0
# Of TVM's thread pool: prefer the fast cores.
_BIG_CORES = 1


@dataclass(frozen=True, kw_only=True)
class RetrySettings:
    """How a device that does not answer is asked again.

    Attributes:
        session_s: the server ends a session after this. A board is lost to others for that long
            when this process dies.
        connect_s: for a server to answer.
        first_pause_s: before a device is asked for again; each pause is twice the one before.
        longest_pause_s: no pause is longer.
    """

    session_s: float = 120.0
    connect_s: float = 10.0
    first_pause_s: float = 0.25
    longest_pause_s: float = 10.0


class TrackerSession(RpcSession):
    """A session on any free device of one key.

    Args:
        spec: the tracker, the key, the threads, and how long a device is waited for.
        retry: how it is asked again meanwhile.
    """

    def __init__(self, spec: TrackerSpec, retry: RetrySettings) -> None:
        super().__init__()
        self._spec = spec
        self._retry = retry
        self._proxy: TcpProxy | None = None
        self._ends = 0.0

    def abort(self) -> None:
        """End the connection to the session's server."""
        if self._proxy is not None:
            self._proxy.abort()

    def _is_usable(self, needed_s: float) -> bool:
        return time.monotonic() + needed_s < self._ends

    def _open(self, needed_s: float, is_wanted: Callable[[], bool] | None) -> Any:
        spec = self._spec
        deadline = time.monotonic() + spec.wait_s
        pause_s = self._retry.first_pause_s
        longest_queue_s = _QUEUE_S if is_wanted is None else _SHORT_QUEUE_S
        session_s = max(self._retry.session_s, needed_s + _SLACK_S)
        while is_wanted is None or is_wanted():
            queue_s = min(max(deadline - time.monotonic(), 0.5), longest_queue_s)
            try:
                return self._request(session_s, queue_s)
            except (OSError, RuntimeError) as error:
                self.abort()
                if time.monotonic() + pause_s > deadline:
                    raise DeviceError(
                        f"no device of key {spec.key!r} could be had from the tracker at "
                        f"{spec.tracker} for {spec.wait_s:.0f} s: {last_line(error)}. "
                        f"See `cprune-rl device list --tracker {spec.tracker}`; start its server "
                        "again, or wait longer with wait=SECONDS in the device's name."
                    ) from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, self._retry.longest_pause_s)
        return None

    def _request(self, session_s: float, queue_s: float) -> Any:
        """Ask once.

        Raises:
            OSError, RuntimeError: there is no session now.
        """
        lease = request_device(self._spec.tracker, self._spec.key, queue_s)
        connect_s = self._retry.connect_s
        self._proxy = proxy = TcpProxy(
            lease.host, lease.port, connect_s=connect_s, lifetime_s=session_s + _SLACK_S
        )
        watchdog = threading.Timer(connect_s, proxy.abort)
        watchdog.daemon = True
        watchdog.start()
        try:
            self._ends = time.monotonic() + session_s
            remote = rpc.connect(
                "127.0.0.1", proxy.port, lease.match_key, session_timeout=session_s
            )
            if describe_remote(remote).get("threads") != self._spec.threads:
                configure = remote.get_function("runtime.config_threadpool")
                configure(_BIG_CORES, self._spec.threads)
            return remote
        finally:
            watchdog.cancel()


def describe_remote(remote: Any) -> dict[str, Any]:
    """Ask a server for `cpu`, `machine` and `threads`; TVM's own server tells nothing."""
    try:
        description: dict[str, Any] = json.loads(str(remote.get_function("cprune_rl.describe")()))
        return description
    except (AttributeError, ValueError):
        return {}


class TrackerDevice(RpcDevice):
    """Devices of one key behind a tracker.

    Args:
        spec: what the device's name says.
        timing: how long a program is timed.
        retry: how a device that does not answer is asked again.

    Raises:
        ConfigError: TVM does not know the target, LLVM does not know its processor, or the target
            has to be given.
        ToolchainError: no compiler links programs for it.
        DeviceError: no tracker answers, or no device of that key.
    """

    def __init__(
        self,
        spec: TrackerSpec,
        timing: TimingSettings | None = None,
        retry: RetrySettings | None = None,
    ) -> None:
        self._spec = spec
        target = None
        if spec.target is not None:
            target = target_from_options(spec.target)
            require_linker(target, spec.linker)  # before a device is waited for
        status = _require_key(spec)
        n_sessions = spec.devices or max(status.n_free, 1)
        sessions = [TrackerSession(spec, retry or RetrySettings()) for _ in range(n_sessions)]
        remote = sessions[0].connect(0.0)
        self._description = describe_remote(remote)
        try:
            target = target or target_from_options(self._native_target(remote))
            super().__init__(target, sessions, timing, spec.linker)
        except BaseException:
            sessions[0].close()
            raise

    @property
    def name(self) -> str:
        """The full name, also where the user left parts of it to the environment."""
        spec = self._spec
        target = spec.target and json.dumps(spec.target, separators=(",", ":"))
        wait_s = None if spec.wait_s == TrackerSpec.wait_s else f"{spec.wait_s:.0f}"
        options = {
            "target": target,
            "cc": spec.linker,
            "threads": spec.threads,
            "devices": spec.devices,
            "wait": wait_s,
        }
        given = [f"{option}={value}" for option, value in options.items() if value is not None]
        return f"rpc://{spec.tracker}/{spec.key}?{'&'.join(given)}"

    @property
    def _hardware(self) -> str:
        cpu = self._description.get("cpu", "unknown")
        return f"key={self._spec.key};cpu={cpu};threads={self._spec.threads}"

    @property
    def is_remote(self) -> bool:
        """True: building here does not disturb timing there."""
        return True

    def _native_target(self, remote: Any) -> dict[str, Any]:
        """Return LLVM's options for the processor that the device names, or for this machine's.

        Raises:
            ConfigError: the device is of another kind than this machine.
        """
        triple = _ask_llvm(remote, "triple")
        mcpu = _ask_llvm(remote, "cpu")
        n_threads = self._spec.threads
        if triple and not same_architecture(triple, host_triple()):
            example = f"target=llvm,mtriple={triple},mcpu={mcpu or 'generic'},num-cores={n_threads}"
            raise ConfigError(
                f"{self.name} is of another kind ({triple}) than this machine ({host_triple()}): "
                f"say what to compile for, e.g. {example}"
            )
        return {"kind": "llvm", "mcpu": mcpu or host_cpu(), "num-cores": n_threads}


def _require_key(spec: TrackerSpec) -> KeyStatus:
    """Return the servers of the device's key.

    Raises:
        DeviceError: the tracker has none.
    """
    statuses = {s.key: s for s in tracker_status(spec.tracker) if s.n_servers}
    if spec.key in statuses:
        return statuses[spec.key]
    command = (
        f"python -m cprune_rl.compiler.devices.rpc_server --tracker {spec.tracker} --key {spec.key}"
    )
    raise DeviceError(
        f"the tracker at {spec.tracker} knows no device of key {spec.key!r}. "
        f"Known: {', '.join(statuses) or 'none'}. Start one with `{command}`."
    )


def _ask_llvm(remote: Any, subject: str) -> str:
    try:
        return str(remote.get_function(f"target.llvm_get_system_{subject}")())
    except AttributeError:  # a server with TVM's runtime alone
        return ""
