"""Splits labelled images four ways by a seed, each class in its proportion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cprune_rl.accuracy.data.image_arrays import ImageArray, SelectedRows
from cprune_rl.accuracy.data.image_data import NORMALISATIONS, ImageData, Normalisation, Split
from cprune_rl.accuracy.data.stratified import in_split_order, sample_of_each_class
from cprune_rl.errors import ConfigError, DataError

__all__ = ["LabelledImages", "SplitSettings", "check_channels", "check_labels", "split_images"]

LabelledImages = tuple[ImageArray, NDArray[Any]]
"""Images `(n, channels, height, width)`, and their labels `(n,)` int64 or targets `(n, k)` float32.
"""

_SMALLEST = 50  # images: fewer cannot be split four ways
_GATE_TARGET = 4000  # 1,000 gate images cannot tell one point of accuracy
_SEARCH_TARGET = 2000
_N_SHOWN = 8  # classes in a message


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """Says how images are split and shown to a network.

    Attributes:
        name: of the data set.
        normalisation: of the pixels that a network sees.
        is_augmented: whether training shifts and flips the images.
        seed: of the order in which they are split.
        fast: at most 8,000 images to train on and 2,000 for the search.
        is_stratified: whether each split has the classes in the proportions of the whole.
        n_images: of the images to split, a sample of so many, stratified too; None for all.
        has_labels: whether the labels mean anything; else a network gives them later.
    """

    name: str
    normalisation: Normalisation = NORMALISATIONS["plain"]
    is_augmented: bool = False
    seed: int = 0
    fast: bool = False
    is_stratified: bool = True
    n_images: int | None = None
    has_labels: bool = True


def split_images(
    labelled: LabelledImages,
    settings: SplitSettings,
    test: LabelledImages | None = None,
    class_names: tuple[str, ...] = (),
) -> ImageData:
    """Splits images by a seed: the same seed gives the same splits.

    The gate gets 12 %, and at least 4,000 images where those are no more than a fifth. The search
    gets 8 %, and at least 2,000 where those are no more than a tenth. Without test images of its
    own, the test gets 15 %. The rest is for training. No image is copied.

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
    check_channels(images, settings)
    test_labels = None if test is None else test[1]
    rows = _split_rows(labels, settings, test_labels, class_names)

    def split(images: ImageArray, labels: NDArray[Any]) -> Split:
        return Split(images=images, labels=labels, normalisation=settings.normalisation)

    splits = {name: split(SelectedRows(images, at), labels[at]) for name, at in rows.items()}
    if test is not None:
        splits["test"] = split(*test)
    return ImageData(
        name=settings.name,
        n_classes=_n_classes(labels, test_labels, class_names) if settings.has_labels else 0,
        train=splits["train"],
        search=splits["search"],
        gate=splits["gate"],
        test=splits["test"],
        is_augmented=settings.is_augmented,
        class_names=class_names,
    )


def check_labels(
    labels: NDArray[Any],
    settings: SplitSettings,
    test_labels: NDArray[Any] | None,
    class_names: tuple[str, ...] = (),
) -> None:
    """Refuses labels that cannot be split, before any image is read.

    Raises:
        DataError: see `split_images`.
    """
    _split_rows(labels, settings, test_labels, class_names)


