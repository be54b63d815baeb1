"""The RPC server behind a device: one forked process for each session.

TVM's own `tvm.rpc.Server` stops listening when a session dies of a signal. Here a program that
crashes costs its session and nothing else. There are two ways to run it:

- `python -m cprune_rl.compiler.devices.rpc_server --loopback` serves the device `local`. It reads
  its key from standard input, prints its port, and ends with its sessions when standard input
  closes, so that a killed search leaves nothing running behind.
- `python -m cprune_rl.compiler.devices.rpc_server --tracker HOST:PORT --key KEY [--threads N]` runs
  on a board or a phone and offers it to a TVM tracker, one session at a time, until it is stopped.
  A session ends when its client hangs up or its time is over, whatever the program in it does. A
  tracker that went away is looked for again.

This file imports TVM and nothing else of this package: a board without the package runs a copy of
it, `python rpc_server.py --tracker ...`.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import platform
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from pathlib import Path

import tvm_ffi
from tvm.rpc import base
from tvm.rpc.server import _serve_loop  # the served half of TVM's protocol has no public name
from tvm.support import utils

# How often a waiting server asks its tracker whether it is still listed.
_PING_S = 1.0
# A server that was given to a client which never came is offered again after this.
_UNUSED_S = 6.0
_HANDSHAKE_S = 10.0
# For a session whose client hung up to end by itself.
_GRACE_S = 1.0
# Of Linux's <sys/prctl.h>.
_PR_SET_PDEATHSIG = 1


def serve_loopback(key: str) -> None:
    """Listen on a free loopback port until standard input closes.

    Args:
        key: what clients must know. Every user of the machine can read a command line, so it is
            not on that.
    """
    server = os.getpid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended sessions need no reaping
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the client's to handle
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        connection, _ = listener.accept()
        # Forked before the handshake: a client that was answered finds its session among our
        # children.
        if os.fork() == 0:
            _end_with(server)
            listener.close()
            try:
                if _shake_hands(connection, key, key) is not None:
                    with tempfile.TemporaryDirectory(prefix="cprune-rpc-") as folder:
                        _serve_session(connection, folder)
            finally:
                os._exit(0)
        connection.close()


class Registration:
    """This server's place on a tracker's list.

    Args:
        tracker: host and port.
        key: what clients ask for.
        port: where this server listens.
        host: where clients find it; None lets the tracker tell by the connection.
    """

    def __init__(
        self, tracker: tuple[str, int], key: str, port: int, host: str | None = None
    ) -> None:
        self._tracker = tracker
        self._key = key
        self._port = port
        self._host = host
        self._connection: socket.socket | None = None
        self._missing_since: float | None = None
        self.match_key = ""

    def offer(self) -> None:
        """Put this server on the list, under a new key that is good for one session.

        A tracker that does not answer is asked again by `refresh`.
        """
        try:
            if self._connection is None:
                self._connection = self._introduce()
            self.match_key = base.random_key(self._key)
            self._ask([base.TrackerCode.PUT, self._key, (self._port, self.match_key), self._host])
            self._missing_since = None
        except OSError:
            self._disconnect()

    def refresh(self) -> None:
        """Offer this server again if the tracker was lost, or if its client never came."""
        if self._connection is None:
            self.offer()
            return
        try:
            is_listed = self.match_key in self._ask([base.TrackerCode.GET_PENDING_MATCHKEYS])
        except OSError:
            self._disconnect()
            return
        now = time.monotonic()
        self._missing_since = None if is_listed else self._missing_since or now
        if self._missing_since is not None and now - self._missing_since > _UNUSED_S:
            self.offer()

    def _introduce(self) -> socket.socket:
        connection = socket.create_connection(self._tracker, timeout=_HANDSHAKE_S)
        connection.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
        if struct.unpack("<i", base.recvall(connection, 4))[0] != base.RPC_TRACKER_MAGIC:
            raise OSError("no tracker")
        server = {"key": f"server:{self._key}", "addr": (self._host, self._port)}
        base.sendjson(connection, [base.TrackerCode.UPDATE_INFO, server])
        base.recvjson(connection)
        return connection

    def _ask(self, message: list[object]) -> list[str]:
        base.sendjson(self._connection, message)
        answer = base.recvjson(self._connection)
        return answer if isinstance(answer, list) else []

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def serve_tracker(
    listener: socket.socket, registration: Registration, key: str, n_threads: int
) -> None:
    """Serve the tracker's clients, one session at a time, for ever."""
    _register_description(n_threads)
    server = os.getpid()
    while True:
        registration.offer()
        connection, timeout_s = _next_client(listener, registration, key)
        try:
            folder = tempfile.mkdtemp(prefix="cprune-rpc-")
        except OSError:  # a full disk costs the session and not the server
            connection.close()
            continue
        session = os.fork()
        if session == 0:
            _end_with(server)
            listener.close()
            try:
                _serve_session(connection, folder)
            finally:
                os._exit(0)
        try:
            _watch_session(session, connection, timeout_s)
        finally:
            connection.close()
            shutil.rmtree(folder, ignore_errors=True)


