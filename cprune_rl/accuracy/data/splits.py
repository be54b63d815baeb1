"""Images split four ways, so that no decision is taken on images that a report quotes.

`train` fits weights. `search` judges plans inside a search. `gate` decides whether a finished
network holds the floor. `test` is what reports quote.
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

__all__ = [
    "CPU",
    "NORMALISATIONS",
    "ImageData",
    "LabelledImages",
    "Normalisation",
    "Split",
    "SplitSettings",
    "split_images",
]

LabelledImages = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images `(n, channels, height, width)` and their labels `(n,)`."""

CPU = torch.device("cpu")
_SMALLEST = 50  # images: fewer cannot be split four ways
_GATE_TARGET = 4000  # 1,000 gate images cannot tell one point of accuracy
_SEARCH_TARGET = 2000


@dataclass(frozen=True)
class Normalisation:
    """Subtracts a mean from pixels in [0, 1], and divides the rest by a deviation.

    Attributes:
        mean: one value for each channel, or one for all.
        std: likewise.
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
"""By name. `unit` leaves pixels in [0, 1], as torchvision's ToTensor does; `half` has them in
[-1, 1]. `imagenet` is what torchvision's and timm's trained weights expect.
"""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Holds images and their labels, and makes batches of them.

    Attributes:
        images: `(n, channels, height, width)` uint8.
        labels: `(n,)` int64.
        normalisation: of the pixels that a network sees.
        top: a prediction is correct where the label is among so many most likely classes.
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
        """The labels on the device, `(n,)` int64."""
        return torch.from_numpy(self.labels).to(self.device)

    @cached_property
    def _pixels(self) -> torch.Tensor:
        """All images on the device, so that no batch has to cross the bus."""
        return torch.from_numpy(self.images).to(self.device)

    def batch(
        self, which: slice | torch.Tensor, augment: torch.Generator | None = None
    ) -> torch.Tensor:
        """Gives normalised float32 images, channels last (about 1.7x as fast on CPUs).

        Args:
            which: a slice, or positions `(n_batch,)`.
            augment: draws a flip for each image and a shift of at most an eighth of its size;
                None for none.

        Returns:
            `(n_batch, channels, height, width)`.
        """
        images = self._pixels[which]
        if augment is not None:
            images = _shifted_and_flipped(images, augment)
        normalised = images.float().div_(255)
        normalised.sub_(self._by_channel(self.normalisation.mean))
        normalised.div_(self._by_channel(self.normalisation.std))
        return normalised.contiguous(memory_format=torch.channels_last)

    def _by_channel(self, values: tuple[float, ...]) -> torch.Tensor:
        return torch.tensor(values, device=self.device).view(1, -1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """Holds four disjoint splits of one data set.

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
        """Hash of every image and label and of how they are shown and judged.

        It is part of the key under which accuracies are cached.
        """
        shown = (self.train.normalisation, self.is_augmented, self.train.top)
        digest = hashlib.sha256(repr(shown).encode())
        for split in self.splits.values():
            digest.update(split.images.tobytes())
            digest.update(split.labels.tobytes())
        return digest.hexdigest()[:16]

    def with_top(self, top: int) -> ImageData:
        """Gives the same images, judged by the `top` most likely classes.

        Raises:
            ConfigError: there are not more classes than that.
        """
        if not 1 <= top < self.n_classes:
            raise ConfigError(
                f"--top {top}: {self.name} has {self.n_classes} classes; "
                f"give 1 to {self.n_classes - 1}"
            )
        return self._with_splits(top=top)

    def to(self, device: torch.device) -> ImageData:
        """Gives the same images on a device, where networks are then trained and judged."""
        return self._with_splits(device=device)

    def _with_splits(self, **changes: Any) -> ImageData:
        splits: dict[str, Any] = {
            name: replace(split, **changes) for name, split in self.splits.items()
        }
        return replace(self, **splits)

    def describe(self) -> dict[str, object]:
        """What a report says of it: sizes, classes, input."""
        sizes = {f"n_{name}": len(split) for name, split in self.splits.items()}
        return {
            "name": self.name,
            "n_classes": self.n_classes,
            "input_shape": list(self.input_shape),
            "fingerprint": self.fingerprint,
            "augmented": self.is_augmented,
            **sizes,
        }


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """Says how images are split and shown to a network.

    Attributes:
        name: of the data set.
        normalisation: of the pixels that a network sees.
        is_augmented: whether training shifts and flips the images.
        seed: of the order in which they are split.
        fast: at most 8,000 images to train on and 2,000 for the search.
    """

    name: str
    normalisation: Normalisation = NORMALISATIONS["plain"]
    is_augmented: bool = False
    seed: int = 0
    fast: bool = False


