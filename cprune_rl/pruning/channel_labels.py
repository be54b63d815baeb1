"""Labels of channels: which positions of which tensors stay or go together.

Each position of a layer's outputs, and of what it reads, has a label. Labels that must go together
are joined (union-find). A tensor of the run has an array of labels, so that a view, a transpose or
a concatenation does to the labels what it does to the numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CONSTANT", "ChannelArray", "Labels"]

LabelArray = NDArray[np.int64]

CONSTANT = 0  # the label of what no group changes: the image, constants


@dataclass(frozen=True)
class ChannelArray:
    """The labels of a tensor.

    Attributes:
        labels: of one axis for each of the tensor's. An axis along which the labels do not differ
            has length 1.
        shape: of the tensor.
        widened: axes that were widened from 1: they follow whatever they are combined with.
    """

    labels: LabelArray
    shape: tuple[int, ...]
    widened: frozenset[int] = frozenset()

    @staticmethod
    def constant(shape: tuple[int, ...]) -> ChannelArray:
        """The labels of a tensor that no group changes."""
        return ChannelArray(np.full((1,) * len(shape), CONSTANT, np.int64), shape)

    @property
    def varying(self) -> frozenset[int]:
        """The axes along which the labels differ."""
        return frozenset(axis for axis, length in enumerate(self.labels.shape) if length > 1)

    def aligned(self, shape: tuple[int, ...]) -> ChannelArray:
        """The same with leading axes, as broadcasting to a shape adds them."""
        n_new = len(shape) - len(self.shape)
        return ChannelArray(
            labels=self.labels.reshape((1,) * n_new + self.labels.shape),
            shape=(1,) * n_new + self.shape,
            widened=frozenset(axis + n_new for axis in self.widened),
        )

    def is_free(self, axis: int, length: int) -> bool:
        """Whether an axis has the length of whatever the tensor is combined with."""
        return axis in self.widened or (self.shape[axis] == 1 and length > 1)

    def spread(self, axes: Iterable[int]) -> LabelArray:
        """The labels with some axes at their full length."""
        target = list(self.labels.shape)
        for axis in axes:
            target[axis] = self.shape[axis]
        return np.broadcast_to(self.labels, target)

    def permuted(self, order: Iterable[int]) -> ChannelArray:
        """The same with its axes in another order."""
        order = list(order)
        return ChannelArray(
            labels=self.labels.transpose(order),
            shape=tuple(self.shape[axis] for axis in order),
            widened=frozenset(at for at, axis in enumerate(order) if axis in self.widened),
        )


class Labels:
    """Joins labels, and notes which must stay.

    A label is a number above `CONSTANT`. Of labels that are joined, one stands for all: their root.
    """

    def __init__(self) -> None:
        self._parents = [CONSTANT]
        self._reasons: dict[int, str] = {}

    def fresh(self, count: int) -> LabelArray:
        """Makes new labels, `(count,)`."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count, dtype=np.int64)

    def roots(self, labels: LabelArray) -> LabelArray:
        """The root of each label."""
        different, places = np.unique(labels, return_inverse=True)
        found = np.array([self._root(label) for label in different.tolist()], np.int64)
        return found[places].reshape(labels.shape)

    def reasons(self) -> Mapping[int, str]:
        """Why labels stay, by their roots."""
        return {self._root(label): reason for label, reason in self._reasons.items()}

    def fix(self, labels: LabelArray, reason: str) -> None:
        """Notes that labels stay, and why; the first reason counts."""
        for label in np.unique(labels).tolist():
            if (root := self._root(label)) != CONSTANT:
                self._reasons.setdefault(root, reason)

    def join(self, some: LabelArray, others: LabelArray, reason: str) -> None:
        """Joins labels place by place; the arrays are broadcast.

        Args:
            some: labels.
            others: labels.
            reason: why those stay that meet a constant.
        """
        pairs = np.stack([array.ravel() for array in np.broadcast_arrays(some, others)])
        for first, second in np.unique(pairs, axis=1).T.tolist():
            self._join(self._root(first), self._root(second), reason)

    def join_along(self, labels: LabelArray, axes: Iterable[int], reason: str) -> LabelArray:
        """Joins labels that differ along some axes only; the axes have length 1 in the result."""
        for axis in axes:
            if labels.shape[axis] > 1:
                first = labels.take([0], axis)
                self.join(first, labels, reason)
                labels = first
        return self.roots(labels)

    def compressed(self, labels: LabelArray) -> LabelArray:
        """The roots of labels, with length 1 for each axis along which they do not differ."""
        labels = self.roots(labels)
        for axis, length in enumerate(labels.shape):
            first = labels.take([0], axis) if length > 1 else labels
            if length > 1 and (labels == first).all():
                labels = first
        return labels

    def _join(self, first: int, second: int, reason: str) -> None:
        if first == second:
            return
        if CONSTANT in (first, second):
            self._reasons.setdefault(max(first, second), reason)
            return
        low, high = sorted((first, second))
        self._parents[high] = low
        if high in self._reasons:
            self._reasons.setdefault(low, self._reasons.pop(high))

    def _root(self, label: int) -> int:
        parents: list[Any] = self._parents
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return int(label)