def _next_client(
    listener: socket.socket, registration: Registration, key: str
) -> tuple[socket.socket, float]:
    """Wait for a caller with the right key; return it and the seconds its session may take."""
    while True:
        if not select.select([listener], [], [], _PING_S)[0]:
            registration.refresh()
            continue
        connection, _ = listener.accept()
        connection.settimeout(_HANDSHAKE_S)
        try:
            options = _shake_hands(connection, registration.match_key, key)
        except (OSError, struct.error):
            options = None
        if options is None:
            connection.close()
            continue
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        limits = [float(o.removeprefix("-timeout=")) for o in options if o.startswith("-timeout=")]
        return connection, limits[0] if limits else float("inf")


def _watch_session(session: int, connection: socket.socket, timeout_s: float) -> None:
    """Wait for a session's end; kill it when its time is over or its client has hung up."""
    hung_up = select.poll()
    hung_up.register(connection, getattr(select, "POLLRDHUP", 0))
    ends = time.monotonic() + timeout_s
    while os.waitpid(session, os.WNOHANG) == (0, 0):
        now = time.monotonic()
        if hung_up.poll(50):
            ends = min(ends, now + _GRACE_S)
            time.sleep(0.05)
        if now > ends:
            with contextlib.suppress(ProcessLookupError):
                os.kill(session, signal.SIGKILL)
            os.waitpid(session, 0)
            return


def _register_description(n_threads: int) -> None:
    """Let a client ask what this machine is."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        names = [
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith(("model name", "Model"))
        ]
        cpu = names[0] if names else cpu
    text = json.dumps({"cpu": cpu, "machine": platform.machine(), "threads": n_threads})
    tvm_ffi.register_global_func("cprune_rl.describe", lambda: text, override=True)


def _shake_hands(connection: socket.socket, client_key: str, own_key: str) -> list[str] | None:
    """Answer TVM's handshake.

    Returns:
        The caller's options; None for a caller that speaks something else or lacks the key.
    """
    if struct.unpack("<i", base.recvall(connection, 4))[0] != base.RPC_MAGIC:
        return None
    length = struct.unpack("<i", base.recvall(connection, 4))[0]
    if not 0 < length < 4096:
        return None
    words: list[str] = base.recvall(connection, length).decode(errors="replace").split()
    if not words or words[0] != f"client:{client_key}":
        connection.sendall(struct.pack("<i", base.RPC_CODE_MISMATCH))
        return None
    answer = f"server:{own_key}".encode()
    connection.sendall(struct.pack("<ii", base.RPC_CODE_SUCCESS, len(answer)) + answer)
    return words[1:]


def _serve_session(connection: socket.socket, folder: str) -> None:
    """Live the life of a forked session.

    Args:
        connection: to its client.
        folder: for the files that it is sent; most sessions are killed, so others remove it.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(folder)
    _serve_loop(connection, "", utils.tempdir(str(Path(folder) / "work")))


def _end_with(server: int) -> None:
    """Have a forked session killed with its server, whatever the program in it does.

    Only Linux can do that.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:  # it died before that
        os._exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cprune_rl.compiler.devices.rpc_server",
        description="Serve programs on this machine: one forked process for each session.",
    )
    parser.add_argument(
        "--loopback",
        action="store_true",
        help="serve on loopback alone, "
        "for the process that started this one and gives the key on standard input",
    )
    parser.add_argument(
        "--tracker", metavar="HOST:PORT", help="offer this machine to a TVM tracker"
    )
    parser.add_argument("--key", help="what clients ask the tracker for, e.g. the board's kind")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads a program may use [default: 1]"
    )
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on [default: all]")
    parser.add_argument(
        "--port", type=int, default=0, help="port to listen on [default: a free one]"
    )
    parser.add_argument(
        "--public-host", help="where clients find this machine, if not where the tracker sees it"
    )
    return parser


def main() -> None:
    """Serve in the way that the command line asks for."""
    parser = _parser()
    options = parser.parse_args()
    if options.loopback:
        serve_loopback(sys.stdin.readline().strip())
        return
    host, _, port = (options.tracker or "").rpartition(":")
    if not host or not port.isdigit() or not options.key:
        parser.error("give --tracker HOST:PORT and --key KEY")
    # A session reads these when its first program runs.
    os.environ["TVM_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(options.threads)
    listener = socket.create_server((options.host, options.port))
    own_port = listener.getsockname()[1]
    print(
        f"serving {options.key} on port {own_port}, {options.threads} thread(s), "
        f"tracker {options.tracker}",
        flush=True,
    )
    registration = Registration((host, int(port)), options.key, own_port, options.public_host)
    with contextlib.suppress(KeyboardInterrupt):
        serve_tracker(listener, registration, options.key, options.threads)


if __name__ == "__main__":
    main()
