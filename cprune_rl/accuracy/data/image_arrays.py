"""Arrays of images that need not be in memory: rows of a file, and some of the rows of an array.

A file is read row by row and never mapped. So neither resident memory nor address space grows with
the number of images.
"""

from __future__ import annotations

import hashlib
import io
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cprune_rl.errors import DataError, first_line

__all__ = ["ArrayFile", "ImageArray", "SelectedRows", "hash_images", "npy_header"]

_CHUNK_BYTES = 64 * 2**20  # of images that are hashed at once


class ImageArray(Protocol):
    """What a `Split` asks of its images. A numpy array gives it too."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`(n, channels, height, width)`."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8, or float32 of images that a network sees as they are."""

    def __len__(self) -> int:
        """The number of images."""

    def __getitem__(self, which: Any, /) -> Any:
        """The images at a slice or at positions `(n_batch,)`, as a numpy array."""


class _Rows:
    """Answers numpy's indices by the rows that they begin with."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for at in range(len(self)):
            yield self[at]

    def __getitem__(self, which: Any, /) -> Any:
        first, *others = which if isinstance(which, tuple) else (which,)
        if isinstance(first, (int, np.integer)):
            row = self._rows(np.arange(len(self))[[int(first)]])[0]
            return row[tuple(others)] if others else row
        rows = self._rows(np.arange(len(self))[first])
        return rows[(slice(None), *others)] if others else rows

    def __array__(
        self, dtype: np.dtype[Any] | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        return np.asarray(self[:], dtype)

    def _rows(self, at: NDArray[np.int64]) -> NDArray[Any]:
        """The rows at some positions, each in `[0, len(self))`."""
        raise NotImplementedError


class ArrayFile(_Rows):
    """Reads rows of a `.npy` file when they are asked for. Several threads may ask at once.

    Args:
        path: of the file; it stays open.
        digest: hash of its rows, where it is known.

    Raises:
        DataError: it is missing, cut, or no `.npy` file of plain numbers.
    """

    def __init__(self, path: Path, digest: str = "") -> None:
        self.path = path
        self.digest = digest
        try:
            with path.open("rb") as file:
                self.shape, is_fortran, self.dtype = _read_npy_header(file)
                self._offset = file.tell()
            self._descriptor = os.open(path, os.O_RDONLY)
        except (OSError, ValueError, EOFError, SyntaxError) as error:
            raise DataError(
                f"{path} cannot be read as an array: {first_line(error)}. Remove it."
            ) from error
        weakref.finalize(self, os.close, self._descriptor)
        size = os.fstat(self._descriptor).st_size
        self._row_bytes = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        is_whole = size == self._offset + len(self) * self._row_bytes
        if is_fortran or self.dtype.hasobject or not self.shape or not is_whole:
            raise DataError(f"{path} is cut, or no array of rows of numbers. Remove it.")

    def __reduce__(self) -> tuple[type[ArrayFile], tuple[Path, str]]:
        """Pickle by the path: an open file has no copy."""
        return type(self), (self.path, self.digest)

    def _rows(self, at: NDArray[np.int64]) -> NDArray[Any]:
        rows = np.empty((len(at), *self.shape[1:]), self.dtype)
        flat = rows.view(np.uint8).reshape(len(at), -1) if self._row_bytes else rows
        # rows that follow each other are read at once
        starts = np.flatnonzero(np.diff(at, prepend=-2) != 1).tolist()
        for start, end in zip(starts, [*starts[1:], len(at)], strict=True):
            self._read(flat[start:end], int(at[start]))
        return rows

    def _read(self, into: NDArray[np.uint8], row: int) -> None:
        buffer = into.reshape(-1).data
        offset = self._offset + row * self._row_bytes
        done = 0
        while done < len(buffer):
            try:
                n_read = os.preadv(self._descriptor, [buffer[done:]], offset + done)
            except OSError as error:
                raise DataError(f"{self.path} cannot be read any more: {error}") from error
            if n_read == 0:
                raise DataError(f"{self.path} was cut while it was read. Remove it.")
            done += n_read


class SelectedRows(_Rows):
    """Gives some rows of an array, in an order of their own, without copying the others.

    Args:
        array: with all rows.
        rows: `(n,)` positions in it.
    """

    array: ImageArray
    rows: NDArray[np.int64]

    def __init__(self, array: ImageArray, rows: NDArray[np.int64]) -> None:
        if isinstance(array, SelectedRows):
            rows = array.rows[rows]
            array = array.array
        self.array = array
        self.rows = rows
        self.shape = (len(rows), *array.shape[1:])
        self.dtype = array.dtype

    def _rows(self, at: NDArray[np.int64]) -> NDArray[Any]:
        return np.asarray(self.array[self.rows[at]])


def hash_images(images: ImageArray, digest: hashlib._Hash) -> None:
    """Add images to a hash: their bytes, or the known hash of the file that they are in."""
    if isinstance(images, ArrayFile) and images.digest:
        digest.update(images.digest.encode())
        return
    if isinstance(images, SelectedRows) and isinstance(images.array, ArrayFile):
        hash_images(images.array, digest)
        digest.update(images.rows.tobytes())
        return
    row_bytes = max(1, int(np.prod(images.shape[1:])) * images.dtype.itemsize)
    step = max(1, _CHUNK_BYTES // row_bytes)
    for start in range(0, len(images), step):
        digest.update(images[start : start + step].tobytes())


def npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """Give the first bytes of a `.npy` file, before its rows."""
    header = io.BytesIO()
    description = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(header, description)
    return header.getvalue()


def _read_npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)
