"""Checks how large the arrays of a .npz file are, before numpy makes room for them.

A header of a few bytes can ask for any size, and a few kilobytes can unpack to gigabytes.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path

from numpy.lib import format as npy

__all__ = ["check_sizes"]

_SMALL_BYTES = 1 << 30  # that any file may unpack to
_LARGEST_RATIO = 64  # of unpacked images to packed ones beyond that
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def check_sizes(path: Path, keys: Iterable[str]) -> None:
    """Refuse arrays that are larger than what the file has of them.

    Args:
        path: of the file.
        keys: names of the arrays that are wanted.

    Raises:
        ValueError: one is too large, or no array.
        OSError, zipfile.BadZipFile, zlib.error: the file is damaged.
    """
    limit = max(_SMALL_BYTES, _LARGEST_RATIO * path.stat().st_size)
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        for key in keys:
            for name in {key, f"{key}.npy"} & names:
                _check_member(archive, archive.getinfo(name), limit)


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> None:
    with archive.open(member) as file:
        read_header = _READERS.get(npy.read_magic(file))
        if read_header is None:
            raise ValueError(f"{member.filename} is no array of numbers")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape, _, dtype = read_header(file)
    n_bytes = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or n_bytes > member.file_size:
        raise ValueError(
            f"{member.filename} says that it is {dtype} {shape}, and has {member.file_size} bytes"
        )
    if member.file_size > limit:
        raise ValueError(
            f"{member.filename} unpacks to {member.file_size >> 20} MiB: "
            "save it with `numpy.savez`, which packs nothing"
        )
