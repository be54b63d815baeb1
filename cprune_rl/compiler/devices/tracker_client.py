"""What we ask of a TVM tracker:

who is on its list, and a device of one key. Plain sockets, without tvm.

TVM's own client waits for ever for a device, and a minute for a tracker; here every wait has an
end.
The protocol is that of `tvm/rpc/tracker.py`: a magic number both ways, then JSON behind its length.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cprune_rl.errors import ConfigError, DeviceError

__all__ = ["KeyStatus", "ServerLease", "TrackerAddress", "request_device", "tracker_status"]

_MAGIC = 0x2F271
_SUCCESS, _REQUEST, _SUMMARY = 0, 4, 6
_CONNECT_S = 5.0
_MAX_BYTES = 1 << 22


@dataclass(frozen=True)
class TrackerAddress:
    """Where a tracker listens."""

    host: str
    port: int

    @staticmethod
    def parse(text: str | None) -> TrackerAddress:
        """`host:port`; what is left out comes from TVM_TRACKER_HOST and TVM_TRACKER_PORT, then
        127.0.0.1 and 9190.

        Raises:
            ConfigError: the port is no number.
        """
        host, _, port = (text or "").partition(":")
        host = host or os.environ.get("TVM_TRACKER_HOST", "127.0.0.1")
        port = port or os.environ.get("TVM_TRACKER_PORT", "9190")
        if not port.isdigit() or not 0 < int(port) < 65536:
            raise ConfigError(
                f"tracker {text or f'{host}:{port}'!r}: {port!r} is no port. Give HOST:PORT, or set TVM_TRACKER_HOST and TVM_TRACKER_PORT."
            )
        return TrackerAddress(host, int(port))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class KeyStatus:
    """A key on a tracker's list.

    Attributes:
        key: what clients ask for.
        n_servers: registered, free or busy.
        n_free: nobody has a session on them.
        n_waiting: clients in the queue.
        addresses: `host:port` of each server.
    """

    key: str
    n_servers: int
    n_free: int
    n_waiting: int
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServerLease:
    """A device that a tracker has given us: where it listens, and the key it will know us by."""

    host: str
    port: int
    match_key: str


def tracker_status(tracker: TrackerAddress) -> list[KeyStatus]:
    """Every key on a tracker's list, in alphabetical order.

    Raises:
        DeviceError: no tracker answers there.
    """
    try:
        with _connected(tracker) as connection:
            _send(connection, [_SUMMARY])
            code, summary = _receive(connection)
            if code != _SUCCESS:
                raise OSError(f"answer {code}")
            servers = [
                (str(s["key"]).partition(":")[2], ":".join(map(str, s["addr"])))
                for s in summary["server_info"]
            ]
            queues = {
                str(k): (int(q["free"]), int(q["pending"]))
                for k, q in summary["queue_info"].items()
            }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeviceError(
            f"no tracker answers at {tracker} ({error}). Start one with `python -m tvm.exec.rpc_tracker --port {tracker.port}`, or give its HOST:PORT."
        ) from error
    listed = {key for key, _ in servers} | {key for key, counts in queues.items() if any(counts)}
    found = []
    for key in sorted(listed):
        addresses = tuple(sorted(address for k, address in servers if k == key))
        found.append(KeyStatus(key, len(addresses), *queues.get(key, (0, 0)), addresses))
    return found


def request_device(tracker: TrackerAddress, key: str, timeout_s: float) -> ServerLease:
    """Waits in a tracker's queue for a device.

    Raises:
        OSError: the tracker is gone, or no device became free in time.
    """
    with _connected(tracker) as connection:
        connection.settimeout(timeout_s)
        _send(connection, [_REQUEST, key, "", 1])
        try:
            code, value = _receive(connection)
            if code != _SUCCESS:
                raise OSError(f"the tracker answered {code}")
            return ServerLease(str(value[0]), int(value[1]), str(value[2]))
        except TimeoutError:
            raise TimeoutError(
                f"no device of key {key!r} became free within {timeout_s:.0f} s"
            ) from None
        except (ValueError, TypeError, IndexError) as error:
            raise OSError(f"the tracker's answer makes no sense: {error}") from error


@contextlib.contextmanager
def _connected(tracker: TrackerAddress) -> Iterator[socket.socket]:
    with socket.create_connection((tracker.host, tracker.port), timeout=_CONNECT_S) as connection:
        connection.sendall(struct.pack("<i", _MAGIC))
        if struct.unpack("<i", _receive_bytes(connection, 4))[0] != _MAGIC:
            raise OSError("something else listens there")
        yield connection


def _send(connection: socket.socket, value: object) -> None:
    data = json.dumps(value).encode()
    connection.sendall(struct.pack("<i", len(data)) + data)


def _receive(connection: socket.socket) -> list[Any]:
    size = struct.unpack("<i", _receive_bytes(connection, 4))[0]
    if not 0 < size <= _MAX_BYTES:
        raise OSError(f"a message of {size} bytes")
    value = json.loads(_receive_bytes(connection, size))
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("not [code, value]")
    return value


def _receive_bytes(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = connection.recv(count - len(data))
        if not chunk:
            raise OSError("the connection was closed")
        data += chunk
    return data
