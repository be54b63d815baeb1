"""The RPC server behind the device `local`: one forked process for each session.

TVM's own `tvm.rpc.Server` stops listening when a session dies of a signal; here a program that
crashes costs its session and nothing else. Run by `compiler.device` as
`python -m cprune_rl.compiler.rpc_server KEY`; prints its port; ends when its standard input closes,
so a killed search leaves no server behind.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import sys
import tempfile
from pathlib import Path

from tvm.rpc import base
from tvm.rpc.server import _serve_loop  # the served half of TVM's protocol has no public name
from tvm.support import utils


def _shake_hands(connection: socket.socket, key: str) -> bool:
    """TVM's handshake; False for a caller that speaks something else or does not know the key."""
    if struct.unpack("<i", base.recvall(connection, 4))[0] != base.RPC_MAGIC:
        return False
    length = struct.unpack("<i", base.recvall(connection, 4))[0]
    if not 0 < length < 4096:
        return False
    words = base.recvall(connection, length).decode().split()
    if words[0] != f"client:{key}":
        connection.sendall(struct.pack("<i", base.RPC_CODE_MISMATCH))
        return False
    answer = f"server:{key}".encode()
    connection.sendall(struct.pack("<i", base.RPC_CODE_SUCCESS) + struct.pack("<i", len(answer)) + answer)
    return True


def _serve_session(connection: socket.socket) -> None:
    """The life of a forked session; files it is sent live in a folder that goes with it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with tempfile.TemporaryDirectory(prefix="cprune-rpc-") as folder:
        os.chdir(folder)
        _serve_loop(connection, "", utils.tempdir(str(Path(folder) / "work")))


def main(key: str) -> None:
    """Listens on a free loopback port until standard input closes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended sessions need no reaping
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the client's to handle
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        connection, _ = listener.accept()
        if os.fork() == 0:  # before the handshake: who has been answered can find the session among our children
            listener.close()
            try:
                if _shake_hands(connection, key):
                    _serve_session(connection)
            finally:
                os._exit(0)
        connection.close()


if __name__ == "__main__":
    main(sys.argv[1])
