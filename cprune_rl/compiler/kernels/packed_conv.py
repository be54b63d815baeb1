"""Convolutions over NHWC maps with weights packed for the vector unit.

The weights of a dense convolution are laid out `[out/b, kh, kw, in, b]`, `b` being the vector
width. This is done once, at build time. Good schedules are found in fewer trials than for TVM's
own operator. Strided and 1x1 convolutions stay faster however long both are tuned; others may not.

Channel counts that `b` does not divide get a tail. The last block of weights is filled with zeros
and its surplus lanes are never written. So maps keep their exact channels, and no later operator
pays for the filling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import te, topi

from cprune_rl.compiler.kernels.window import Window

__all__ = [
    "block_size",
    "depthwise_conv2d",
    "grouped_conv2d",
    "pack",
    "pack_depthwise",
    "pack_grouped",
    "packed_conv2d",
    "packed_shape",
]

_LEAST_BLOCK = 4
# Half a vector is taken where it computes at most this share of the whole vector's lanes.
_WORTH_HALVING = 0.8


def block_size(channels: int, lanes: int) -> int:
    """Return the number of output channels that are computed together.

    Args:
        channels: of the output.
        lanes: of a vector register.

    Returns:
        The vector width; half of it (at least 4) where that saves a fifth of the computed lanes.
    """
    half = max(_LEAST_BLOCK, lanes // 2)
    computed = math.ceil(channels / lanes) * lanes
    computed_by_halves = math.ceil(channels / half) * half
    return half if computed_by_halves <= _WORTH_HALVING * computed else lanes


def packed_shape(shape: Sequence[int], lanes: int) -> tuple[int, ...]:
    """Return the shape of packed weights.

    Args:
        shape: `(out, in, kh, kw)`.
        lanes: of a vector register.
    """
    out, n_in, kh, kw = shape
    block = block_size(out, lanes)
    return (math.ceil(out / block), kh, kw, n_in, block)


def pack(weights: NDArray[Any], lanes: int) -> NDArray[Any]:
    """Pack weights `(out, in, kh, kw)` into `packed_shape`, with zeros in the surplus lanes."""
    blocks, kh, kw, n_in, block = packed_shape(weights.shape, lanes)
    filled = np.zeros((blocks * block, n_in, kh, kw), weights.dtype)
    filled[: weights.shape[0]] = weights
    in_blocks = filled.reshape(blocks, block, n_in, kh, kw)
    return np.ascontiguousarray(in_blocks.transpose(0, 3, 4, 2, 1))


def pack_depthwise(weights: NDArray[Any]) -> NDArray[Any]:
    """Pack the weights `(channels, 1, kh, kw)` of a depthwise convolution: `(kh, kw, channels)`."""
    return np.ascontiguousarray(weights[:, 0].transpose(1, 2, 0))


def pack_grouped(weights: NDArray[Any]) -> NDArray[Any]:
    """Pack the weights `(out, in, kh, kw)` of a grouped convolution: `(kh, kw, in, out)`.

    `in` are the channels of one group.
    """
    return np.ascontiguousarray(weights.transpose(2, 3, 1, 0))


def packed_conv2d(data: te.Tensor, weights: te.Tensor, channels: int, window: Window) -> te.Tensor:
    """Compute a dense convolution that writes `(n, y, x, channels)`.

    Args:
        data: `(n, y, x, in)`; or `(n, in, y, x)` where the window's layout is "NCHW", because a
            network's first layer reads the image as it comes.
        weights: packed.
        channels: of the output.
        window: its geometry.
    """
    _, _, _, n_in, block = (int(d) for d in weights.shape)
    padded = _padded(data, window)
    height, width = window.out_size(data.shape)
    ry, rx = _kernel_axes(window)
    rc = te.reduce_axis((0, n_in), name="rc")

    def product(n: Any, y: Any, x: Any, o: Any, i: Any) -> Any:
        at_y, at_x = _place(window, (y, x), (ry, rx))
        is_nhwc = window.layout == "NHWC"
        value = padded[n, at_y, at_x, rc] if is_nhwc else padded[n, rc, at_y, at_x]
        return te.sum(value * weights[o, ry, rx, rc, i], axis=[ry, rx, rc])

    blocks = te.compute(
        (data.shape[0], height, width, weights.shape[0], block), product, name="conv2d_packed"
    )
    return te.compute(
        (data.shape[0], height, width, channels),
        lambda n, y, x, c: blocks[n, y, x, c // block, c % block],
        name="conv2d_nhwc",
    )


def depthwise_conv2d(data: te.Tensor, weights: te.Tensor, window: Window) -> te.Tensor:
    """Compute a depthwise convolution over `(n, y, x, channels)`.

    Args:
        data: in NHWC.
        weights: as `pack_depthwise` packs them.
        window: its geometry.
    """
    channels = int(weights.shape[2])
    padded = _padded(data, window)
    height, width = window.out_size(data.shape)
    ry, rx = _kernel_axes(window)

    def product(n: Any, y: Any, x: Any, c: Any) -> Any:
        at_y, at_x = _place(window, (y, x), (ry, rx))
        return te.sum(padded[n, at_y, at_x, c] * weights[ry, rx, c], axis=[ry, rx])

    return te.compute((data.shape[0], height, width, channels), product, name="depthwise_nhwc")


def grouped_conv2d(data: te.Tensor, weights: te.Tensor, window: Window) -> te.Tensor:
    """Compute a convolution whose groups of outputs each read their own group of inputs.

    Args:
        data: `(n, y, x, channels)`.
        weights: as `pack_grouped` packs them.
        window: its geometry.
    """
    n_in, channels = (int(d) for d in weights.shape[2:])
    n_out_of_group = channels * n_in // int(data.shape[3])
    padded = _padded(data, window)
    height, width = window.out_size(data.shape)
    ry, rx = _kernel_axes(window)
    rc = te.reduce_axis((0, n_in), name="rc")

    def product(n: Any, y: Any, x: Any, c: Any) -> Any:
        at_y, at_x = _place(window, (y, x), (ry, rx))
        read = padded[n, at_y, at_x, c // n_out_of_group * n_in + rc]
        return te.sum(read * weights[ry, rx, rc, c], axis=[ry, rx, rc])

    return te.compute((data.shape[0], height, width, channels), product, name="grouped_nhwc")


def _kernel_axes(window: Window) -> tuple[Any, Any]:
    height, width = window.kernel
    return te.reduce_axis((0, height), name="ry"), te.reduce_axis((0, width), name="rx")


def _place(window: Window, out: tuple[Any, Any], kernel: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return the row and column of the padded map that an output reads at a place of the kernel."""
    y = out[0] * window.stride[0] + kernel[0] * window.dilation[0]
    x = out[1] * window.stride[1] + kernel[1] * window.dilation[1]
    return y, x


def _padded(data: te.Tensor, window: Window) -> te.Tensor:
    if not any(window.padding):
        return data
    top, left, bottom, right = window.padding
    rows, columns = window.layout.index("H"), window.layout.index("W")
    before = [0] * 4
    before[rows], before[columns] = top, left
    after = [0] * 4
    after[rows], after[columns] = bottom, right
    return topi.nn.pad(data, before, after, tvm.tirx.const(0, data.dtype), name="pad")
