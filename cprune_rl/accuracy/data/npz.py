"""The user's data set in one .npz file: `x` are uint8 images, `y` their labels."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cprune_rl.accuracy.data.splits import ImageData, LabelledImages, SplitSettings, split_images
from cprune_rl.errors import DataError

__all__ = ["checked_arrays", "read_npz"]

_EXPECTED = "expected x: (n, channels, height, width) uint8, and y: (n,) whole numbers from 0"


def read_npz(path: Path, settings: SplitSettings) -> ImageData:
    """Reads a file that `numpy.savez` or `numpy.savez_compressed` wrote, and splits it by a seed.

    Args:
        path: the file; `x_test` and `y_test`, where it has them, are its test images.
        settings: how the images are split and shown.

    Raises:
        DataError: the file is missing, damaged, or holds something else.
    """
    arrays = _read_arrays(path)
    if missing := {"x", "y"} - set(arrays):
        raise DataError(f"{path} has no {' and no '.join(sorted(missing))}; {_EXPECTED}")
    if ("x_test" in arrays) != ("y_test" in arrays):
        raise DataError(
            f"{path} has only one of x_test and y_test; give both, or neither to have test images "
            "taken from x"
        )
    labelled = checked_arrays(arrays["x"], arrays["y"], str(path))
    if "x_test" not in arrays:
        return split_images(labelled, settings)
    test = checked_arrays(arrays["x_test"], arrays["y_test"], f"{path}, test images")
    shape = labelled[0].shape[1:]
    test_shape = test[0].shape[1:]
    if test_shape != shape:
        raise DataError(f"{path}: test images are {test_shape}, the others {shape}")
    return split_images(labelled, settings, test)


def checked_arrays(images: object, labels: object, where: str) -> LabelledImages:
    """Gives images and labels, where that is what they are.

    Raises:
        DataError: another shape or type, channels that come last, a negative label, or not as many
            labels as images.
    """
    x = np.asarray(images)
    y = np.asarray(labels)
    is_channels_last = x.ndim == 4 and x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3)
    if x.dtype != np.uint8 or x.ndim != 4 or 0 in x.shape or is_channels_last:
        hint = " Channels come second: x.transpose(0, 3, 1, 2)." if is_channels_last else ""
        raise DataError(f"{where}: x is {x.dtype} {x.shape}; {_EXPECTED}.{hint}")
    if y.dtype.kind not in "iu" or y.shape != x.shape[:1]:
        raise DataError(f"{where}: y is {y.dtype} {y.shape} beside {len(x)} images; {_EXPECTED}")
    if y.min() < 0:
        raise DataError(f"{where}: y has the label {y.min()}; {_EXPECTED}")
    return x, y.astype(np.int64)


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {key: file[key] for key in ("x", "y", "x_test", "y_test") if key in file}
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        TypeError,
        AttributeError,  # a .npy gives an array, not a file of them
        zlib.error,
        zipfile.BadZipFile,
    ) as error:
        raise DataError(
            f"{path} cannot be read as .npz: {error}. It needs x and y as "
            f"`numpy.savez({path.name!r}, x=images, y=labels)` writes them."
        ) from error
