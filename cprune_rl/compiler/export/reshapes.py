"""The targets of reshapes and broadcasts whose inputs have changed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from cprune_rl.core.reshape_runs import runs_of_axes
from cprune_rl.errors import ModelError

__all__ = ["ReshapeAxes", "broadcast_target"]

Shape = tuple[int, ...]


class ReshapeAxes:
    """Which axis of each reshape follows the channel counts.

    Args:
        axes: those that are decided, by the variable that a reshape is bound to.

    Attributes:
        axes: the same, with every axis that was decided since.
    """

    def __init__(self, axes: Mapping[Any, int]) -> None:
        self.axes = dict(axes)

    def target(self, reshape: Any, before: tuple[Shape, Shape], now: Shape) -> Shape:
        """Return the target of a reshape whose input has changed.

        One axis gives way, among those that the changed axes became.

        Args:
            reshape: the variable that it is bound to.
            before: shapes of its input and of its target.
            now: shape of its input.

        Raises:
            ModelError: no axis can follow.
        """
        old_in, old_out = before
        ratio = Fraction(math.prod(now), math.prod(old_in))
        if ratio == 1:
            return old_out
        changed = {axis for axis, length in enumerate(old_in) if now[axis] != length}
        run = next(
            outputs for inputs, outputs in runs_of_axes(old_in, old_out) if changed & set(inputs)
        )
        possible = [
            axis for axis in run if old_out[axis] > 1 and (old_out[axis] * ratio).denominator == 1
        ]
        if reshape not in self.axes and possible:
            # An axis as long as the group has channels is the group's.
            whole = [axis for axis in possible if old_out[axis] == ratio.denominator]
            self.axes[reshape] = whole[0] if len(whole) == 1 else possible[0]
        axis = self.axes.get(reshape, -1)
        if axis not in possible:
            raise ModelError(
                f"a reshape from {old_in} to {old_out} cannot follow its input to {now}"
            )
        return (*old_out[:axis], int(old_out[axis] * ratio), *old_out[axis + 1 :])


def broadcast_target(old_in: Shape, old_out: Shape, now: Shape) -> Shape:
    """Return the target of a broadcast whose input has changed.

    Axes that were not widened follow the input.
    """
    offset = len(old_out) - len(old_in)
    target = list(old_out)
    for axis, (old_length, length) in enumerate(zip(old_in, now, strict=True), start=offset):
        if old_out[axis] == old_length:
            target[axis] = length
    return tuple(target)
