"""Folders of pictures, a folder for each class:

`train/<class>/*.jpg` and `val/<class>/*.jpg`. Called by `names`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cprune_rl.accuracy.data.splits import ImageData, Normalisation, split_images
from cprune_rl.errors import DataError

__all__ = ["read_folder"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm")
_TEST = ("val", "valid", "test")
_CROP = 0.875  # of the shorter side is kept, as in the usual evaluation of ImageNet


def read_folder(
    folder: Path,
    name: str,
    size_px: int,
    normalisation: Normalisation,
    seed: int = 0,
    fast: bool = False,
    is_augmented: bool = True,
    advance: Callable[[int], None] | None = None,
) -> ImageData:
    """Decodes every picture, its middle at one size;

    `train` is split three ways, `val` becomes the test images.

    Args:
        folder: with `train` and `val` in it.
        name: of the data set.
        size_px: height and width of the images.
        normalisation: of what a network sees.
        seed: of the split.
        fast: fewer images to train on.
        is_augmented: whether training shifts and flips.
        advance: called with the number of pictures decoded so far.

    Raises:
        DataError: a folder is missing, empty, or has a picture that cannot be read.
    """
    test = next((folder / t for t in _TEST if (folder / t).is_dir()), None)
    if not (folder / "train").is_dir() or test is None:
        raise DataError(
            f"{folder} needs train/<class>/ and val/<class>/ with pictures in them ({', '.join(_SUFFIXES)})"
        )
    classes = sorted(p.name for p in (folder / "train").iterdir() if p.is_dir())
    if unknown := sorted({p.name for p in test.iterdir() if p.is_dir()} - set(classes)):
        raise DataError(f"{test} has the class {unknown[0]!r}, which {folder / 'train'} has not")
    listed = {part: _pictures(part, classes) for part in (folder / "train", test)}
    done = 0

    def report(n: int) -> None:
        nonlocal done
        done += n
        if advance is not None:
            advance(done)

    known, tested = (_decoded(pictures, size_px, report) for pictures in listed.values())
    return split_images(
        name,
        known,
        tested,
        seed=seed,
        fast=fast,
        normalisation=normalisation,
        is_augmented=is_augmented,
        class_names=tuple(classes),
    )


def _pictures(part: Path, classes: list[str]) -> list[tuple[Path, int]]:
    found = [
        (path, label)
        for label, c in enumerate(classes)
        if (part / c).is_dir()
        for path in sorted((part / c).iterdir())
        if path.suffix.lower() in _SUFFIXES
    ]
    if not found:
        raise DataError(
            f"no pictures in {part}: expected {part}/<class>/*.jpg (or {', '.join(_SUFFIXES[1:])})"
        )
    return found


def _decoded(
    pictures: list[tuple[Path, int]], size_px: int, report: Callable[[int], None]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images = np.empty((len(pictures), 3, size_px, size_px), np.uint8)
    with ThreadPoolExecutor(
        os.cpu_count() or 1
    ) as pool:  # Pillow releases Python's lock while it decodes
        for at, image in enumerate(pool.map(lambda item: _middle(item[0], size_px), pictures)):
            images[at] = image
            report(1)
    return images, np.array([label for _, label in pictures], np.int64)


def _middle(path: Path, size_px: int) -> NDArray[np.uint8]:
    """The middle of a picture, `(3, size_px, size_px)`."""
    try:
        with Image.open(path) as opened:
            opened.draft(
                "RGB", (2 * size_px, 2 * size_px)
            )  # a JPEG is decoded at no more than it takes
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} cannot be read as a picture: {error}. Remove it, or give another."
        ) from error
    side = min(picture.size) * (_CROP if min(picture.size) > size_px else 1.0)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    resized = picture.resize(
        (size_px, size_px), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )
    return np.asarray(resized, np.uint8).transpose(2, 0, 1)
