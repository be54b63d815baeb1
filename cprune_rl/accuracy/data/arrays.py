"""Images and labels that a caller has in memory: checked, and kept in the cache folder.

They are kept under the hash of their values, and `arrays:HASH` names them from then on. So a run on
them is resumed and validated as any other is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeGuard

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from cprune_rl.accuracy.data.image_arrays import ArrayFile
from cprune_rl.accuracy.data.image_data import NORMALISATIONS, ImageData, Split
from cprune_rl.accuracy.data.splitting import (
    LabelledImages,
    SplitSettings,
    check_channels,
    split_images,
)
from cprune_rl.core.folders import cache_folder
from cprune_rl.errors import ConfigError, DataError, UnknownNameError

__all__ = [
    "GivenImages",
    "ImagePairs",
    "Images",
    "Labels",
    "Scale",
    "keep_images",
    "read_kept_images",
    "read_kept_inputs",
]


class ImagePairs(Protocol):
    """A data set as torch has it: `dataset[i]` gives an image and its label."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: int, /) -> Any:
        """Image and label at a position."""


Images: TypeAlias = NDArray[Any] | torch.Tensor | ImagePairs
"""Images `(n, channels, height, width)`, or a torch Dataset of (image, label)."""
Labels: TypeAlias = ArrayLike | torch.Tensor
"""Labels `(n,)`, whole numbers from 0."""
Scale: TypeAlias = str | tuple[float | Sequence[float], float | Sequence[float]]
"""Name of a normalisation, or mean and deviation: one number, or one for each channel."""

_HASH_LENGTH = 24
_ROWS = 1024  # images that are checked and written at once
_CHANNELS = (1, 3, 4)  # that a picture may have; where they stand says which axis they are
_LARGEST_BYTE = 255
_LARGEST_SCALED = 32.0  # pixels that were scaled by a mean and a deviation stay far below
_EXPECTED = (
    "give a numpy array or a torch tensor (n, channels, height, width), uint8 or float32, "
    "or a torch Dataset of (image, label)"
)
_AS_BYTES = (
    "Give them as uint8, which a network sees in [0, 1] as after torchvision's ToTensor; "
    "normalise='imagenet' or normalise=(mean, std) asks for another scale, (0, 1/255) for 0 to 255"
)


@dataclass(frozen=True, kw_only=True)
class GivenImages:
    """Images as a caller gives them; see `cprune_rl.prune`.

    Attributes:
        images: of all that is split; None where there are none.
        labels: beside `images` that are no Dataset.
        test: test images and labels of their own.
        normalise: of uint8 images.
        augment: whether training shifts and flips them.
        loop: name of the training loop that they go with, whose functions have the labels; empty
            where there is none.
    """

    images: Images | None = None
    labels: Labels | None = None
    test: tuple[Images, Labels] | ImagePairs | None = None
    normalise: Scale | None = None
    augment: bool = False
    loop: str = ""

    @property
    def is_described(self) -> bool:
        """Whether anything is said beside the images."""
        beside = (self.labels, self.test, self.normalise)
        return self.augment or any(value is not None for value in beside)

    def check(self) -> None:
        """Refuse a scale that there is not.

        Raises:
            ConfigError: its name is unknown, or it is no mean and deviation.
        """
        self._query()

    def keep(self, on_images: Callable[[int], None] | None = None) -> str:
        """Keep them, and give the name that `load_data` takes.

        Raises:
            ConfigError: see `check`.
            DataError: see `keep_images`.
        """
        assert self.images is not None, "there are images to keep"
        query = self._query()
        name = keep_images(self.images, self.labels, self.test, on_images)
        return f"{name}?{query}" if query else name

    def _query(self) -> str:
        """Give the options of the data set's name."""
        options = ["augment=on"] if self.augment else []
        if self.loop:
            options.append(f"loop={self.loop}")
        if isinstance(self.normalise, str):
            if self.normalise not in NORMALISATIONS:
                raise UnknownNameError("normalisation", self.normalise, NORMALISATIONS)
            options.append(f"normalise={self.normalise}")
        elif self.normalise is not None:
            mean, std = self._mean_and_std(self.normalise)
            options += [f"mean={mean}", f"std={std}"]
        return "&".join(options)

    def _mean_and_std(self, scale: object) -> list[str]:
        try:
            mean, std = (np.asarray(v, np.float64).reshape(-1) for v in scale)  # type: ignore[attr-defined]  # whatever was given
        except (TypeError, ValueError):
            raise ConfigError(
                f"normalise={scale!r}: give a name ({', '.join(NORMALISATIONS)}) or (mean, std)"
            ) from None
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
            raise ConfigError(f"normalise={scale!r}: numbers must be finite, and std above 0")
        return [",".join(repr(float(value)) for value in values) for values in (mean, std)]


