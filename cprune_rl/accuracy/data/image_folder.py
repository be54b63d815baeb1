"""Folders of pictures, one for each class: `train/<class>/*.jpg` and `val/<class>/*.jpg`.

Where a network gives the labels, any folder of pictures will do.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cprune_rl.accuracy.data.decoded_cache import Pictures, Track, open_decoded
from cprune_rl.accuracy.data.image_arrays import SelectedRows
from cprune_rl.accuracy.data.image_data import ImageData
from cprune_rl.accuracy.data.splitting import SplitSettings, check_labels, split_images
from cprune_rl.accuracy.data.stratified import sample_of_each_class
from cprune_rl.errors import DataError, first_line

__all__ = ["decode_middle", "read_image_folder"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm")
_TEST_FOLDERS = ("val", "valid", "test")
_CROP = 0.875  # of the shorter side is kept, as in the usual evaluation of ImageNet
_LARGE_PIXELS = 20_000_000  # of a picture: such ones are decoded one at a time, for their memory
_LARGE = threading.Lock()


@dataclass(frozen=True)
class _Listed:
    """Pictures of a folder.

    Attributes:
        names: paths within the data set's folder.
        labels: `(n,)` position of the class of each.
    """

    names: Sequence[str]
    labels: NDArray[np.int64]


def read_image_folder(
    folder: Path, settings: SplitSettings, size_px: int, track: Track
) -> ImageData:
    """Crops the middle of every picture to one size, and keeps what it decoded.

    `train` is split three ways; `val` becomes the test images. Without labels, a folder that has no
    `train` is split four ways, whatever folders are in it.

    Args:
        folder: with `train` and `val` in it.
        settings: how the images are split and shown.
        size_px: height and width of the images.
        track: told of the decoding.

    Raises:
        DataError: a folder is missing, empty, or has a picture that cannot be read; or the labels
            cannot be split.
    """
    list_pictures = _list_classes if settings.has_labels else _list_unlabelled
    classes, train, test = list_pictures(folder)
    train = _sample(train, settings)
    test_labels = None if test is None else test.labels
    check_labels(train.labels, settings, test_labels, classes)
    names = list(train.names) + ([] if test is None else list(test.names))
    subset = "" if settings.n_images is None else f"train={settings.n_images}"
    subset += f"&seed={settings.seed}" if subset else ""
    subset += "" if settings.has_labels else "&without labels"
    images = open_decoded(
        Pictures(
            folder=folder,
            names=names,
            size_px=size_px,
            subset=subset,
            decode=lambda name: decode_middle(folder / name, size_px),
        ),
        track,
    )
    n_train = len(train.names)
    labelled = (SelectedRows(images, np.arange(n_train)), train.labels)
    if test is None:
        return split_images(labelled, settings, class_names=classes)
    in_test = SelectedRows(images, np.arange(n_train, len(names)))
    return split_images(labelled, settings, (in_test, test.labels), class_names=classes)


def _list_classes(folder: Path) -> tuple[tuple[str, ...], _Listed, _Listed | None]:
    """Finds the names of the classes, and the pictures to train on and to test with."""
    train_folder = folder / "train"
    test_folder = _test_folder(folder)
    if not train_folder.is_dir() or test_folder is None:
        raise DataError(
            f"{folder} needs train/<class>/ and val/<class>/ with pictures in them "
            f"({', '.join(_SUFFIXES)}). Pictures without labels: --labels teacher."
        )
    classes = _class_names(train_folder)
    if unknown := sorted(set(_class_names(test_folder)) - set(classes)):
        raise DataError(f"{test_folder} has the class {unknown[0]!r}, which {train_folder} has not")
    train = _pictures(train_folder, classes, folder)
    test = _pictures(test_folder, classes, folder)
    if len(classes) == 1:
        raise DataError(
            f"{train_folder} has the one class {classes[0]!r}: whatever is pruned is right there. "
            "Give the pictures of two classes or more."
        )
    return tuple(classes), train, test


def _list_unlabelled(folder: Path) -> tuple[tuple[str, ...], _Listed, _Listed | None]:
    """Finds all pictures; `val` stays the test where there is a `train` beside it."""
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder of pictures")
    test_folder = _test_folder(folder)
    if not (folder / "train").is_dir() or test_folder is None:
        return (), _unlabelled(folder, folder), None
    return (), _unlabelled(folder / "train", folder), _unlabelled(test_folder, folder)


def _test_folder(folder: Path) -> Path | None:
    return next((folder / t for t in _TEST_FOLDERS if (folder / t).is_dir()), None)


def _class_names(folder: Path) -> list[str]:
    """Lists folders; hidden ones, as `.ipynb_checkpoints`, are no classes."""
    return sorted(
        inner.name
        for inner in folder.iterdir()
        if inner.is_dir() and not inner.name.startswith(".")
    )


def _is_picture(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES) and not name.startswith(".")


def _pictures(folder: Path, classes: Sequence[str], root: Path) -> _Listed:
    """Lists the pictures with their labels; a class may have no folder of test pictures."""
    names: list[str] = []
    counts = []
    for name in classes:
        inner = folder / name
        with os.scandir(inner) if inner.is_dir() else contextlib.nullcontext(()) as entries:
            pictures = sorted(entry.name for entry in entries if _is_picture(entry.name))
        if inner.is_dir() and not pictures:
            raise DataError(
                f"{inner} has no pictures ({', '.join(_SUFFIXES)}): put some there, or remove it. "
                "Folders in it are not looked into."
            )
        prefix = inner.relative_to(root)
        names += [f"{prefix}/{picture}" for picture in pictures]
        counts.append(len(pictures))
    if not names:
        raise DataError(
            f"no pictures in {folder}: expected {folder}/<class>/*.jpg "
            f"(or {', '.join(_SUFFIXES[1:])})"
        )
    return _Listed(names, np.repeat(np.arange(len(classes)), counts))


def _unlabelled(folder: Path, root: Path) -> _Listed:
    """Lists the pictures in a folder and in all folders in it; hidden ones are skipped."""
    names: list[str] = []
    for inner, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        prefix = os.path.relpath(inner, root)
        names += [f"{prefix}/{name}" for name in sorted(filter(_is_picture, files))]
    if not names:
        raise DataError(f"no pictures in {folder} ({', '.join(_SUFFIXES)})")
    return _Listed(names, np.zeros(len(names), np.int64))


def _sample(pictures: _Listed, settings: SplitSettings) -> _Listed:
    """Takes as many pictures as are asked for, so that no others are decoded."""
    if settings.n_images is None or settings.n_images >= len(pictures.names):
        return pictures
    rng = np.random.default_rng(settings.seed)
    rows = sample_of_each_class(pictures.labels, settings.n_images, rng)
    return _Listed([pictures.names[at] for at in rows.tolist()], pictures.labels[rows])


def decode_middle(path: Path, size_px: int) -> NDArray[np.uint8]:
    """Decodes the middle of a picture.

    Transparency is left out, as by the usual loaders: a pixel has the colour that it is stored
    with. The first picture of an animation is taken.

    Args:
        path: of the picture; 16-bit grey ones are scaled.
        size_px: height and width of what is given.

    Returns:
        `(3, size_px, size_px)`.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with Image.open(path) as opened:
            # a JPEG is decoded at no more than twice the size
            opened.draft("RGB", (2 * size_px, 2 * size_px))
            if opened.width * opened.height < _LARGE_PIXELS:
                return _resized_middle(_in_rgb(opened), size_px)
            with _LARGE:
                return _resized_middle(_in_rgb(opened), size_px)
    except Exception as error:  # a damaged picture makes Pillow raise anything
        raise DataError(
            f"{path} cannot be read as a picture: {first_line(error)}. Remove it, or give another."
        ) from error


def _in_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits of grey
        grey = np.asarray(picture).astype(np.float32)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"its grey values run from {grey.min():g} to {grey.max():g}")
        scaled = np.rint(grey * (255 / 65535)).astype(np.uint8)
        return Image.fromarray(scaled).convert("RGB")
    if picture.mode == "F":
        raise ValueError("its pixels are numbers without a scale")
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert("RGB")


def _resized_middle(picture: Image.Image, size_px: int) -> NDArray[np.uint8]:
    shorter = min(picture.size)
    side = shorter * (_CROP if shorter > size_px else 1.0)
    left = (picture.width - side) / 2
    top = (picture.height - side) / 2
    resized = picture.resize(
        (size_px, size_px), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )
    return np.asarray(resized, np.uint8).transpose(2, 0, 1)
