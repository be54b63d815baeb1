"""Images split four ways, so that no decision is taken on images that a report quotes.

`train` fits weights; `search` judges plans inside a search; `gate` decides whether a finished
network
holds the floor; `test` is what reports quote. Called by the readers beside this file, the oracles,
the gate and the job.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cprune_rl.errors import ConfigError, DataError

__all__ = ["CPU", "NORMALISATIONS", "ImageData", "Normalisation", "Split", "split_images"]

CPU = torch.device("cpu")
_SMALLEST = 50  # images: fewer cannot be split four ways
_GATE_TARGET = 4000  # 1,000 gate images cannot tell one point of accuracy
_SEARCH_TARGET = 2000


@dataclass(frozen=True)
class Normalisation:
    """What is subtracted from a pixel in [0, 1], and what the rest is divided by;

    for each channel, or one for all.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


NORMALISATIONS = {
    "unit": Normalisation((0.0,), (1.0,)),
    "half": Normalisation((0.5,), (0.5,)),
    "plain": Normalisation((0.5,), (0.25,)),
    "imagenet": Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": Normalisation((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
"""By name: `unit` leaves pixels in [0, 1], as torchvision's ToTensor does;

`half` has them in [-1, 1]; `imagenet` is what torchvision's and timm's trained weights expect.
"""


@dataclass(frozen=True)
class Split:
    """Images and their labels.

    Attributes:
        images: `(n, channels, height, width)` uint8.
        labels: `(n,)` int64.
        normalisation: of what a network sees.
        top: an image is classified rightly where its label is among so many most likely classes.
        device: where batches are put together, and networks trained and judged on them.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    normalisation: Normalisation = NORMALISATIONS["plain"]
    top: int = 1
    device: torch.device = CPU

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def targets(self) -> torch.Tensor:
        """The labels, `(n,)` int64."""
        return torch.from_numpy(self.labels).to(self.device)

    @cached_property
    def _pixels(self) -> torch.Tensor:
        return torch.from_numpy(self.images).to(
            self.device
        )  # all of them: a batch then crosses no bus

    def batch(
        self, which: slice | torch.Tensor, augment: torch.Generator | None = None
    ) -> torch.Tensor:
        """Normalised float32 images, channels last (evaluates about 1.7x faster on CPUs).

        Args:
            which: a slice, or positions `(n_batch,)`.
            augment: draws a shift of an eighth of the image at most and a flip for each image; None
                for none.

        Returns:
            `(n_batch, channels, height, width)`.
        """
        images = self._pixels[which]
        if augment is not None:
            images = _shifted_and_flipped(images, augment)
        mean, std = (
            torch.tensor(v, device=self.device).view(1, -1, 1, 1)
            for v in (self.normalisation.mean, self.normalisation.std)
        )
        return (
            images.float()
            .div_(255)
            .sub_(mean)
            .div_(std)
            .contiguous(memory_format=torch.channels_last)
        )


@dataclass(frozen=True)
class ImageData:
    """Four disjoint splits of one data set.

    Attributes:
        name: as given to `load_data`.
        n_classes: labels are in `[0, n_classes)`.
        train: fits weights.
        search: judges plans inside a search.
        gate: judges finished networks.
        test: quoted by reports, decides nothing.
        is_augmented: whether training shifts and flips the images.
        class_names: one for each class; empty where they have none.
    """

    name: str
    n_classes: int
    train: Split
    search: Split
    gate: Split
    test: Split
    is_augmented: bool = False
    class_names: tuple[str, ...] = field(default=(), repr=False)

    @property
    def splits(self) -> dict[str, Split]:
        """All four by name."""
        return {"train": self.train, "search": self.search, "gate": self.gate, "test": self.test}

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Of one image as a batch, `(1, channels, height, width)`."""
        _, channels, height, width = self.train.images.shape
        return (1, channels, height, width)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every image and label and of what is done to them:

        part of the key under which accuracies are cached.
        """
        digest = hashlib.sha256(
            repr((self.train.normalisation, self.is_augmented, self.train.top)).encode()
        )
        for split in self.splits.values():
            digest.update(split.images.tobytes())
            digest.update(split.labels.tobytes())
        return digest.hexdigest()[:16]

    def with_top(self, top: int) -> ImageData:
        """The same images, classified rightly where the label is among the `top` most likely
        classes.

        Raises:
            ConfigError: there are not more classes than that.
        """
        if not 1 <= top < self.n_classes:
            raise ConfigError(
                f"--top {top}: {self.name} has {self.n_classes} classes; give 1 to {self.n_classes - 1}"
            )
        return self._with_splits(top=top)

    def to(self, device: torch.device) -> ImageData:
        """The same images on a device: whatever is trained or judged on them is there."""
        return self._with_splits(device=device)

    def _with_splits(self, **changes: Any) -> ImageData:
        changed: dict[str, Any] = {n: replace(split, **changes) for n, split in self.splits.items()}
        return replace(self, **changed)

    def describe(self) -> dict[str, object]:
        """What a report says of it: sizes, classes, input."""
        return {
            "name": self.name,
            "n_classes": self.n_classes,
            "input_shape": list(self.input_shape),
            "fingerprint": self.fingerprint,
            "augmented": self.is_augmented,
            **{f"n_{name}": len(split) for name, split in self.splits.items()},
        }


def split_images(
    name: str,
    known: tuple[NDArray[np.uint8], NDArray[np.int64]],
    test: tuple[NDArray[np.uint8], NDArray[np.int64]] | None = None,
    *,
    seed: int = 0,
    fast: bool = False,
    normalisation: Normalisation = NORMALISATIONS["plain"],
    is_augmented: bool = False,
    class_names: tuple[str, ...] = (),
) -> ImageData:
    """Splits images by a seed: the same seed gives the same splits.

    The gate gets 12 % and at least 4,000 images where those are no more than a fifth; the search 8
    %, at least 2,000
    where those are no more than a tenth; the test, where no images of its own are given, 15 %;
    training the rest.

    Args:
        name: of the data set.
        known: images `(n, channels, height, width)` uint8 and labels `(n,)`.
        test: the published test images and labels; None to take them from `known`.
        seed: of the order.
        fast: at most 8,000 images to train on and 2,000 for the search.
        normalisation: of what a network sees.
        is_augmented: whether training shifts and flips.
        class_names: one for each class, where they have names.

    Raises:
        ConfigError: the normalisation is for another number of channels.
        DataError: fewer than 50 images, or a class without a training image.
    """
    images, labels = known
    if any(len(values) not in (1, images.shape[1]) for values in vars(normalisation).values()):
        raise ConfigError(
            f"{name} is normalised with mean {normalisation.mean} and deviation {normalisation.std}; its images have {images.shape[1]} channels: give one value, or as many"
        )
    if len(images) < _SMALLEST:
        raise DataError(
            f"{name} has {len(images)} images; at least {_SMALLEST} are needed to split them into train, search, gate and test"
        )
    order = np.random.default_rng(seed).permutation(len(images))
    sizes = [
        _between(0.12, _GATE_TARGET, 0.2, len(images)),
        _between(0.08, _SEARCH_TARGET, 0.1, len(images)),
        0 if test is not None else round(0.15 * len(images)),
    ]
    gate, search, held_out, train = np.split(order, np.cumsum(sizes))
    if fast:
        train, search = train[:8000], search[:2000]
    n_classes = max(
        len(class_names), int(max(labels.max(), test[1].max() if test is not None else 0)) + 1
    )
    if missing := sorted(set(range(n_classes)) - set(labels[train].tolist())):
        raise DataError(
            f"{name} has no training image of class {', '.join(map(str, missing[:8]))}; labels must be 0 to the number of classes less one, each with images"
        )

    def take(which: NDArray[np.int64]) -> Split:
        return Split(images[which], labels[which].astype(np.int64), normalisation)

    tested = (
        take(held_out)
        if test is None
        else Split(np.require(test[0], requirements="W"), test[1].astype(np.int64), normalisation)
    )  # torch warns of what it cannot write
    return ImageData(
        name, n_classes, take(train), take(search), take(gate), tested, is_augmented, class_names
    )


def _between(share: float, target: int, most: float, n_images: int) -> int:
    return min(max(round(share * n_images), target), round(most * n_images))


def _shifted_and_flipped(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image padded by an eighth and cut out somewhere, and mirrored half of the time (He et
    al., CVPR 2016, section 4.2).
    """
    n, channels, height, width = images.shape
    pad_y, pad_x = height // 8, width // 8
    padded = torch.nn.functional.pad(images, (pad_x, pad_x, pad_y, pad_y))
    top = torch.randint(2 * pad_y + 1, (n, 1, 1), generator=generator)
    left = torch.randint(2 * pad_x + 1, (n, 1, 1), generator=generator)
    rows, columns = (
        top + torch.arange(height).view(1, -1, 1),
        left + torch.arange(width).view(1, 1, -1),
    )
    flipped = torch.rand(n, 1, 1, generator=generator) < 0.5
    columns = torch.where(flipped, columns.flip(2), columns)
    return padded[
        torch.arange(n).view(n, 1, 1, 1),
        torch.arange(channels).view(1, -1, 1, 1),
        rows.unsqueeze(1),
        columns.unsqueeze(1),
    ]