def keep_images(
    images: Images,
    labels: Labels | None = None,
    test: tuple[Images, Labels] | ImagePairs | None = None,
    on_images: Callable[[int], None] | None = None,
) -> str:
    """Check images and labels, and keep them in the cache folder.

    uint8 images are normalised where they are read. Images of floating-point numbers go to the
    network as they are.

    Args:
        images: of all that is split into train, search, gate and test.
        labels: None where `images` is a Dataset, which has its own.
        test: test images and their labels, or a Dataset of both; None to take them from `images`.
        on_images: called with the number of images kept so far.

    Returns:
        Their name, as `load_data` takes it.

    Raises:
        DataError: another type or shape, channels that come last, values that are not finite,
            another number of labels than images. Nothing is kept then.
    """
    sources = {"": _source(images, labels, "images")}
    if test is not None:
        test_images, test_labels = test if isinstance(test, tuple) else (test, None)
        sources["_test"] = _source(test_images, test_labels, "test images")
        _check_alike(sources[""], sources["_test"])
    home = cache_folder() / "images"
    part = home / f".part-{os.getpid()}"
    part.mkdir(parents=True, exist_ok=True)
    try:
        digest = hashlib.sha256()
        for suffix, source in sources.items():
            _write(source, part, suffix, digest=digest, on_images=on_images)
        name = digest.hexdigest()[:_HASH_LENGTH]
        if not (home / name).exists():
            part.rename(home / name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return f"arrays:{name}"


def read_kept_images(name: str, settings: SplitSettings) -> ImageData:
    """Open images that `keep_images` has kept, and split them by a seed.

    Args:
        name: their hash.
        settings: how the images are split and shown.

    Raises:
        DataError: they are not in the cache folder, or a file of them is damaged.
    """
    folder = _kept_folder(name)
    labelled = _read(folder, "")
    _check_scale(labelled[0].dtype, settings)
    has_test = (folder / "x_test.npy").exists()
    return split_images(labelled, settings, _read(folder, "_test") if has_test else None)


def read_kept_inputs(name: str, settings: SplitSettings) -> Split:
    """Open images that `keep_images` has kept, all together; their labels mean nothing.

    Args:
        name: their hash.
        settings: how the images are shown.

    Raises:
        DataError: see `read_kept_images`.
        ConfigError: the normalisation is for other images.
    """
    images, labels = _read(_kept_folder(name), "")
    _check_scale(images.dtype, settings)
    check_channels(images, settings)
    return Split(images=images, labels=labels, normalisation=settings.normalisation)


def _kept_folder(name: str) -> Path:
    folder = cache_folder() / "images" / name
    if not name.isalnum() or not folder.is_dir():
        raise DataError(
            f"the images of arrays:{name} were given in Python and are not in {folder.parent} "
            "(any more): give them again, or name the cache folder that has them by --cache"
        )
    return folder


def _check_scale(dtype: np.dtype[Any], settings: SplitSettings) -> None:
    if dtype != np.uint8 and settings.normalisation != NORMALISATIONS["unit"]:
        raise ConfigError(
            f"the images of {settings.name} are {dtype}, which networks see as they are: "
            "leave normalise out, or give uint8 images"
        )


def _read(folder: Path, suffix: str) -> LabelledImages:
    try:
        images = ArrayFile(folder / f"x{suffix}.npy")
        labels = np.load(folder / f"y{suffix}.npy", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"images in {folder} cannot be read: {error}. Remove the folder, and give them again"
        ) from error
    return images, labels


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Images and labels, in pieces.

    Attributes:
        what: they are, for errors.
        n_images: in all.
        shape: of one image.
        dtype: as they are kept.
        pieces: gives images and labels one after another.
    """

    what: str
    n_images: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pieces: Callable[[], Iterator[tuple[NDArray[Any], NDArray[Any]]]] = field(repr=False)


def _source(images: Images, labels: Labels | None, what: str) -> _Source:
    if isinstance(images, np.ndarray | torch.Tensor):
        if labels is None:
            raise DataError(f"labels are missing beside {what}: give (n,) whole numbers from 0")
        _check_shape(tuple(images.shape), what)
        return _arrays(_as_array(images, what), _checked_labels(labels, len(images), what), what)
    if _is_dataset(images):
        if labels is not None:
            raise DataError(f"{what} are a Dataset, which gives labels too: leave labels out")
        return _dataset(images, what)
    hint = ""
    if hasattr(images, "dataset"):
        hint = ", such as the loader's own `.dataset`"
    raise DataError(f"{what} are {type(images).__name__}: {_EXPECTED}{hint}")


def _is_dataset(images: object) -> TypeGuard[ImagePairs]:
    """Whether it has positions, as torch's Dataset has; a plain list or a loader is none."""
    is_plain = isinstance(images, list | tuple | dict | str | bytes)
    return not is_plain and hasattr(images, "__getitem__") and hasattr(images, "__len__")


def _arrays(images: NDArray[Any], labels: NDArray[np.int64], what: str) -> _Source:
    dtype = _kept_type(images.dtype, what)

    def pieces() -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        for start in range(0, len(images), _ROWS):
            yield images[start : start + _ROWS], labels[start : start + _ROWS]

    return _Source(
        what=what, n_images=len(images), shape=images.shape[1:], dtype=dtype, pieces=pieces
    )


def _dataset(dataset: ImagePairs, what: str) -> _Source:
    if len(dataset) == 0:
        raise DataError(f"{what} are an empty Dataset")
    first, _ = _item(dataset, 0, what)
    _check_shape((len(dataset), *first.shape), what)
    dtype = _kept_type(first.dtype, what)
    again, _ = _item(dataset, 0, what)
    if not np.array_equal(first, again, equal_nan=first.dtype.kind == "f"):
        raise DataError(
            f"{what}: the Dataset gives another image each time it is asked for the first one. "
            "Leave its random transforms out; augment=True shifts and flips images in training"
        )

    def pieces() -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        for start in range(0, len(dataset), _ROWS):
            at = range(start, min(start + _ROWS, len(dataset)))
            items = [_item(dataset, i, what) for i in at]
            for i, (image, _) in zip(at, items, strict=True):
                if image.shape != first.shape or image.dtype != first.dtype:
                    raise DataError(
                        f"{what}: image {i} is {image.dtype} {image.shape}, the first one is "
                        f"{first.dtype} {first.shape}: bring them all to one size and type"
                    )
            labels = [label for _, label in items]
            yield np.stack([image for image, _ in items]), _checked_labels(labels, len(at), what)

    return _Source(what=what, n_images=len(dataset), shape=first.shape, dtype=dtype, pieces=pieces)


def _item(dataset: ImagePairs, at: int, what: str) -> tuple[NDArray[Any], Any]:
    """Give one image, channels first, and its label."""
    item = dataset[at]
    if not isinstance(item, Sequence) or len(item) != 2:
        raise DataError(
            f"{what}: item {at} of the Dataset is {type(item).__name__}; "
            "expected a pair of an image and its label"
        )
    image, label = item
    if isinstance(image, np.ndarray | torch.Tensor):
        return _as_array(image, what), label
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):  # a picture of PIL is one of these
        raise DataError(f"{what}: image {at} is {type(image).__name__}; expected an array")
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), label