def split_images(
    labelled: LabelledImages,
    settings: SplitSettings,
    test: LabelledImages | None = None,
    class_names: tuple[str, ...] = (),
) -> ImageData:
    """Splits images by a seed: the same seed gives the same splits.

    The gate gets 12 %, and at least 4,000 images where those are no more than a fifth. The search
    gets 8 %, and at least 2,000 where those are no more than a tenth. Without test images of its
    own, the test gets 15 %. The rest is for training.

    Args:
        labelled: images and labels to split.
        settings: how.
        test: the published test images and labels; None to take them from `labelled`.
        class_names: one for each class, where they have names.

    Raises:
        ConfigError: the normalisation is for another number of channels.
        DataError: fewer than 50 images, or a class without a training image.
    """
    images, labels = labelled
    _check_images(images, settings)
    sizes = [
        _n_images(len(images), share=0.12, target=_GATE_TARGET, at_most=0.2),
        _n_images(len(images), share=0.08, target=_SEARCH_TARGET, at_most=0.1),
        0 if test is not None else round(0.15 * len(images)),
    ]
    order = np.random.default_rng(settings.seed).permutation(len(images))
    in_gate, in_search, in_test, in_train = np.split(order, np.cumsum(sizes))
    if settings.fast:
        in_train = in_train[:8000]
        in_search = in_search[:2000]
    all_labels = labels if test is None else np.concatenate([labels, test[1]])
    n_classes = max(len(class_names), int(all_labels.max()) + 1)
    if missing := sorted(set(range(n_classes)) - set(labels[in_train].tolist())):
        raise DataError(
            f"{settings.name} has no training image of class {', '.join(map(str, missing[:8]))}; "
            "labels must be 0 to the number of classes less one, each with images"
        )

    def split(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Split:
        return Split(
            # torch warns of arrays that it cannot write
            images=np.require(images, requirements="W"),
            labels=labels.astype(np.int64),
            normalisation=settings.normalisation,
        )

    return ImageData(
        name=settings.name,
        n_classes=n_classes,
        train=split(images[in_train], labels[in_train]),
        search=split(images[in_search], labels[in_search]),
        gate=split(images[in_gate], labels[in_gate]),
        test=split(*(test or (images[in_test], labels[in_test]))),
        is_augmented=settings.is_augmented,
        class_names=class_names,
    )


def _check_images(images: NDArray[np.uint8], settings: SplitSettings) -> None:
    mean = settings.normalisation.mean
    std = settings.normalisation.std
    if not {len(mean), len(std)} <= {1, images.shape[1]}:
        raise ConfigError(
            f"{settings.name} is normalised with mean {mean} and deviation {std}; its images have "
            f"{images.shape[1]} channels: give one value, or as many"
        )
    if len(images) < _SMALLEST:
        raise DataError(
            f"{settings.name} has {len(images)} images; at least {_SMALLEST} are needed "
            "to split them into train, search, gate and test"
        )


def _n_images(total: int, *, share: float, target: int, at_most: float) -> int:
    """Gives a share of all images, raised to a target where that is at most another share."""
    return min(max(round(share * total), target), round(at_most * total))


def _shifted_and_flipped(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Pads each image by an eighth, crops it somewhere, and mirrors half of them.

    He et al., CVPR 2016, section 4.2.
    """
    n, channels, height, width = images.shape
    pad_y = height // 8
    pad_x = width // 8
    padded = torch.nn.functional.pad(images, (pad_x, pad_x, pad_y, pad_y))
    top = torch.randint(2 * pad_y + 1, (n, 1, 1), generator=generator)
    left = torch.randint(2 * pad_x + 1, (n, 1, 1), generator=generator)
    rows = top + torch.arange(height).view(1, -1, 1)
    columns = left + torch.arange(width).view(1, 1, -1)
    flipped = torch.rand(n, 1, 1, generator=generator) < 0.5
    columns = torch.where(flipped, columns.flip(2), columns)
    return padded[
        torch.arange(n).view(n, 1, 1, 1),
        torch.arange(channels).view(1, -1, 1, 1),
        rows.unsqueeze(1),
        columns.unsqueeze(1),
    ]
