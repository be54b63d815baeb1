"""A loopback door in front of a remote server, so that a session can be cut off from this side.

TVM's client waits for an answer inside C++, where no time limit reaches it and where it may hold
Python's lock: a
board that lost its power would stop a search for ever. Its connection goes through a small process
of its own,
which ends with the session's time, or when it is killed. Timing is not touched: samples are taken
on the device.
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
    """Forwards one connection.

    Args:
        host: of the remote server.
        port: of the remote server.
        connect_s: for the connection to be made.
        lives_s: the door is shut after this, whatever happens.

    Raises:
        OSError: nobody listens there.
    """

    def __init__(self, host: str, port: int, connect_s: float, lives_s: float) -> None:
        command = [
            sys.executable,
            "-I",
            "-S",
            str(Path(__file__).resolve()),
            host,
            str(port),
            str(connect_s),
            str(lives_s),
        ]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        with self._process.stdout as output:
            line = output.readline().strip()
        if not line.isdigit():
            self.cut()
            raise OSError(line or f"no door to {host}:{port} could be opened")
        self.port = int(line)

    def cut(self) -> None:
        """Ends the connection on both sides; may be called from any thread, and twice."""
        self._process.kill()
        self._process.wait()


def _serve(host: str, port: int, connect_s: float, lives_s: float) -> None:
    """The process: connects, tells its own port, forwards until either side ends or time is over."""
    ends = time.monotonic() + lives_s
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
