"""Fashion-MNIST as published: four files of bytes with a short header, compressed or not.

Xiao, Rasul and Vollgraf, "Fashion-MNIST", 2017. Debian has it as dataset-fashion-mnist.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cprune_rl.accuracy.data.image_data import ImageData
from cprune_rl.accuracy.data.splitting import LabelledImages, SplitSettings, split_images
from cprune_rl.errors import DataError, first_line

__all__ = ["CLASS_NAMES", "DEFAULT_FOLDER", "read_fashion_mnist"]

DEFAULT_FOLDER = "/usr/share/datasets/fashion-mnist"
"""Where Debian's package puts it."""
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_MOST_BYTES = 2**28  # of a file that a stranger made; the published ones have 47 MB
_UNSIGNED_BYTE = 0x08  # the format's code of a type
_HOW_TO_GET = (
    "Install Debian's package (apt-get install dataset-fashion-mnist), or name the folder with "
    "the published files: fashion-mnist:DIR."
)


def read_fashion_mnist(folder: Path, settings: SplitSettings) -> ImageData:
    """Reads the ten classes, `(1, 28, 28)` grey.

    The 60,000 training images are split three ways; the 10,000 published test images stay so.

    Args:
        folder: with `train-images-idx3-ubyte.gz` and the three others.
        settings: how the images are split and shown.

    Raises:
        DataError: a file is missing or damaged.
    """
    labelled = _read_part(folder, "train")
    test = _read_part(folder, "t10k")
    return split_images(labelled, settings, test, class_names=CLASS_NAMES)


def _read_part(folder: Path, part: str) -> LabelledImages:
    images = _read_idx(_find(folder, f"{part}-images-idx3-ubyte"), n_axes=3)
    path = _find(folder, f"{part}-labels-idx1-ubyte")
    labels = _read_idx(path, n_axes=1)
    if len(images) != len(labels) or not len(labels):
        raise DataError(f"{path} has {len(labels)} labels beside {len(images)} images")
    if labels.max() >= len(CLASS_NAMES):
        raise DataError(
            f"{path} has the label {labels.max()}; expected 0 to {len(CLASS_NAMES) - 1}"
        )
    return images[:, None], labels.astype(np.int64)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise DataError(f"no Fashion-MNIST in {folder}: {name}.gz is not there. {_HOW_TO_GET}")


def _read_idx(path: Path, n_axes: int) -> NDArray[np.uint8]:
    """Reads an array of bytes: a code for the type, the number of axes, their lengths, the bytes.

    Raises:
        DataError: the file is cut, or holds something else.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_MOST_BYTES)
        zeros, kind, axes = struct.unpack_from(">HBB", content)
        if (zeros, kind, axes) != (0, _UNSIGNED_BYTE, n_axes):
            raise ValueError(f"it begins with {content[:4].hex()}")
        shape = struct.unpack_from(f">{axes}I", content, 4)
        pixels = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
        return pixels.reshape(shape).copy()
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise DataError(
            f"{path} is no file of Fashion-MNIST: {first_line(error)}. {_HOW_TO_GET}"
        ) from error
