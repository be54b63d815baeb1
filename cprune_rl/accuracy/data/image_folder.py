"""Folders of pictures, one for each class: `train/<class>/*.jpg` and `val/<class>/*.jpg`."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cprune_rl.accuracy.data.splits import ImageData, LabelledImages, SplitSettings, split_images
from cprune_rl.errors import DataError

__all__ = ["read_image_folder"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm")
_TEST_FOLDERS = ("val", "valid", "test")
_CROP = 0.875  # of the shorter side is kept, as in the usual evaluation of ImageNet


def read_image_folder(
    folder: Path,
    settings: SplitSettings,
    size_px: int,
    advance: Callable[[int], None] | None = None,
) -> ImageData:
    """Decodes every picture and crops its middle to one size.

    `train` is split three ways; `val` becomes the test images.

    Args:
        folder: with `train` and `val` in it.
        settings: how the images are split and shown.
        size_px: height and width of the images.
        advance: called with the number of pictures decoded so far.

    Raises:
        DataError: a folder is missing, empty, or has a picture that cannot be read.
    """
    train_folder = folder / "train"
    test_folder = next((folder / t for t in _TEST_FOLDERS if (folder / t).is_dir()), None)
    if not train_folder.is_dir() or test_folder is None:
        raise DataError(
            f"{folder} needs train/<class>/ and val/<class>/ with pictures in them "
            f"({', '.join(_SUFFIXES)})"
        )
    classes = _class_names(train_folder)
    if unknown := sorted(set(_class_names(test_folder)) - set(classes)):
        raise DataError(f"{test_folder} has the class {unknown[0]!r}, which {train_folder} has not")
    train_pictures = _pictures(train_folder, classes)
    test_pictures = _pictures(test_folder, classes)
    n_decoded = 0

    def on_picture() -> None:
        nonlocal n_decoded
        n_decoded += 1
        if advance is not None:
            advance(n_decoded)

    labelled = _decoded(train_pictures, size_px, on_picture)
    test = _decoded(test_pictures, size_px, on_picture)
    return split_images(labelled, settings, test, class_names=tuple(classes))


def _class_names(folder: Path) -> list[str]:
    return sorted(inner.name for inner in folder.iterdir() if inner.is_dir())


def _pictures(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """Lists the pictures with their labels."""
    pictures = []
    for label, name in enumerate(classes):
        # a class may have no test pictures
        paths = sorted((folder / name).iterdir()) if (folder / name).is_dir() else []
        pictures += [(path, label) for path in paths if path.suffix.lower() in _SUFFIXES]
    if not pictures:
        raise DataError(
            f"no pictures in {folder}: expected {folder}/<class>/*.jpg "
            f"(or {', '.join(_SUFFIXES[1:])})"
        )
    return pictures


def _decoded(
    pictures: list[tuple[Path, int]], size_px: int, on_picture: Callable[[], None]
) -> LabelledImages:
    paths, labels = zip(*pictures, strict=True)
    images = np.empty((len(paths), 3, size_px, size_px), np.uint8)
    # Pillow releases Python's lock while it decodes
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for at, image in enumerate(pool.map(lambda path: _middle(path, size_px), paths)):
            images[at] = image
            on_picture()
    return images, np.array(labels, np.int64)


def _middle(path: Path, size_px: int) -> NDArray[np.uint8]:
    """Decodes the middle of a picture, `(3, size_px, size_px)`."""
    try:
        with Image.open(path) as opened:
            # a JPEG is decoded at no more than twice the size
            opened.draft("RGB", (2 * size_px, 2 * size_px))
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} cannot be read as a picture: {error}. Remove it, or give another."
        ) from error
    shorter = min(picture.size)
    side = shorter * (_CROP if shorter > size_px else 1.0)
    left = (picture.width - side) / 2
    top = (picture.height - side) / 2
    resized = picture.resize(
        (size_px, size_px), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )
    return np.asarray(resized, np.uint8).transpose(2, 0, 1)
