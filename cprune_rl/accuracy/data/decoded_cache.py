"""Keeps decoded pictures in the cache folder: decoded once, read in rows from then on.

An entry is there in whole or not at all. Decoding that was stopped goes on where it stopped, and
a folder whose pictures changed is decoded again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cprune_rl.accuracy.data.image_arrays import ArrayFile, npy_header
from cprune_rl.core.cached_files import SOURCE_FILE, remove_least_used
from cprune_rl.core.folders import cache_folder
from cprune_rl.errors import DataError

__all__ = ["Pictures", "Track", "open_decoded"]

Track = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]
"""Shows the progress of a long part: its name and its units of work, as `ProgressLog.track`."""

_VERSION = 1  # of how pictures are decoded
_BLOCK_BYTES = 64 * 2**20  # that are decoded before they are written
_MAX_BLOCK = 1000  # pictures
_MAX_THREADS = 8  # each holds a picture at its full size
_SPARE_BYTES = 2**28  # of the disk, left to others
_ARRAY_FILE = "x.npy"
_BLOCKS_FILE = "blocks.txt"


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures that are decoded to one size.

    Attributes:
        folder: that they are in.
        names: paths within it.
        size_px: height and width that they get.
        subset: names which pictures of the folder they are; empty for all.
        decode: `path -> (3, size_px, size_px)` uint8; raises DataError.
    """

    folder: Path
    names: Sequence[str]
    size_px: int
    subset: str
    decode: Callable[[str], NDArray[np.uint8]]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of all of them."""
        return (len(self.names), 3, self.size_px, self.size_px)

    @property
    def key(self) -> str:
        """Names their entry, whatever the pictures are."""
        parts = [str(self.folder.resolve()), str(self.size_px), self.subset]
        return hashlib.sha256("\0".join(parts).encode("utf8", "surrogateescape")).hexdigest()[:24]

    def listing(self) -> str:
        """Hash names, sizes and times: it changes with any of the pictures.

        Raises:
            DataError: a picture is gone.
        """
        digest = hashlib.sha256(f"{_VERSION} {self.size_px}".encode())
        for name in self.names:
            path = self.folder / name
            try:
                found = path.stat()
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror}") from error
            line = f"{name}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}\n"
            digest.update(line.encode("utf8", "surrogateescape"))
        return digest.hexdigest()


def open_decoded(pictures: Pictures, track: Track) -> ArrayFile:
    """Gives the decoded pictures, `(n, 3, size_px, size_px)` uint8; decodes them where need be.

    Args:
        pictures: to decode.
        track: told of the decoding, and of waiting for another process that does it.

    Raises:
        DataError: a picture cannot be read, or the disk of the cache folder has no room.
    """
    listing = pictures.listing()
    folder = cache_folder() / "images"
    entry = folder / pictures.key
    found = _open_entry(entry, listing)
    if found is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f"{pictures.key}.lock", track):
            found = _open_entry(entry, listing)
            if found is None:
                _decode(pictures, listing, entry, track)
                found = _open_entry(entry, listing)
    except OSError as error:
        raise DataError(
            f"decoded pictures cannot be kept in {folder}: {error.strerror or error}. "
            "Make room there, or name another folder with --cache."
        ) from error
    if found is None:
        raise DataError(
            f"pictures of {pictures.folder} changed while they were decoded: start again"
        )
    return found


def _open_entry(entry: Path, listing: str) -> ArrayFile | None:
    """Opens a whole entry of these very pictures, and marks it as used."""
    try:
        source = json.loads((entry / SOURCE_FILE).read_text())
        if source["listing"] != listing:
            return None
        array = ArrayFile(entry / _ARRAY_FILE, str(source["digest"]))
    except (OSError, ValueError, KeyError, TypeError, DataError):  # none, or a damaged one
        return None
    with contextlib.suppress(OSError):  # a cache that is only read
        os.utime(entry / SOURCE_FILE)
    return array


@contextlib.contextmanager
def _locked(path: Path, track: Track) -> Iterator[None]:
    """Keeps other processes from decoding the same pictures; the disk may not know locks."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with track("Waiting for another run that decodes these pictures", None):
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass
        yield


