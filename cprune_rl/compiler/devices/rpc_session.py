"""Keeps a session on a device: opened when it is needed, replaced at the first sign of trouble.

A session is a process on the device that runs what it is sent. `local` and `tracker` know how one
is opened.
"""

from __future__ import annotations

import contextlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from cprune_rl.core.protocols import Artifact

__all__ = ["RpcSession", "make_arguments", "uploaded"]

# A session never unloads a library; a new one begins empty.
_MAX_USES = 500
# Larger arguments are filled on the device and not sent there.
_FILL_BYTES = 1 << 16
_upload_numbers = itertools.count()


class RpcSession(ABC):
    """A session on a device. One thread uses it at a time; `abort` may come from any."""

    def __init__(self) -> None:
        self._remote: Any = None
        self._n_uses = 0

    @property
    def is_open(self) -> bool:
        """Whether it was opened; its device may be away all the same."""
        return self._remote is not None

    def connect(self, needed_s: float, is_wanted: Callable[[], bool] | None = None) -> Any:
        """Return TVM's `RPCSession`; a new one where there is none that lasts.

        Args:
            needed_s: seconds that it must live.
            is_wanted: asked while a session is waited for; None is given once it says no.

        Raises:
            DeviceError: none can be had any more.
        """
        self._n_uses += 1
        is_worn = self._n_uses > _MAX_USES or not self._is_usable(needed_s)
        if self._remote is not None and is_worn:
            self.disconnect()
        if self._remote is None:
            self._remote = self._open(needed_s, is_wanted)
            self._n_uses = 1
        return self._remote

    def disconnect(self) -> None:
        """Give the session up; `connect` then opens a new one."""
        self.abort()
        self._remote = None

    def close(self) -> None:
        """End the session and what stands behind it; may be called twice."""
        self.disconnect()

    @abstractmethod
    def abort(self) -> None:
        """End the session at once: a thread that waits for its answer gets an error."""

    @abstractmethod
    def _open(self, needed_s: float, is_wanted: Callable[[], bool] | None) -> Any:
        """Open a new session, or return None where it is no longer wanted.

        Raises:
            DeviceError: none can be had.
        """

    @abstractmethod
    def _is_usable(self, needed_s: float) -> bool:
        """Tell whether the open session is likely to live that long."""


@contextlib.contextmanager
def uploaded(remote: Any, path: str) -> Iterator[Any]:
    """Load a library of this machine into a session, and remove its file in the end."""
    # A new name each time: for a path that it has loaded before, the loader gives the old library.
    name = f"{next(_upload_numbers)}-{Path(path).name}"
    # Bytes and not a path, which TVM would open and leave open.
    remote.upload(bytearray(Path(path).read_bytes()), name)
    try:
        yield remote.load_module(name)
    finally:
        with contextlib.suppress(RuntimeError):  # a dead session has no files left
            remote.remove(name)


def make_arguments(remote: Any, artifact: Artifact) -> list[Any]:
    """Make the arguments of a timing: the artifact's tables, and random values elsewhere.

    Zeros or denormals would make some programs faster.
    """
    device = remote.cpu(0)
    rng = np.random.default_rng(0)
    tensors = []
    for at, (shape, dtype) in enumerate(zip(artifact.shapes, artifact.dtypes, strict=True)):
        if at in artifact.tables:
            tensors.append(tvm.runtime.tensor(np.ascontiguousarray(artifact.tables[at]), device))
        elif dtype == "float32" and 4 * np.prod(shape) > _FILL_BYTES:
            tensors.append(tvm.runtime.empty(shape, dtype, device))
            remote.get_function("tvm.contrib.random.random_fill")(tensors[-1])
        elif dtype.startswith("float"):
            tensors.append(tvm.runtime.tensor(rng.standard_normal(shape).astype(dtype), device))
        else:
            tensors.append(tvm.runtime.tensor(np.zeros(shape, dtype), device))
    return tensors
