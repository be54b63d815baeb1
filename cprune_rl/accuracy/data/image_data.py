"""Images split four ways, so that no decision is taken on images that a report quotes.

`train` fits weights. `search` judges plans inside a search. `gate` decides whether a finished
network holds the floor. `test` is what reports quote.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cprune_rl.accuracy.data.image_arrays import ImageArray, hash_images
from cprune_rl.accuracy.task import CLASSIFICATION, Classification, Task
from cprune_rl.errors import ConfigError

__all__ = [
    "CPU",
    "NORMALISATIONS",
    "ImageData",
    "Normalisation",
    "Split",
]

CPU = torch.device("cpu")
_RESIDENT_BYTES = 4 * 2**30  # of images that a GPU keeps, so that no batch has to cross the bus


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
    "fashion-mnist": Normalisation((0.2860,), (0.3530,)),
}
"""By name. `unit` leaves pixels in [0, 1], as torchvision's ToTensor does; `half` has them in
[-1, 1]. `imagenet` is what torchvision's and timm's trained weights expect.
"""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Holds images and their labels, and makes batches of them.

    Attributes:
        images: `(n, channels, height, width)`, in memory or not: uint8 ones are normalised, float32
            ones a network sees as they are.
        labels: `(n,)` int64, or targets `(n, k)` float32 of a task of the user's.
        normalisation: of the pixels that a network sees.
        task: says which predictions are correct, and what training minimises.
        device: where batches are put together, and networks trained and judged on them.
    """

    images: ImageArray
    labels: NDArray[Any]
    normalisation: Normalisation = NORMALISATIONS["plain"]
    task: Task = CLASSIFICATION
    device: torch.device = CPU

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def top(self) -> int:
        """A prediction is correct where the label is among so many most likely classes."""
        return self.task.top

    @cached_property
    def targets(self) -> torch.Tensor:
        """The labels on the device, `(n,)` int64 or `(n, k)` float32."""
        return torch.from_numpy(self.labels).to(self.device)

    @cached_property
    def _resident(self) -> torch.Tensor | None:
        """All images as a tensor: those in memory, and those that a GPU has room for."""
        images = self.images
        if self.device.type != "cpu":
            n_bytes = int(np.prod(images.shape)) * images.dtype.itemsize
            if n_bytes > _RESIDENT_BYTES:
                return None
            return torch.from_numpy(np.array(images)).to(self.device)
        # torch warns of arrays that it cannot write
        is_writable = isinstance(images, np.ndarray) and images.flags.writeable
        return torch.from_numpy(images) if is_writable else None

    def _pixels(self, which: slice | torch.Tensor) -> torch.Tensor:
        if self._resident is not None:
            return self._resident[which]
        at = which if isinstance(which, slice) else which.cpu().numpy()
        return torch.from_numpy(np.require(self.images[at], requirements="W")).to(self.device)

    def batch(
        self, which: slice | torch.Tensor, augment: torch.Generator | None = None
    ) -> torch.Tensor:
        """Gives float32 images as a network sees them, channels last (1.7x as fast on CPUs).

        Args:
            which: a slice, or positions `(n_batch,)`.
            augment: draws a flip for each image and a shift of at most an eighth of its size;
                None for none.

        Returns:
            `(n_batch, channels, height, width)`.
        """
        images = self._pixels(which)
        if augment is not None:
            images = _shifted_and_flipped(images, augment)
        if images.is_floating_point():
            # a copy: a network may change its input
            return images.float().clone(memory_format=torch.channels_last)
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
        is_agreement: whether the labels are the dense network's own answers, so that accuracy means
            agreement with it.
    """

    name: str
    n_classes: int
    train: Split
    search: Split
    gate: Split
    test: Split
    is_augmented: bool = False
    class_names: tuple[str, ...] = field(default=(), repr=False)
    is_agreement: bool = False

    @property
    def task(self) -> Task:
        """Of all splits."""
        return self.train.task

    @property
    def splits(self) -> dict[str, Split]:
        """All four by name."""
        return {"train": self.train, "search": self.search, "gate": self.gate, "test": self.test}

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Of one image as a batch, `(1, channels, height, width)`."""
        return (1, *self.train.images.shape[1:])  # type: ignore[return-value]  # of four

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every image and label and of how they are shown and judged.

        It is part of the key under which accuracies are cached.
        """
        shown: tuple[object, ...] = (self.train.normalisation, self.is_augmented, self.train.top)
        if self.task.identity:
            shown = (*shown, self.task.identity)
        digest = hashlib.sha256(repr(shown).encode())
        for split in self.splits.values():
            hash_images(split.images, digest)
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
        return self._with_splits(task=Classification(top))

    def with_task(self, task: Task) -> ImageData:
        """Gives the same images, trained and judged by a task."""
        return self._with_splits(task=task)

    def labelled_by(self, answers: Mapping[str, NDArray[Any]], n_classes: int) -> ImageData:
        """Gives the same images with the dense network's answers for labels.

        Args:
            answers: labels or targets of each split, by its name.
            n_classes: that the network tells apart.
        """
        splits: dict[str, Any] = {
            name: replace(split, labels=answers[name]) for name, split in self.splits.items()
        }
        return replace(self, n_classes=n_classes, is_agreement=True, class_names=(), **splits)

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
