"""CIFAR-10 as published: the Python version, whose pickles run no code here, or the binary one.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cprune_rl.accuracy.data.image_data import ImageData
from cprune_rl.accuracy.data.splitting import LabelledImages, SplitSettings, split_images
from cprune_rl.errors import DataError

__all__ = ["CLASS_NAMES", "read_cifar10"]

CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_SHAPE = (3, 32, 32)
_N_PIXELS = 3 * 32 * 32
_RECORD_BYTES = 1 + _N_PIXELS  # of the binary version: a label and an image
_TRAIN_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
_FOLDERS = ("", "cifar-10-batches-py", "cifar-10-batches-bin")


def read_cifar10(folder: Path, settings: SplitSettings) -> ImageData:
    """Reads the ten classes.

    The 50,000 training images are split three ways; the 10,000 published test images stay so.

    Args:
        folder: with the batches in it, or with the published folder of them.
        settings: how the images are split and shown.

    Raises:
        DataError: a batch is missing or damaged.
    """
    batch_folder, read, suffix = _find_batches(folder)
    batches = [read(batch_folder / f"{batch}{suffix}") for batch in _TRAIN_BATCHES]
    images, labels = zip(*batches, strict=True)
    labelled = (np.concatenate(images), np.concatenate(labels))
    test = read(batch_folder / f"test_batch{suffix}")
    return split_images(labelled, settings, test, class_names=CLASS_NAMES)


def _find_batches(folder: Path) -> tuple[Path, Callable[[Path], LabelledImages], str]:
    """Finds the folder of the batches, what reads one, and the suffix of their names."""
    for inner in _FOLDERS:
        for suffix, read in (("", _read_pickle), (".bin", _read_binary)):
            if (folder / inner / f"{_TRAIN_BATCHES[0]}{suffix}").is_file():
                return folder / inner, read, suffix
    raise DataError(
        f"no CIFAR-10 in {folder}: expected data_batch_1 to data_batch_5 and test_batch (the "
        "Python version), the same with .bin (the binary version), or a folder "
        "cifar-10-batches-py or cifar-10-batches-bin with them. Unpack the published archive there."
    )


def _read_binary(path: Path) -> LabelledImages:
    content = _read_bytes(path)
    if not content or len(content) % _RECORD_BYTES:
        raise DataError(
            f"{path} has {len(content)} bytes: a batch is records of 1 label and {_N_PIXELS} "
            f"pixels, {_RECORD_BYTES} bytes each"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD_BYTES)
    return _checked(path, records[:, 1:], records[:, 0].astype(np.int64))


def _read_pickle(path: Path) -> LabelledImages:
    try:
        value = _SafeUnpickler(io.BytesIO(_read_bytes(path)), encoding="bytes").load()
        data = value[b"data"]
        if isinstance(data, _ArrayState):
            pixels = data.array()
        else:
            pixels = np.frombuffer(data, np.uint8).reshape(-1, _N_PIXELS)
        return _checked(path, pixels, np.array(value[b"labels"], np.int64))
    except DataError:
        raise
    except Exception as error:  # a pickle can hold anything, and a damaged one raises anything
        raise DataError(
            f"{path} is no batch of CIFAR-10: {type(error).__name__}: {error}"
        ) from error


def _checked(path: Path, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> LabelledImages:
    if pixels.ndim != 2 or pixels.shape[1] != _N_PIXELS or labels.shape != (len(pixels),):
        raise DataError(
            f"{path}: {pixels.shape} pixels and {labels.shape} labels; "
            f"expected (n, {_N_PIXELS}) and (n,)"
        )
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(CLASS_NAMES):
        raise DataError(
            f"{path}: labels from {labels.min(initial=0)} to {labels.max(initial=0)}, or none; "
            f"expected 0 to {len(CLASS_NAMES) - 1}"
        )
    return np.ascontiguousarray(pixels).reshape(-1, *_SHAPE), labels


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error}. CIFAR-10 is data_batch_1 to data_batch_5 and "
            "test_batch."
        ) from error


class _ArrayState:
    """Stands in for numpy's array while a pickle is read: it keeps the state and runs nothing."""

    def __init__(self, *_: Any) -> None:
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def array(self) -> NDArray[np.uint8]:
        """The bytes of the state, as `(n, 3072)`."""
        _, shape, dtype, is_fortran, content = self._state
        is_bytes = isinstance(dtype, _DtypeState) and dtype.code == "u1"
        if not is_bytes or is_fortran or not isinstance(content, bytes):
            raise ValueError("its data are not rows of bytes")
        return np.frombuffer(content, np.uint8).reshape([int(n) for n in shape])


class _DtypeState:
    """Stands in for numpy's dtype."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code.decode() if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        """Ignores byte order and the like, which bytes do not have."""


class _SafeUnpickler(pickle.Unpickler):
    """Reads a pickle of arrays and plain values.

    Every name in it gets a stand-in, or is refused.
    """

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _ArrayState
        if (module, name) == ("numpy", "ndarray"):
            return _ArrayState
        if (module, name) == ("numpy", "dtype"):
            return _DtypeState
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise pickle.UnpicklingError(
            f"it asks for {module}.{name}, which no batch of CIFAR-10 does"
        )


def _encode(text: str, encoding: str | bytes) -> bytes:
    """Turns text back into the bytes that Python 3 wrote as latin1; no other encoding is run."""
    return text.encode("latin1") if encoding in ("latin1", b"latin1") else b""