def _decode(pictures: Pictures, listing: str, entry: Path, track: Track) -> None:
    """Decodes all pictures into a folder beside the entry, which then takes its place."""
    part = entry.with_suffix(".part")
    try:
        digest = _decode_blocks(pictures, listing, part, track)
        source = {
            "folder": str(pictures.folder.resolve()),
            "size_px": pictures.size_px,
            "n_images": len(pictures.names),
            "listing": listing,
            "digest": digest,
        }
        (part / SOURCE_FILE).write_text(json.dumps(source))
        (part / _BLOCKS_FILE).unlink()
        shutil.rmtree(entry, ignore_errors=True)
        part.rename(entry)
    except (DataError, OSError):
        shutil.rmtree(part, ignore_errors=True)
        raise


def _decode_blocks(pictures: Pictures, listing: str, part: Path, track: Track) -> str:
    """Decodes block by block and notes each that is done; gives a hash of all pixels."""
    shape = pictures.shape
    row_bytes = int(np.prod(shape[1:]))
    block = max(1, min(_MAX_BLOCK, _BLOCK_BYTES // row_bytes))
    header = npy_header(shape, np.dtype(np.uint8))
    digests = _start_or_resume(part, f"{listing} {block}", header, block * row_bytes)
    _check_room(part, len(header) + shape[0] * row_bytes, pictures)
    n_done = len(digests) * block
    threads = min(os.cpu_count() or 1, _MAX_THREADS)
    with (
        track(f"Decoding the pictures of {pictures.folder}", shape[0]) as advance,
        ThreadPoolExecutor(threads) as pool,
        (part / _ARRAY_FILE).open("r+b") as array,
        (part / _BLOCKS_FILE).open("a") as notes,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        array.seek(len(header) + n_done * row_bytes)
        while n_done < shape[0]:
            names = pictures.names[n_done : n_done + block]
            digest = hashlib.sha256()
            for image in pool.map(pictures.decode, names):
                content = image.tobytes()
                array.write(content)
                digest.update(content)
                n_done += 1
                advance(n_done)
            array.flush()
            digests.append(digest.hexdigest())
            notes.write(f"{digests[-1]}\n")
            notes.flush()
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _start_or_resume(part: Path, title: str, header: bytes, block_bytes: int) -> list[str]:
    """Gives the hashes of the blocks that an earlier decoding of the same pictures wrote."""
    try:
        first, *noted = (part / _BLOCKS_FILE).read_text().splitlines()
        with (part / _ARRAY_FILE).open("rb") as array:
            if first == title and array.read(len(header)) == header:
                whole = _whole_blocks(array, noted, block_bytes)
                _note(part, title, whole)
                return whole
    except (OSError, ValueError):  # there is none, or a damaged one
        pass
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    (part / _ARRAY_FILE).write_bytes(header)
    _note(part, title, [])
    return []


def _note(part: Path, title: str, digests: Sequence[str]) -> None:
    lines = "".join(f"{line}\n" for line in (title, *digests))
    (part / _BLOCKS_FILE).write_text(lines)


def _whole_blocks(array: BinaryIO, noted: Sequence[str], block_bytes: int) -> list[str]:
    """Leaves out blocks that the disk does not have as they were noted."""
    whole = []
    for digest in noted:
        content = array.read(block_bytes)
        if hashlib.sha256(content).hexdigest() != digest or len(content) < block_bytes:
            break
        whole.append(digest)
    return whole


def _check_room(part: Path, n_bytes: int, pictures: Pictures) -> None:
    """Evicts other pictures, and refuses a disk that is too small before hours of decoding."""
    remove_least_used(n_bytes)
    missing = n_bytes - (part / _ARRAY_FILE).stat().st_size
    free = shutil.disk_usage(part).free
    if missing + _SPARE_BYTES > free:
        raise DataError(
            f"{len(pictures.names):,} pictures at {pictures.size_px} px take "
            f"{n_bytes / 1e9:.1f} GB, and {part.parent} has {free / 1e9:.1f} GB left: make room, "
            "name another folder with --cache, or take fewer (?train=50000) or smaller (?size=)."
        )
