"""Layers of which each block of output channels reads entries of its own.

An entry is an (input channel, row, column) of the kernel. Each block has a table of offsets that
say where its entries lie in the padded map, counted from the first one that an output reads. Its
weights are `[entries, channels of the block]`. Both are computed from pruned weights once, at
build time. The tables are data: layers of one shape, density and block size share a schedule.
Channel counts that the block does not divide get a tail, as in `packed_conv`.
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
from cprune_rl.compiler.kernels.window import Window

__all__ = ["BlockSparseFormat", "block_sparse_conv2d", "block_sparse_dense", "entry_strides"]


@dataclass(frozen=True, kw_only=True)
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
    def n_blocks(self) -> int:
        """How many blocks there are; the last may be partly empty."""
        return math.ceil(self.shape[0] / self.block)

    @property
    def n_units(self) -> int:
        """How many units each block keeps."""
        return self.n_kept // self.unit

    def kept_units(self, weights: NDArray[Any]) -> NDArray[np.int64]:
        """Return the positions `(n_blocks, n_units)` of units that hold a weight, ascending.

        A block that holds fewer is filled up with other units.

        Raises:
            ValueError: a block holds more.
        """
        is_entry_held = self._in_blocks(weights).any(axis=1)
        is_held = is_entry_held.reshape(self.n_blocks, -1, self.unit).any(axis=2)
        most = int(is_held.sum(axis=1).max())
        if most > self.n_units:
            what = "entries" if self.unit == 1 else "kernels"
            raise ValueError(
                f"a block of {self.block} channels holds {most} {what}, not {self.n_units}: "
                "the weights are not pruned by this scheme"
            )
        held_first = np.argsort(~is_held, axis=1, kind="stable")
        return np.sort(held_first[:, : self.n_units], axis=1)

    def kept(self, weights: NDArray[Any]) -> NDArray[np.int64]:
        """Return the positions `(n_blocks, n_kept)` of the entries of the kept units.

        Raises:
            ValueError: a block holds more.
        """
        first_entries = self.kept_units(weights)[:, :, None] * self.unit
        return (first_entries + np.arange(self.unit)).reshape(self.n_blocks, self.n_kept)

    def prune_at_random(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Keep random units of each block: the same ones for every layer of a shape."""
        in_blocks = self._in_blocks(weights)
        n_units = in_blocks.shape[-1] // self.unit
        ranks = np.argsort(np.random.default_rng(0).random((self.n_blocks, n_units)), axis=1)
        is_kept = np.repeat(ranks < self.n_units, self.unit, axis=1)
        pruned = in_blocks * is_kept[:, None, :]
        return pruned.reshape(-1, *self.shape[1:])[: self.shape[0]]

    def pack(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Pack pruned weights: `(n_blocks, n_kept, block)`."""
        positions = self.kept(weights)[:, None, :]
        entries = np.take_along_axis(self._in_blocks(weights), positions, axis=2)
        return np.ascontiguousarray(entries.transpose(0, 2, 1))

    def offsets(self, weights: NDArray[Any], strides: Sequence[int]) -> NDArray[np.int32]:
        """Tell where the entries lie: `(n_blocks, n_kept)`.

        Args:
            weights: pruned.
            strides: distances in the padded map, as `entry_strides` gives them.
        """
        places = np.unravel_index(self.kept(weights), self.shape[1:])
        return np.tensordot(np.asarray(strides), np.stack(places), axes=1).astype(np.int32)

    def _in_blocks(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Bring weights into `(n_blocks, block, entries)`; surplus channels are zero."""
        filled = np.zeros((self.n_blocks * self.block, math.prod(self.shape[1:])), weights.dtype)
        filled[: self.shape[0]] = weights.reshape(self.shape[0], -1)
        return filled.reshape(self.n_blocks, self.block, -1)


def entry_strides(window: Window, shape: Sequence[Any]) -> tuple[int, int, int]:
    """Return how far neighbouring entries lie apart in the padded map.

    Args:
        window: the convolution's geometry.
        shape: of the map.

    Returns:
        Distances between input channels, and rows and columns of the kernel. The entry of a 1x1
        kernel is its channel.
    """
    if window.is_pointwise:
        return 1, 0, 0
    channels, height, width = window.padded(shape)
    row, column = window.dilation
    if window.layout == "NCHW":
        return height * width, width * row, column
    return 1, channels * width * row, channels * column


def block_sparse_conv2d(
    data: te.Tensor, weights: te.Tensor, offsets: te.Tensor, channels: int, window: Window
) -> te.Tensor:
    """Compute a convolution that writes its map in the layout in which it reads one.

    Args:
        data: a map.
        weights: `(n_blocks, n_kept, block)`.
        offsets: `(n_blocks, n_kept)`.
        channels: of the output.
        window: its geometry.
    """
    n = data.shape[0]
    n_in, _, width = window.padded(data.shape)
    out_y, out_x = window.out_size(data.shape)
    flat = None if window.is_pointwise else _flat(data, window)
    step = 1 if window.layout == "NCHW" else n_in
    n_blocks, n_kept, block = (int(d) for d in weights.shape)
    k = te.reduce_axis((0, n_kept), name="k")

    def product(b: Any, y: Any, x: Any, o: Any, i: Any) -> Any:
        at_y = y * window.stride[0]
        at_x = x * window.stride[1]
        if flat is None:
            place = {"N": b, "C": offsets[o, k], "H": at_y, "W": at_x}
            read = data[tuple(place[axis] for axis in window.layout)]
        else:
            read = flat[b, offsets[o, k] + (at_y * width + at_x) * step]
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
    """Compute a fully connected layer over rows `(n, in)`.

    Args:
        data: the rows.
        weights: `(n_blocks, n_kept, block)`.
        offsets: `(n_blocks, n_kept)`.
        channels: of the output.
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
    """Copy the padded map into one row, where an entry's place is one number."""
    channels, height, width = window.padded(data.shape)
    top, left, _, _ = window.padding
    layout = window.layout

    def value(n: Any, at: Any) -> Any:
        if layout == "NCHW":
            c, y, x = at // (height * width), at // width % height, at % width
        else:
            c, y, x = at % channels, at // (channels * width), at // channels % width
        place = {"N": n, "C": c, "H": y - top, "W": x - left}
        read = data[tuple(place[axis] for axis in layout)]
        if not any(window.padding):
            return read
        is_inside = tirx.all(
            y >= top,
            y < top + int(data.shape[layout.index("H")]),
            x >= left,
            x < left + int(data.shape[layout.index("W")]),
        )
        return tirx.if_then_else(is_inside, read, tirx.const(0, data.dtype))

    lengths = (channels, height, width) if layout == "NCHW" else (height, width, channels)
    return te.compute(
        (data.shape[0], channels * height * width),
        value,
        name="flat",
        attrs={"schedule_rule": FLAT_COPY, "lengths": list(lengths)},
    )
