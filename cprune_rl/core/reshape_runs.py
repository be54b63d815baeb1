"""Which axes of two shapes of one size hold the same numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["runs_of_axes"]

Shape = tuple[int, ...]


def runs_of_axes(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """Part the axes of a reshape into runs of equal size.

    What the input's axes of a run hold is in the target's axes of that run.
    """
    runs: list[tuple[list[int], list[int]]] = []
    left = list(range(len(old)))
    right = list(range(len(new)))
    while left or right:
        inputs = left[:1]
        outputs = right[:1]
        del left[:1], right[:1]
        while (size_in := _size(old, inputs)) != (size_out := _size(new, outputs)):
            if size_in < size_out:
                inputs.append(left.pop(0))
            else:
                outputs.append(right.pop(0))
        runs.append((inputs, outputs))
    return runs


def _size(shape: Shape, axes: Sequence[int]) -> int:
    return math.prod(shape[axis] for axis in axes)
