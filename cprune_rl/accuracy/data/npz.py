"""A data set of your own in one .npz file:

`x` uint8 images, `y` their labels. Called by `names`.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cprune_rl.accuracy.data.splits import ImageData, Normalisation, split_images
from cprune_rl.errors import DataError

__all__ = ["checked_arrays", "read_npz"]

_EXPECTED = "expected x: (n, channels, height, width) uint8, and y: (n,) whole numbers from 0"


def read_npz(
    path: Path,
    name: str,
    normalisation: Normalisation,
    seed: int = 0,
    fast: bool = False,
    is_augmented: bool = False,
) -> ImageData:
    """Reads a file that `numpy.savez` or `numpy.savez_compressed` wrote, and splits it by a seed.

    Args:
        path: the file; `x_test` and `y_test`, where it has them, are its test images.
        name: of the data set.
        normalisation: of what a network sees.
        seed: of the split.
        fast: fewer images to train on.
        is_augmented: whether training shifts and flips.

    Raises:
        DataError: the file is missing, damaged, or holds something else.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {key: file[key] for key in ("x", "y", "x_test", "y_test") if key in file}
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        TypeError,
        AttributeError,
        zlib.error,
        zipfile.BadZipFile,
    ) as error:  # a .npy gives an array, not a file of them
        raise DataError(
            f"{path} cannot be read as .npz: {error}. It needs x and y as `numpy.savez({path.name!r}, x=images, y=labels)` writes them."
        ) from error
    if missing := {"x", "y"} - set(arrays):
        raise DataError(f"{path} has no {' and no '.join(sorted(missing))}; {_EXPECTED}")
    if len({"x_test", "y_test"} & set(arrays)) == 1:
        raise DataError(
            f"{path} has only one of x_test and y_test; give both, or neither to have test images taken from x"
        )
    known = checked_arrays(arrays["x"], arrays["y"], str(path))
    test = (
        checked_arrays(arrays["x_test"], arrays["y_test"], f"{path}, test images")
        if "x_test" in arrays
        else None
    )
    if test is not None and test[0].shape[1:] != known[0].shape[1:]:
        raise DataError(
            f"{path}: test images are {test[0].shape[1:]}, the others {known[0].shape[1:]}"
        )
    return split_images(
        name,
        known,
        test,
        seed=seed,
        fast=fast,
        normalisation=normalisation,
        is_augmented=is_augmented,
    )


def checked_arrays(
    images: object, labels: object, where: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images and labels, where that is what they are.

    Raises:
        DataError: another shape or type, channels that come last, a negative label, or not as many
            labels as images.
    """
    x, y = np.asarray(images), np.asarray(labels)
    is_turned = x.ndim == 4 and x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3)
    if x.dtype != np.uint8 or x.ndim != 4 or 0 in x.shape or is_turned:
        hint = " Channels come second: x.transpose(0, 3, 1, 2)." if is_turned else ""
        raise DataError(f"{where}: x is {x.dtype} {x.shape}; {_EXPECTED}.{hint}")
    if y.dtype.kind not in "iu" or y.shape != x.shape[:1]:
        raise DataError(f"{where}: y is {y.dtype} {y.shape} beside {len(x)} images; {_EXPECTED}")
    if y.min() < 0:
        raise DataError(f"{where}: y has the label {y.min()}; {_EXPECTED}")
    return x, y.astype(np.int64)
