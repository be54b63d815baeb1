"""The device `local`: this machine's CPU behind our RPC server on loopback.

The server lives as long as the device; a session is one process that it forks.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from tvm import rpc

import cprune_rl
from cprune_rl.compiler.devices.base import RpcDevice, TimingSettings
from cprune_rl.compiler.devices.rpc_session import RpcSession
from cprune_rl.compiler.devices.target import host_cpu, make_target
from cprune_rl.core.machine_failures import remedy
from cprune_rl.core.system_info import processor_model
from cprune_rl.errors import DeviceError

__all__ = ["LocalDevice"]

_SERVER = "cprune_rl.compiler.devices.rpc_server"
_DYING_S = 2.0  # for a killed session to be gone


class _Server:
    """The server's process, the sessions that it forked, and the folder of their files.

    A session that is killed cannot remove its own files.
    """

    def __init__(self, n_threads: int) -> None:
        self.key = secrets.token_hex(8)
        self._sessions: list[psutil.Process] = []
        self.folder = tempfile.TemporaryDirectory(prefix="cprune-rpc-", ignore_cleanup_errors=True)
        # The server finds this package where this process found it.
        package = str(Path(cprune_rl.__file__).parent.parent)
        environment = {
            "TVM_NUM_THREADS": str(n_threads),
            "OMP_NUM_THREADS": str(n_threads),
            "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
            "TMPDIR": self.folder.name,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", _SERVER, "--loopback"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environment},
            text=True,
        )
        self.port = self._exchange_key()

    def _exchange_key(self) -> int:
        """Give the server its key and get its port."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        # A server that did not start is noticed by the line that it does not print.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{self.key}\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline().strip()
        if not line:
            self.close()
            raise DeviceError(
                "the local RPC server did not start; "
                f"run `echo test | python -m {_SERVER} --loopback` to see why"
            )
        return int(line)

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def sessions(self) -> list[psutil.Process]:
        """Return the forked sessions; remember those of a server that died."""
        if self.is_alive:  # a dead server's process id may be another process's by now
            with contextlib.suppress(psutil.NoSuchProcess):
                children = psutil.Process(self.process.pid).children()
                self._sessions = list({*self._sessions, *children})
        return self._sessions

    def kill_sessions(self) -> None:
        for session in self.sessions():
            with contextlib.suppress(psutil.NoSuchProcess):
                session.kill()
        self._sessions = []

    def close(self) -> None:
        sessions = self.sessions()
        self.kill_sessions()
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        # A session that still writes to the folder would keep it.
        psutil.wait_procs(sessions, timeout=_DYING_S)
        self.folder.cleanup()


class LocalSession(RpcSession):
    """A session on a server of our own, pinned to the last cores.

    Attributes:
        server: None before the first session.

    Args:
        n_threads: threads that a program may use.
    """

    def __init__(self, n_threads: int) -> None:
        super().__init__()
        self._n_threads = n_threads
        self.server: _Server | None = None

    def abort(self) -> None:
        """Kill the session's process."""
        if self.server is not None:
            self.server.kill_sessions()

    def close(self) -> None:
        """End the server too."""
        super().close()
        if self.server is not None:
            self.server.close()
            self.server = None

    def _is_usable(self, needed_s: float) -> bool:
        return self.server is not None and self.server.is_alive

    def _open(self, needed_s: float, is_wanted: Callable[[], bool] | None) -> Any:
        for _ in range(3):
            server = self._living_server()
            try:
                remote = rpc.connect("127.0.0.1", server.port, server.key)
                self._pin(server)
                return remote
            # The server died between the check and the call; the next round starts a new one.
            except Exception:
                server.close()
        raise DeviceError(
            "the local RPC server cannot be reached, three new ones in a row; "
            "is loopback networking allowed here?"
        )

    def _living_server(self) -> _Server:
        if self.server is not None and self.server.is_alive:
            return self.server
        if self.server is not None:
            self.server.close()
        try:
            self.server = _Server(self._n_threads)
        except OSError as error:  # a full disk, or no more processes: no program's doing
            reason = f"the local RPC server cannot be started: {error}"
            advice = remedy(str(error), f"{tempfile.gettempdir()} (TMPDIR)")
            raise DeviceError(f"{reason}. {advice}") from error
        return self.server

    def _pin(self, server: _Server) -> None:
        cores = sorted(psutil.Process().cpu_affinity() or [])[-self._n_threads :]
        for session in server.sessions():
            with contextlib.suppress(psutil.Error):
                session.cpu_affinity(cores)


class LocalDevice(RpcDevice):
    """This machine's CPU.

    One thread is the default: small networks at the edge are deployed so, and on a shared machine
    no other timings are quiet. The session is pinned to the last `n_threads` cores.

    Args:
        n_threads: threads that a program may use.
        mcpu: LLVM's name of the processor to compile for; None for this one.
        timing: how long a program is timed.

    Raises:
        UnknownNameError: LLVM knows no processor of that name.
        ToolchainError: no compiler links programs.
    """

    def __init__(
        self, n_threads: int = 1, mcpu: str | None = None, timing: TimingSettings | None = None
    ) -> None:
        self._n_threads = n_threads
        self._mcpu = mcpu or host_cpu()
        self._session = LocalSession(n_threads)
        super().__init__(make_target(n_threads, self._mcpu), [self._session], timing)

    @property
    def name(self) -> str:
        """`local`, with its options where they are not the default."""
        if self._n_threads == 1 and self._mcpu == host_cpu():
            return "local"
        return f"local?threads={self._n_threads}&mcpu={self._mcpu}"

    @property
    def _hardware(self) -> str:
        # Boards name no model; the hash is what earlier cost caches know them by.
        cpu = processor_model() or hashlib.sha256(os.uname().machine.encode()).hexdigest()[:8]
        return f"cpu={cpu};mcpu={self._mcpu};threads={self._n_threads}"

    @property
    def is_remote(self) -> bool:
        """False: building takes cores that timing needs."""
        return False

    @property
    def server_process(self) -> subprocess.Popen[str] | None:
        """The server's process; None before the first trial."""
        server = self._session.server
        return None if server is None else server.process