def _as_array(images: NDArray[Any] | torch.Tensor, what: str) -> NDArray[Any]:
    if isinstance(images, torch.Tensor):
        values = images.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return images


def _check_shape(shape: tuple[int, ...], what: str) -> None:
    """Refuse what is no batch of images with the channels second."""
    hint = ""
    if len(shape) == 4 and shape[3] in _CHANNELS and shape[1] not in _CHANNELS:
        hint = ". Channels come second: images.transpose(0, 3, 1, 2), or permute of a tensor"
    elif len(shape) == 3:
        hint = ". Grey images have a channel too: images[:, None]"
    if hint or len(shape) != 4 or 0 in shape:
        raise DataError(f"{what} are of shape {tuple(shape)}: {_EXPECTED}{hint}")


def _kept_type(dtype: np.dtype[Any], what: str) -> np.dtype[Any]:
    if dtype == np.uint8:
        return np.dtype(np.uint8)
    if dtype.kind == "f":
        return np.dtype(np.float32)
    hint = f". {_AS_BYTES}: images.astype('uint8')" if dtype.kind in "iu" else ""
    raise DataError(f"{what} are {dtype}: {_EXPECTED}{hint}")


def _checked_labels(labels: Labels, n_images: int, what: str) -> NDArray[np.int64]:
    values = np.asarray(labels.detach().cpu() if isinstance(labels, torch.Tensor) else labels)
    if values.shape[:1] != (n_images,):
        raise DataError(f"labels of {what} are of shape {values.shape} beside {n_images} images")
    if values.ndim != 1 or values.dtype.kind not in "iu":
        hint = ": labels.argmax(1) turns one-hot labels into numbers" if values.ndim == 2 else ""
        raise DataError(
            f"labels of {what} are {values.dtype} {values.shape}; "
            f"expected (n,) whole numbers from 0{hint}"
        )
    if values.size and values.min() < 0:
        raise DataError(f"labels of {what} have {values.min()}; expected whole numbers from 0")
    return values.astype(np.int64)


