"""The user's data set in one .npz file: `x` are uint8 images, `y` their labels."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cprune_rl.accuracy.data.image_data import ImageData
from cprune_rl.accuracy.data.npz_sizes import check_sizes
from cprune_rl.accuracy.data.splitting import LabelledImages, SplitSettings, split_images
from cprune_rl.core.untrusted import damage
from cprune_rl.errors import DataError

__all__ = ["checked_arrays", "read_npz"]

_KEYS = ("x", "y", "x_test", "y_test")
_EXPECTED = "expected x: (n, channels, height, width) uint8, and y: (n,) whole numbers from 0"
_TARGETS = (
    "Targets of another kind, such as several labels of one image, need --task file.py:Task, which "
    "says what is right"
)


def read_npz(path: Path, settings: SplitSettings, has_task: bool = False) -> ImageData:
    """Reads a file that `numpy.savez` or `numpy.savez_compressed` wrote, and splits it by a seed.

    Args:
        path: the file; `x_test` and `y_test`, where it has them, are its test images.
        settings: how the images are split and shown; without labels it needs no `y`.
        has_task: whether `y` may be targets of a task.

    Raises:
        DataError: the file is missing, damaged, or holds something else.
    """
    arrays = _read_arrays(path)
    labels = ("y", "y_test") if settings.has_labels else ()
    if missing := {"x", *labels[:1]} - set(arrays):
        raise DataError(f"{path} has no {' and no '.join(sorted(missing))}; {_EXPECTED}")
    if settings.has_labels and ("x_test" in arrays) != ("y_test" in arrays):
        raise DataError(
            f"{path} has only one of x_test and y_test; give both, or neither to have test images "
            "taken from x"
        )

    def checked(images: str, labels: str, where: str) -> LabelledImages:
        y = arrays[labels] if settings.has_labels else None
        return checked_arrays(arrays[images], y, where, has_task=has_task)

    labelled = checked("x", "y", str(path))
    if "x_test" not in arrays:
        return split_images(labelled, settings)
    test = checked("x_test", "y_test", f"{path}, test images")
    shape = labelled[0].shape[1:]
    test_shape = test[0].shape[1:]
    if test_shape != shape:
        raise DataError(f"{path}: test images are {test_shape}, the others {shape}")
    if test[1].shape[1:] != labelled[1].shape[1:]:
        raise DataError(f"{path}: y_test is {test[1].shape}, y is {labelled[1].shape}")
    return split_images(labelled, settings, test)


def checked_arrays(
    images: object, labels: object, where: str, has_task: bool = False
) -> LabelledImages:
    """Gives images and labels, where that is what they are.

    Args:
        images: to be uint8 `(n, channels, height, width)`.
        labels: to be whole numbers `(n,)`; None where a network will give them.
        where: for errors.
        has_task: whether they may be targets, `(n,)` or `(n, k)`, which are given as float32.

    Raises:
        DataError: another shape or type, channels that come last, pixels scaled to [0, 1], a
            negative label, or not as many labels as images.
    """
    x = np.asarray(images)
    _check_images(x, where)
    if labels is None:
        return x, np.zeros(len(x), np.int64)
    y = np.asarray(labels)
    if has_task and y.dtype.kind in "iufb" and y.shape[:1] == x.shape[:1] and _are_targets(y):
        if not np.isfinite(y).all():
            raise DataError(f"{where}: y has values that are not finite")
        return x, y.astype(np.float32)
    if y.dtype.kind not in "iu" or y.shape != x.shape[:1]:
        hint = f". {_TARGETS}" if y.shape[:1] == x.shape[:1] else ""
        raise DataError(
            f"{where}: y is {y.dtype} {y.shape} beside {len(x)} images; {_EXPECTED}{hint}"
        )
    if y.min() < 0:
        raise DataError(f"{where}: y has the label {y.min()}; {_EXPECTED}")
    return x, y.astype(np.int64)


def _are_targets(y: NDArray[Any]) -> bool:
    """Whether they are no class numbers."""
    return y.ndim > 1 or y.dtype.kind not in "iu"


def _check_images(x: NDArray[Any], where: str) -> None:
    is_channels_last = x.ndim == 4 and x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3)
    if x.dtype != np.uint8 or x.ndim != 4 or 0 in x.shape or is_channels_last:
        raise DataError(
            f"{where}: x is {x.dtype} {x.shape}; {_EXPECTED}.{_hint(x, is_channels_last)}"
        )
    if x.max() == 1:
        raise DataError(
            f"{where}: x has no pixel above 1, as if it was scaled to [0, 1] before it became "
            "uint8. Save pixels from 0 to 255: (255 * x).round().astype(numpy.uint8)."
        )


def _hint(x: NDArray[Any], is_channels_last: bool) -> str:
    """What to do about images of another shape or type."""
    hints = []
    if is_channels_last:
        hints.append("Channels come second: x.transpose(0, 3, 1, 2).")
    elif x.ndim == 3:
        hints.append("Grey images have one channel: x[:, None].")
    if x.dtype.kind == "f" and x.size:
        low = float(np.nanmin(x))
        high = float(np.nanmax(x))
        known = f"Its values run from {low:g} to {high:g}"
        if low >= 0 and high <= 1:
            hints.append(f"{known}: (255 * x).round().astype(numpy.uint8).")
        elif low >= 0 and high <= 255:
            hints.append(f"{known}: x.round().astype(numpy.uint8).")
        else:
            hints.append(
                f"{known}: it was normalised. Save the pixels from 0 to 255, and let the name say "
                "how they are shown: ?mean=...&std=..."
            )
    elif x.dtype == np.uint16:
        hints.append("Scale 16 bits to 8: (x / 257).round().astype(numpy.uint8).")
    return "".join(f" {hint}" for hint in hints)


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        check_sizes(path, _KEYS)
        with (
            warnings.catch_warnings(),
            path.open("rb") as raw,
            np.load(raw, allow_pickle=False) as file,
        ):
            warnings.simplefilter("ignore")  # numpy warns of headers that Python 2 wrote
            return {key: file[key] for key in _KEYS if key in file}
    # numpy, zipfile and zlib each have errors of their own for damaged content
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as .npz: {damage(error)}. It needs x and y as "
            f"`numpy.savez({path.name!r}, x=images, y=labels)` writes them."
        ) from error
