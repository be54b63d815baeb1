"""A link: one way to a device, with at most one living session on it.

A session is a process on the device that programs are sent to. It is asked for when it is needed
and given up
at the first sign of trouble; how, is the affair of `local` and `tracker`.
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

__all__ = ["RpcSession", "last_line", "make_arguments", "uploaded"]

_MAX_USES = 500  # libraries that a session has loaded are never unloaded
_n_uploads = itertools.count()
_FILL_BYTES = 1 << 16  # larger arguments are filled on the device and not sent there


class RpcSession(ABC):
    """Owns a session. One thread uses it at a time; `cut` may come from any."""

    def __init__(self) -> None:
        self._session: Any = None
        self._n_uses = 0

    @property
    def is_open(self) -> bool:
        """Whether there is one already; its device may be away all the same."""
        return self._session is not None

    def session(self, needed_s: float, is_wanted: Callable[[], bool] | None = None) -> Any:
        """TVM's session, good for at least this many seconds.

        Args:
            needed_s: it should live that long.
            is_wanted: asked now and then while a session is waited for; None is given once it says
                no.

        Raises:
            DeviceError: none can be had any more.
        """
        self._n_uses += 1
        if self._session is not None and (
            self._n_uses > _MAX_USES or not self._is_usable(needed_s)
        ):
            self.drop()
        if self._session is None:
            self._session = self._open(needed_s, is_wanted)
            self._n_uses = 1
        return self._session

    def drop(self) -> None:
        """Gives the session up; the next one is a new one."""
        self.cut()
        self._session = None

    def close(self) -> None:
        """Ends the session and what stands behind it; may be called twice."""
        self.drop()

    @abstractmethod
    def cut(self) -> None:
        """Ends the session at once, so that a thread that waits for its answer gets an error."""

    @abstractmethod
    def _open(self, needed_s: float, is_wanted: Callable[[], bool] | None) -> Any:
        """A new session, or None where it is no longer wanted.

        Raises `DeviceError` where none can be had.
        """

    @abstractmethod
    def _is_usable(self, needed_s: float) -> bool:
        """Whether the session is likely to live that long."""


@contextlib.contextmanager
def uploaded(session: Any, path: str) -> Iterator[Any]:
    """A library of this machine as a module of the session's."""
    # a new name each time: given a path it has loaded before, the loader gives the old library
    name = f"{next(_n_uploads)}-{Path(path).name}"
    session.upload(
        bytearray(Path(path).read_bytes()), name
    )  # given a path, TVM leaves the file open
    try:
        yield session.load_module(name)
    finally:
        with contextlib.suppress(RuntimeError):  # a dead session has no files left
            session.remove(name)


def make_arguments(session: Any, artifact: Artifact) -> list[Any]:
    """Tensors on the device with values that no program runs faster on, zeros or denormals, and the
    artifact's own tables.
    """
    device, rng, fill = session.cpu(0), np.random.default_rng(0), None
    tensors = []
    for at, (shape, dtype) in enumerate(zip(artifact.shapes, artifact.dtypes, strict=True)):
        if at in artifact.tables:
            tensors.append(tvm.runtime.tensor(np.ascontiguousarray(artifact.tables[at]), device))
        elif dtype == "float32" and 4 * np.prod(shape) > _FILL_BYTES:
            fill = fill or session.get_function("tvm.contrib.random.random_fill")
            tensors.append(tvm.runtime.empty(shape, dtype, device))
            fill(tensors[-1])
        else:
            values = (
                rng.standard_normal(shape).astype(dtype)
                if dtype.startswith("float")
                else np.zeros(shape, dtype)
            )
            tensors.append(tvm.runtime.tensor(values, device))
    return tensors


def last_line(error: BaseException) -> str:
    """What an error says in its last line, where TVM puts the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"