def _split_rows(
    labels: NDArray[Any],
    settings: SplitSettings,
    test_labels: NDArray[Any] | None,
    class_names: tuple[str, ...],
) -> dict[str, NDArray[np.int64]]:
    """Gives the positions of each split's images; of the test only where it has none of its own."""
    rng = np.random.default_rng(settings.seed)
    rows = np.arange(len(labels))
    has_classes = settings.has_labels and labels.ndim == 1
    if settings.n_images is not None and settings.n_images < len(rows):
        classes = labels if has_classes else np.zeros(len(labels), np.int64)
        rows = sample_of_each_class(classes, settings.n_images, rng)
    if len(rows) < _SMALLEST:
        raise DataError(
            f"{settings.name} has {len(rows)} images; at least {_SMALLEST} are needed "
            "to split them into train, search, gate and test"
        )
    sizes = [
        _n_images(len(rows), share=0.12, target=_GATE_TARGET, at_most=0.2),
        _n_images(len(rows), share=0.08, target=_SEARCH_TARGET, at_most=0.1),
        0 if test_labels is not None else round(0.15 * len(rows)),
    ]
    if settings.is_stratified and has_classes:
        rows = rows[in_split_order(labels[rows], rng)]
    else:
        rows = rows[rng.permutation(len(rows))]
    in_gate, in_search, in_test, in_train = np.split(rows, np.cumsum(sizes))
    if settings.fast:
        in_train = in_train[:8000]
        in_search = in_search[:2000]
    if has_classes:
        _check_classes(labels, in_train, settings.name, test_labels, class_names)
    split_rows = {"train": in_train, "search": in_search, "gate": in_gate}
    return split_rows if test_labels is not None else {**split_rows, "test": in_test}


def _n_classes(
    labels: NDArray[Any], test_labels: NDArray[Any] | None, class_names: tuple[str, ...]
) -> int:
    """Counts the classes; of targets `(n, k)` there are k."""
    if labels.ndim > 1:
        return int(labels.shape[1])
    largest = max(int(part.max(initial=-1)) for part in (labels, test_labels) if part is not None)
    return max(len(class_names), largest + 1)


def _check_classes(
    labels: NDArray[np.int64],
    in_train: NDArray[np.int64],
    name: str,
    test_labels: NDArray[np.int64] | None,
    class_names: tuple[str, ...],
) -> None:
    """Refuses a class that training would never see, and says why it does not."""
    n_classes = _n_classes(labels, test_labels, class_names)
    seen = np.unique(labels[in_train])
    if n_classes == len(seen):
        return
    shown: list[str] = []
    known = set(seen.tolist())
    at = 0
    while len(shown) < _N_SHOWN and at < n_classes:
        if at not in known:
            shown.append(f"{at} ({class_names[at]})" if at < len(class_names) else str(at))
        at += 1
    n_missing = n_classes - len(seen)
    more = f" and {n_missing - len(shown)} more" if n_missing > len(shown) else ""
    raise DataError(
        f"{name} has no training image of class {', '.join(shown)}{more}; "
        f"{_why_missing(labels, seen, n_classes, test_labels)}"
    )


def _why_missing(
    labels: NDArray[np.int64],
    seen: NDArray[np.int64],
    n_classes: int,
    test_labels: NDArray[np.int64] | None,
) -> str:
    given = np.unique(labels)
    if not len(np.setdiff1d(given, seen)):
        if test_labels is not None and n_classes > int(given.max()) + 1:
            return (
                f"its test images have the label {n_classes - 1}, the others go up to "
                f"{given.max()}: labels of both must be of the same classes"
            )
        hint = " Yours begin at 1: subtract 1." if given.min() == 1 else ""
        return (
            f"labels must be 0 to the number of classes less one, each with images; it has "
            f"{len(given)} different labels from {given.min()} to {given.max()}.{hint}"
        )
    fewest = min(int((labels == label).sum()) for label in np.setdiff1d(given, seen)[:_N_SHOWN])
    return (
        f"of one of them there are {fewest} images in all, which other splits took: "
        "give more images of it, or leave the class out"
    )


def check_channels(images: ImageArray, settings: SplitSettings) -> None:
    """Refuses a normalisation for another number of channels.

    Raises:
        ConfigError: it is one.
    """
    mean = settings.normalisation.mean
    std = settings.normalisation.std
    if not {len(mean), len(std)} <= {1, images.shape[1]}:
        raise ConfigError(
            f"{settings.name} is normalised with mean {mean} and deviation {std}; its images have "
            f"{images.shape[1]} channels: give one value, or as many"
        )


def _n_images(total: int, *, share: float, target: int, at_most: float) -> int:
    """Gives a share of all images, raised to a target where that is at most another share."""
    return min(max(round(share * total), target), round(at_most * total))
