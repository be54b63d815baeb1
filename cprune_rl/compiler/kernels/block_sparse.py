"""Convolutions and fully connected layers of which each block of output channels reads entries of
its own.

An entry is an (input channel, row, column) of the kernel. For each block there is a table of where
its entries lie in the
padded map, counted from the first one that an output reads, and weights `[entries, channels of the
block]`. The tables are
data: layers of one shape, density and block size share a program. They are computed from pruned
    weights, once, at build
time. Channel counts that the block does not divide get a tail as those of `packing` do. Called by
`rebuild`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from cprune_rl.compiler.kernels.schedule_rules import BLOCK_SPARSE_SUMS, FLAT_COPY

__all__ = ["BlockSparseFormat", "block_sparse_conv2d", "block_sparse_dense"]


@dataclass(frozen=True)
class BlockSparseFormat:
    """How the weights of a layer are stored.

    Attributes:
        shape: of the weights, `(out, in, kh, kw)` or `(out, in)`.
        block: output channels to a block.
        n_kept: entries that each block keeps.
        unit: neighbouring entries that are kept together: 9 where whole 3x3 kernels are, else 1.
    """

    shape: tuple[int, ...]
    block: int
    n_kept: int
    unit: int = 1

    @property
    def count(self) -> int:
        """Blocks, the last of which may be partly empty."""
        return math.ceil(self.shape[0] / self.block)

    @property
    def n_units(self) -> int:
        """Units that each block keeps."""
        return self.n_kept // self.unit

    def kept_units(self, weights: NDArray[Any]) -> NDArray[np.int64]:
        """Positions `(blocks, n_units)` of the units that hold a weight, ascending;

        filled up with others where there are fewer.

        Raises:
            ValueError: a block holds more.
        """
        held = (
            np.abs(self._filled(weights)).sum(axis=1).reshape(self.count, -1, self.unit).any(axis=2)
        )
        if (most := int(held.sum(axis=1).max())) > self.n_units:
            what = "entries" if self.unit == 1 else "kernels"
            raise ValueError(
                f"a block of {self.block} channels holds {most} {what}, not {self.n_units}: the weights are not pruned by this scheme"
            )
        return np.sort(np.argsort(~held, axis=1, kind="stable")[:, : self.n_units], axis=1)

    def kept(self, weights: NDArray[Any]) -> NDArray[np.int64]:
        """Positions `(blocks, n_kept)` of the entries of those units; errors as of `kept_units`."""
        return (self.kept_units(weights)[:, :, None] * self.unit + np.arange(self.unit)).reshape(
            self.count, self.n_kept
        )

    def prune_at_random(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Weights of which each block keeps units that are drawn, the same for the same shape."""
        filled, rng = self._filled(weights), np.random.default_rng(0)
        kept = np.repeat(
            np.argsort(rng.random((self.count, filled.shape[-1] // self.unit)), axis=1)
            < self.n_units,
            self.unit,
            axis=1,
        )
        return (filled * kept[:, None, :]).reshape(self.count * self.block, *self.shape[1:])[
            : self.shape[0]
        ]

    def pack(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Weights as `(blocks, n_kept, block)`."""
        at = self.kept(weights)
        return np.ascontiguousarray(
            np.take_along_axis(self._filled(weights), at[:, None, :], axis=2).transpose(0, 2, 1)
        )

    def offsets(self, weights: NDArray[Any], strides: Sequence[int]) -> NDArray[np.int32]:
        """Where the entries lie: `(blocks, n_kept)`.

        Args:
            weights: pruned.
            strides: in the padded map, between input channels, and rows and columns of the kernel.
        """
        at = np.unravel_index(self.kept(weights), self.shape[1:])
        return np.tensordot(np.asarray(strides), np.stack(at), axes=1).astype(np.int32)

    def _filled(self, weights: NDArray[Any]) -> NDArray[Any]:
        """`(blocks, block, entries)`, surplus channels zero."""
        filled = np.zeros((self.count * self.block, math.prod(self.shape[1:])), weights.dtype)
        filled[: self.shape[0]] = weights.reshape(self.shape[0], -1)
        return filled.reshape(self.count, self.block, -1)


@dataclass(frozen=True)
class Window:
    """A convolution's geometry.

    Attributes:
        kernel: height, width.
        stride: vertical, horizontal.
        padding: top, left, bottom, right.
        dilation: vertical, horizontal.
        layout: of the maps, "NHWC" or "NCHW".
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    layout: str

    @property
    def is_pointwise(self) -> bool:
        """Whether an output reads one place of the map, which so need not be copied."""
        return set(self.kernel) == {1} and not any(self.padding)

    def padded(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Channels, height and width of the padded map."""
        channels, height, width = (int(shape[self.layout.index(a)]) for a in "CHW")
        top, left, bottom, right = self.padding
        return channels, height + top + bottom, width + left + right

    def strides(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Distance in the padded map of the entries of neighbouring input channels, rows and
        columns of the kernel; of a 1x1 kernel an entry is its channel.
        """
        channels, height, width = self.padded(shape)
        if self.is_pointwise:
            return 1, 0, 0
        return (
            (height * width, width * self.dilation[0], self.dilation[1])
            if self.layout == "NCHW"
            else (1, channels * width * self.dilation[0], channels * self.dilation[1])
        )


def block_sparse_conv2d(
    data: te.Tensor, weights: te.Tensor, offsets: te.Tensor, channels: int, window: Window
) -> te.Tensor:
    """A convolution that writes maps in the layout in which it reads them.

    Args:
        data: a map.
        weights: `(blocks, n_kept, block)`.
        offsets: `(blocks, n_kept)`.
        channels: of the output.
        window: its geometry.
    """
    n, (n_in, height, width) = data.shape[0], window.padded(data.shape)
    flat = None if window.is_pointwise else _flat(data, window)
    step = 1 if window.layout == "NCHW" else n_in
    out_y, out_x = (
        (length - (k - 1) * d - 1) // s + 1
        for length, k, d, s in zip(
            (height, width), window.kernel, window.dilation, window.stride, strict=True
        )
    )
    n_blocks, n_kept, block = (int(d) for d in weights.shape)
    k = te.reduce_axis((0, n_kept), name="k")

    def product(b: Any, y: Any, x: Any, o: Any, i: Any) -> Any:
        at_y, at_x = y * window.stride[0], x * window.stride[1]
        at = {"N": b, "C": offsets[o, k], "H": at_y, "W": at_x}
        read = (
            data[tuple(at[a] for a in window.layout)]
            if flat is None
            else flat[b, offsets[o, k] + (at_y * width + at_x) * step]
        )
        return te.sum(read * weights[o, k, i], axis=[k])

    attrs = {"schedule_rule": BLOCK_SPARSE_SUMS}
    if window.layout == "NHWC":
        blocks = te.compute(
            (n, out_y, out_x, n_blocks, block), product, name="conv2d_blocked", attrs=attrs
        )
        return te.compute(
            (n, out_y, out_x, channels),
            lambda b, y, x, c: blocks[b, y, x, c // block, c % block],
            name="conv2d_nhwc",
        )
    blocks = te.compute(
        (n, n_blocks, block, out_y, out_x),
        lambda b, o, i, y, x: product(b, y, x, o, i),
        name="conv2d_blocked_nchw",
        attrs=attrs,
    )
    return te.compute(
        (n, channels, out_y, out_x),
        lambda b, c, y, x: blocks[b, c // block, c % block, y, x],
        name="conv2d_nchw",
    )


def block_sparse_dense(
    data: te.Tensor, weights: te.Tensor, offsets: te.Tensor, channels: int
) -> te.Tensor:
    """A fully connected layer over rows `(n, in)`;

    the other arguments are those of `block_sparse_conv2d`.
    """
    n_blocks, n_kept, block = (int(d) for d in weights.shape)
    k = te.reduce_axis((0, n_kept), name="k")
    blocks = te.compute(
        (data.shape[0], n_blocks, block),
        lambda n, o, i: te.sum(data[n, offsets[o, k]] * weights[o, k, i], axis=[k]),
        name="dense_blocked",
    )
    return te.compute(
        (data.shape[0], channels), lambda n, c: blocks[n, c // block, c % block], name="dense"
    )


def _flat(data: te.Tensor, window: Window) -> te.Tensor:
    """The padded map as one row: an entry's place is one number then."""
    channels, height, width = window.padded(data.shape)
    top, left, _, _ = window.padding
    layout = window.layout

    def value(n: Any, at: Any) -> Any:
        if layout == "NCHW":
            c, y, x = at // (height * width), at // width % height, at % width
        else:
            c, y, x = at % channels, at // (channels * width), at // channels % width
        read = data[tuple({"N": n, "C": c, "H": y - top, "W": x - left}[a] for a in layout)]
        if not any(window.padding):
            return read
        inside = tirx.all(
            y >= top,
            y < top + int(data.shape[layout.index("H")]),
            x >= left,
            x < left + int(data.shape[layout.index("W")]),
        )
        return tirx.if_then_else(inside, read, tirx.const(0, data.dtype))

    lengths = (channels, height, width) if layout == "NCHW" else (height, width, channels)
    return te.compute(
        (data.shape[0], channels * height * width),
        value,
        name="flat",
        attrs={"schedule_rule": FLAT_COPY, "lengths": list(lengths)},
    )
