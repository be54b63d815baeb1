"""Asks a TVM tracker for its list of servers, and for a server of one key.

TVM's own client waits without end for a server, and a minute for a tracker; here every wait ends.
The protocol is that of `tvm/rpc/tracker.py`: a magic number both ways, then JSON behind its length.
Plain sockets do, so that a device's name is read without tvm.
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

# The numbers of `tvm.rpc.base`: RPC_TRACKER_MAGIC, and of TrackerCode.
_MAGIC = 0x2F271
_SUCCESS = 0
_REQUEST = 4
_SUMMARY = 6
_CONNECT_S = 5.0
_MAX_BYTES = 1 << 22


@dataclass(frozen=True)
class TrackerAddress:
    """Where a tracker listens."""

    host: str
    port: int

    @staticmethod
    def parse(text: str | None) -> TrackerAddress:
        """Read `host:port`, either of which may be left out.

        TVM_TRACKER_HOST and TVM_TRACKER_PORT take their place, then 127.0.0.1 and 9190.

        Raises:
            ConfigError: the port is no number.
        """
        host, _, port = (text or "").partition(":")
        host = host or os.environ.get("TVM_TRACKER_HOST", "127.0.0.1")
        port = port or os.environ.get("TVM_TRACKER_PORT", "9190")
        if not port.isdigit() or not 0 < int(port) < 65536:
            raise ConfigError(
                f"tracker {text or f'{host}:{port}'!r}: {port!r} is no port. "
                "Give HOST:PORT, or set TVM_TRACKER_HOST and TVM_TRACKER_PORT."
            )
        return TrackerAddress(host, int(port))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class KeyStatus:
    """The servers of one key on a tracker's list.

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
    """A server that a tracker gave us.

    Attributes:
        host: where it listens.
        port: where it listens.
        match_key: it knows us by this.
    """

    host: str
    port: int
    match_key: str


def tracker_status(tracker: TrackerAddress) -> list[KeyStatus]:
    """List the keys of a tracker, in alphabetical order.

    Raises:
        DeviceError: no tracker answers there.
    """
    try:
        with _connected(tracker) as connection:
            _send(connection, [_SUMMARY])
            code, summary = _receive(connection)
            if code != _SUCCESS:
                raise OSError(f"answer {code}")
            return _key_statuses(summary["server_info"], summary["queue_info"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeviceError(
            f"no tracker answers at {tracker} ({error}). Start one with "
            f"`python -m tvm.exec.rpc_tracker --port {tracker.port}`, or give its HOST:PORT."
        ) from error


def _key_statuses(servers: list[Any], queues: dict[str, Any]) -> list[KeyStatus]:
    addresses: dict[str, list[str]] = {}
    for server in servers:
        key = str(server["key"]).partition(":")[2]
        addresses.setdefault(key, []).append(":".join(map(str, server["addr"])))
    statuses = []
    for key in sorted({*addresses, *queues}):
        queue = queues.get(key, {"free": 0, "pending": 0})
        status = KeyStatus(
            key=key,
            n_servers=len(addresses.get(key, ())),
            n_free=int(queue["free"]),
            n_waiting=int(queue["pending"]),
            addresses=tuple(sorted(addresses.get(key, ()))),
        )
        # The tracker remembers keys whose servers and clients are all gone.
        if status.n_servers or status.n_free or status.n_waiting:
            statuses.append(status)
    return statuses


def request_device(tracker: TrackerAddress, key: str, timeout_s: float) -> ServerLease:
    """Wait in a tracker's queue for a server.

    Raises:
        OSError: the tracker is gone, or no server became free in time.
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
