"""Forwards the connection to a remote server, so that it can be cut off from this side.

TVM's client waits for an answer in C++, where no time limit reaches it and where it may hold
Python's lock. A board that lost its power would stop a search for ever. The connection goes through
a process of its own, which ends when the session's time is over or when it is killed. Samples are
taken on the device, so timings do not change.
"""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["TcpProxy"]

_CHUNK_BYTES = 1 << 16


class TcpProxy:
    """A process that forwards one connection; its own end is a port on loopback.

    Args:
        host: of the remote server.
        port: of the remote server.
        connect_s: for the connection to be made.
        lifetime_s: the connection ends after this, whatever happens.

    Raises:
        OSError: nobody listens there.
    """

    def __init__(self, host: str, port: int, connect_s: float, lifetime_s: float) -> None:
        script = str(Path(__file__).resolve())
        arguments = [host, str(port), str(connect_s), str(lifetime_s)]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", script, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        with self._process.stdout as output:
            line = output.readline().strip()
        if not line.isdigit():
            self.abort()
            raise OSError(line or f"no proxy to {host}:{port} could be started")
        self.port = int(line)

    def abort(self) -> None:
        """End the connection on both sides; may be called from any thread, and twice."""
        self._process.kill()
        self._process.wait()


def _serve(host: str, port: int, connect_s: float, lifetime_s: float) -> None:
    """Connect, print its own port, and forward until a side ends or time is over."""
    ends = time.monotonic() + lifetime_s
    try:
        far = socket.create_connection((host, port), timeout=connect_s)
    except OSError as error:
        print(f"{host}:{port} does not answer: {error}", flush=True)
        return
    with far, socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        listener.settimeout(connect_s)
        near, _ = listener.accept()
        with near:
            _forward(near, far, ends)


def _forward(near: socket.socket, far: socket.socket, ends: float) -> None:
    for end in (near, far):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while (left := ends - time.monotonic()) > 0:
        for source in select.select([near, far], [], [], left)[0]:
            data = source.recv(_CHUNK_BYTES)
            if not data:
                return
            sink = far if source is near else near
            sink.settimeout(max(ends - time.monotonic(), 0.1))
            sink.sendall(data)


if __name__ == "__main__":
    with contextlib.suppress(OSError, KeyboardInterrupt):
        _serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
