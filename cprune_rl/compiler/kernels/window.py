"""The geometry of a convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Window"]


@dataclass(frozen=True, kw_only=True)
class Window:
    """Where a convolution reads its map.

    Attributes:
        kernel: height, width.
        stride: vertical, horizontal.
        padding: top, left, bottom, right.
        dilation: vertical, horizontal.
        layout: of the map, "NHWC" or "NCHW".
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    layout: str

    @staticmethod
    def from_relax(attrs: Any, kernel: Sequence[int], layout: str) -> Window:
        """Read the geometry off the attributes of Relax's `nn.conv2d`."""
        return Window(
            kernel=tuple(kernel),
            stride=tuple(int(v) for v in attrs.strides),
            padding=tuple(int(v) for v in attrs.padding),
            dilation=tuple(int(v) for v in attrs.dilation),
            layout=layout,
        )

    @property
    def is_pointwise(self) -> bool:
        """Whether an output reads one place of the map, which then needs no padded copy."""
        return set(self.kernel) == {1} and not any(self.padding)

    def padded(self, shape: Sequence[Any]) -> tuple[int, int, int]:
        """Return the channels, height and width of a padded map of this shape."""
        channels, height, width = (int(shape[self.layout.index(axis)]) for axis in "CHW")
        top, left, bottom, right = self.padding
        return channels, height + top + bottom, width + left + right

    def out_size(self, shape: Sequence[Any]) -> tuple[int, int]:
        """Return the height and width that a map of this shape is convolved to."""
        _, height, width = self.padded(shape)
        return self._out_length(height, 0), self._out_length(width, 1)

    def _out_length(self, padded: int, axis: int) -> int:
        reach = (self.kernel[axis] - 1) * self.dilation[axis] + 1
        return (padded - reach) // self.stride[axis] + 1