def _check_alike(images: _Source, test: _Source) -> None:
    if (images.shape, images.dtype) != (test.shape, test.dtype):
        raise DataError(
            f"test images are {test.dtype} {test.shape}, the others {images.dtype} {images.shape}: "
            "bring them to one size and type"
        )


def _write(
    source: _Source,
    folder: Path,
    suffix: str,
    *,
    digest: hashlib._Hash,
    on_images: Callable[[int], None] | None,
) -> None:
    """Write `x.npy` and `y.npy`, checking values on the way, and add them to a digest."""
    shape = (source.n_images, *source.shape)
    digest.update(repr((suffix, shape, source.dtype.str)).encode())
    kept = np.lib.format.open_memmap(
        folder / f"x{suffix}.npy", mode="w+", dtype=source.dtype, shape=shape
    )
    seen = _ValuesSeen(source.what)
    all_labels = []
    done = 0
    for images, labels in source.pieces():
        values = np.ascontiguousarray(images, dtype=source.dtype)
        if source.dtype.kind == "f":
            seen.add(values, done)
        kept[done : done + len(values)] = values
        done += len(values)
        digest.update(values.tobytes())
        digest.update(labels.tobytes())
        all_labels.append(labels)
        if on_images is not None:
            on_images(done)
    seen.check_scale()
    kept.flush()
    np.save(folder / f"y{suffix}.npy", np.concatenate(all_labels))


@dataclass
class _ValuesSeen:
    """What is known of the pixels of images of floating-point numbers."""

    what: str
    least: float = 0.0
    greatest: float = 0.0
    are_whole: bool = True

    def add(self, values: NDArray[np.float32], start: int) -> None:
        """Look at more images.

        Args:
            values: of them.
            start: number of images before them.

        Raises:
            DataError: a value is not finite.
        """
        finite = np.isfinite(values).all(axis=(1, 2, 3))
        if not finite.all():
            first = start + int(np.argmin(finite))
            raise DataError(f"{self.what} have values that are not finite, first in image {first}")
        self.least = min(self.least, float(values.min()))
        self.greatest = max(self.greatest, float(values.max()))
        self.are_whole = self.are_whole and bool((values == np.round(values)).all())

    def check_scale(self) -> None:
        """Refuse pixels of 0 to 255 that were not scaled.

        Raises:
            DataError: they are such pixels.
        """
        is_byte = self.least >= 0 and self.greatest <= _LARGEST_BYTE
        is_unscaled = self.greatest > _LARGEST_SCALED or (self.are_whole and self.greatest > 1)
        if is_byte and is_unscaled:
            raise DataError(
                f"{self.what} are floating-point numbers from {self.least:g} to {self.greatest:g}, "
                f"as pixels are before they are scaled. {_AS_BYTES}"
            )
