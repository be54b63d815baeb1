"""Looks at a data set before anything is trained on it."""

from __future__ import annotations

import numpy as np

from cprune_rl.accuracy.data.image_data import ImageData
from cprune_rl.errors import DataError

__all__ = ["checked_data", "data_warnings"]

_FEW = 10  # gate images of a class: one of them decides ten points of the class's accuracy
_N_SHOWN = 5


def checked_data(data: ImageData) -> ImageData:
    """Gives the data set, where something can be learnt from it.

    Raises:
        DataError: all of its labels or targets are alike.
    """
    labels = data.train.labels
    if len(labels) and (labels == labels[0]).all():
        if labels.ndim == 1 and labels.dtype.kind in "iu":
            raise DataError(
                f"{data.name} has images of one class alone: whatever is pruned is right there. "
                "Give images of two classes or more."
            )
        raise DataError(
            f"{data.name} has the same target for every training image: nothing can be learnt"
        )
    return data


def data_warnings(data: ImageData) -> list[str]:
    """Says what makes figures of this data set less sure than they look; empty where nothing does.

    Args:
        data: with its labels.
    """
    labels = data.gate.labels
    if labels.ndim > 1 or labels.dtype.kind not in "iu" or data.is_agreement:
        return []
    counts = np.bincount(labels, minlength=data.n_classes)
    few = np.flatnonzero(counts < _FEW)
    if not len(few):
        return []
    fewest = few[np.argsort(counts[few], kind="stable")][:_N_SHOWN].tolist()
    shown = ", ".join(f"{_class(data, at)} {counts[at]}" for at in fewest)
    return [
        f"{len(few)} of {data.n_classes} classes have fewer than {_FEW} of the gate's "
        f"{len(data.gate):,} images (the fewest: {shown}): the gate can pass a network that lost "
        "them. Give more images of these classes."
    ]


def _class(data: ImageData, label: int) -> str:
    return data.class_names[label] if label < len(data.class_names) else f"class {label}"
