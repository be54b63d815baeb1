"""CIFAR-10 as published:

the Python version (pickles, of which no code is run) or the binary version.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. Called by `names`.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cprune_rl.accuracy.data.splits import NORMALISATIONS, ImageData, Normalisation, split_images
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
_N_BYTES = 3 * 32 * 32
_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
_FOLDERS = ("", "cifar-10-batches-py", "cifar-10-batches-bin")

Images = tuple[NDArray[np.uint8], NDArray[np.int64]]


def read_cifar10(
    folder: Path,
    name: str,
    normalisation: Normalisation = NORMALISATIONS["cifar10"],
    seed: int = 0,
    fast: bool = False,
) -> ImageData:
    """Reads the ten classes;

    50,000 images are split three ways, the 10,000 published test images stay what they are.

    Args:
        folder: with the batches in it, or with the published folder of them.
        name: of the data set.
        normalisation: of what a network sees.
        seed: of the split.
        fast: fewer images to train on.

    Raises:
        DataError: a batch is missing or damaged.
    """
    at, read, suffix = _find(folder)
    parts = [read(at / f"{batch}{suffix}") for batch in _TRAIN]
    known = (
        np.concatenate([images for images, _ in parts]),
        np.concatenate([labels for _, labels in parts]),
    )
    test = read(at / f"test_batch{suffix}")
    return split_images(
        name,
        known,
        test,
        seed=seed,
        fast=fast,
        normalisation=normalisation,
        is_augmented=True,
        class_names=CLASS_NAMES,
    )


def _find(folder: Path) -> tuple[Path, Callable[[Path], Images], str]:
    for inner in _FOLDERS:
        at = folder / inner if inner else folder
        for suffix, read in (("", _read_pickle), (".bin", _read_binary)):
            if (at / f"{_TRAIN[0]}{suffix}").is_file():
                return at, read, suffix
    raise DataError(
        f"no CIFAR-10 in {folder}: expected data_batch_1 to data_batch_5 and test_batch (the Python version), the same with .bin (the binary version), or a folder "
        "cifar-10-batches-py or cifar-10-batches-bin with them. Unpack the published archive there."
    )


def _read_binary(path: Path) -> Images:
    raw = _bytes_of(path)
    if not raw or len(raw) % (1 + _N_BYTES):
        raise DataError(
            f"{path} has {len(raw)} bytes: a batch is records of 1 label and {_N_BYTES} pixels, {1 + _N_BYTES} bytes each"
        )
    records = np.frombuffer(raw, np.uint8).reshape(-1, 1 + _N_BYTES)
    return _checked(path, records[:, 1:], records[:, 0].astype(np.int64))


def _read_pickle(path: Path) -> Images:
    try:
        value = _Harmless(io.BytesIO(_bytes_of(path)), encoding="bytes").load()
        data, labels = value[b"data"], value[b"labels"]
        pixels = (
            data.array()
            if isinstance(data, _Array)
            else np.frombuffer(data, np.uint8).reshape(-1, _N_BYTES)
        )
        return _checked(path, pixels, np.array(labels, np.int64))
    except DataError:
        raise
    except Exception as error:  # a pickle can hold anything, and a damaged one raises anything
        raise DataError(
            f"{path} is no batch of CIFAR-10: {type(error).__name__}: {error}"
        ) from error


def _checked(path: Path, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> Images:
    if pixels.ndim != 2 or pixels.shape[1] != _N_BYTES or labels.shape != (len(pixels),):
        raise DataError(
            f"{path}: {pixels.shape} pixels and {labels.shape} labels; expected (n, {_N_BYTES}) and (n,)"
        )
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(CLASS_NAMES):
        raise DataError(
            f"{path}: labels from {labels.min(initial=0)} to {labels.max(initial=0)}, or none; expected 0 to {len(CLASS_NAMES) - 1}"
        )
    return np.ascontiguousarray(pixels).reshape(-1, *_SHAPE), labels


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error}. CIFAR-10 is data_batch_1 to data_batch_5 and test_batch."
        ) from error


class _Array:
    """Stands in for numpy's array while a pickle is read:

    it keeps what it is told and runs nothing.
    """

    def __init__(self, *_: Any) -> None:
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def array(self) -> NDArray[np.uint8]:
        """The bytes it was told, as `(n, 3072)`."""
        _, shape, dtype, is_fortran, raw = self._state
        if (
            not isinstance(dtype, _Dtype)
            or dtype.code != "u1"
            or is_fortran
            or not isinstance(raw, bytes)
        ):
            raise ValueError("its data are not rows of bytes")
        return np.frombuffer(raw, np.uint8).reshape([int(n) for n in shape])


class _Dtype:
    """Stands in for numpy's dtype."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code.decode() if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like: nothing that bytes have."""


class _Harmless(pickle.Unpickler):
    """Reads a pickle of arrays and plain values;

    every name that it asks for is answered by a stand-in, or not at all.
    """

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _Array
        if module == "numpy" and name in ("ndarray", "dtype"):
            return _Dtype if name == "dtype" else _Array
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: (
                text.encode("latin1") if encoding in ("latin1", b"latin1") else b""
            )
        raise pickle.UnpicklingError(
            f"it asks for {module}.{name}, which no batch of CIFAR-10 does"
        )
