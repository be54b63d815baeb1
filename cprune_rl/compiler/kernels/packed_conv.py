"""Convolutions over NHWC maps with weights packed for the vector unit.

The weights of a dense convolution are laid out `[out/b, kh, kw, in, b]` once, at build time, `b`
being the
vector width. Good programs are found in fewer trials than for the plain operator; strided and 1x1
convolutions
stay faster however long both are tuned, others may not. Channel counts that `b` does not divide get
a tail: the
last block of weights is filled with zeros and its surplus lanes are never written, so activations
keep their
exact channels and nothing downstream pays for the filling. Called by `rebuild`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import te, topi

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


def block_size(channels: int, lanes: int) -> int:
    """Output channels that are computed together.

    Args:
        channels: of the output.
        lanes: of a vector register.

    Returns:
        The vector width; half of it (at least 4) where that saves a fifth of the computed lanes or
        more.
    """
    half = max(4, lanes // 2)
    return (
        half
        if math.ceil(channels / half) * half <= 0.8 * math.ceil(channels / lanes) * lanes
        else lanes
    )


def packed_shape(shape: Sequence[int], lanes: int) -> tuple[int, ...]:
    """Shape of packed weights.

    Args:
        shape: `(out, in, kh, kw)`.
        lanes: of a vector register.
    """
    out, n_in, kh, kw = shape
    block = block_size(out, lanes)
    return (math.ceil(out / block), kh, kw, n_in, block)


def pack(weights: NDArray[Any], lanes: int) -> NDArray[Any]:
    """Weights `(out, in, kh, kw)` as `packed_shape` has them, surplus lanes zero."""
    blocks, kh, kw, n_in, block = packed_shape(weights.shape, lanes)
    filled = np.zeros((blocks * block, n_in, kh, kw), weights.dtype)
    filled[: weights.shape[0]] = weights
    return np.ascontiguousarray(
        filled.reshape(blocks, block, n_in, kh, kw).transpose(0, 3, 4, 2, 1)
    )


def pack_depthwise(weights: NDArray[Any]) -> NDArray[Any]:
    """Weights of a depthwise convolution `(channels, 1, kh, kw)` as `(kh, kw, channels)`."""
    return np.ascontiguousarray(weights[:, 0].transpose(1, 2, 0))


def pack_grouped(weights: NDArray[Any]) -> NDArray[Any]:
    """Weights of a grouped convolution `(out, in of a group, kh, kw)` as `(kh, kw, in of a group,
    out)`.
    """
    return np.ascontiguousarray(weights.transpose(2, 3, 1, 0))


def packed_conv2d(
    data: te.Tensor,
    weights: te.Tensor,
    channels: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    data_layout: str,
) -> te.Tensor:
    """A dense convolution that writes `(n, y, x, channels)`.

    Args:
        data: `(n, y, x, in)`, or `(n, in, y, x)` where `data_layout` is "NCHW": a network's first
            layer reads the image as it comes.
        weights: packed.
        channels: of the output.
        stride: vertical, horizontal.
        padding: top, left, bottom, right.
        dilation: vertical, horizontal.
        data_layout: "NHWC" or "NCHW".
    """
    _, kh, kw, n_in, block = (int(d) for d in weights.shape)
    padded = _padded(data, padding, data_layout)
    y_axis = data_layout.index("H")
    height, width = (
        _out_length(int(padded.shape[y_axis + i]), k, stride[i], dilation[i])
        for i, k in enumerate((kh, kw))
    )
    ry, rx, rc = (
        te.reduce_axis((0, kh), name="ry"),
        te.reduce_axis((0, kw), name="rx"),
        te.reduce_axis((0, n_in), name="rc"),
    )

    def product(n: Any, y: Any, x: Any, o: Any, i: Any) -> Any:
        at_y, at_x = y * stride[0] + ry * dilation[0], x * stride[1] + rx * dilation[1]
        value = padded[n, at_y, at_x, rc] if data_layout == "NHWC" else padded[n, rc, at_y, at_x]
        return te.sum(value * weights[o, ry, rx, rc, i], axis=[ry, rx, rc])

    blocks = te.compute(
        (data.shape[0], height, width, weights.shape[0], block), product, name="conv2d_packed"
    )
    return te.compute(
        (data.shape[0], height, width, channels),
        lambda n, y, x, c: blocks[n, y, x, c // block, c % block],
        name="conv2d_nhwc",
    )


def depthwise_conv2d(
    data: te.Tensor,
    weights: te.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> te.Tensor:
    """A depthwise convolution over `(n, y, x, channels)` with weights `(kh, kw, channels)`;

    the arguments are those of `packed_conv2d`.
    """
    kh, kw, channels = (int(d) for d in weights.shape)
    padded = _padded(data, padding, "NHWC")
    height, width = (
        _out_length(int(padded.shape[1 + i]), k, stride[i], dilation[i])
        for i, k in enumerate((kh, kw))
    )
    ry, rx = te.reduce_axis((0, kh), name="ry"), te.reduce_axis((0, kw), name="rx")

    def product(n: Any, y: Any, x: Any, c: Any) -> Any:
        return te.sum(
            padded[n, y * stride[0] + ry * dilation[0], x * stride[1] + rx * dilation[1], c]
            * weights[ry, rx, c],
            axis=[ry, rx],
        )

    return te.compute((data.shape[0], height, width, channels), product, name="depthwise_nhwc")


def grouped_conv2d(
    data: te.Tensor,
    weights: te.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> te.Tensor:
    """A convolution whose groups of outputs each read a group of inputs, over `(n, y, x,
    channels)`, with weights as `pack_grouped` has them.
    """
    kh, kw, n_in, channels = (int(d) for d in weights.shape)
    n_out = channels * n_in // int(data.shape[3])  # of a group
    padded = _padded(data, padding, "NHWC")
    height, width = (
        _out_length(int(padded.shape[1 + i]), k, stride[i], dilation[i])
        for i, k in enumerate((kh, kw))
    )
    ry, rx, rc = (
        te.reduce_axis((0, kh), name="ry"),
        te.reduce_axis((0, kw), name="rx"),
        te.reduce_axis((0, n_in), name="rc"),
    )

    def product(n: Any, y: Any, x: Any, c: Any) -> Any:
        read = padded[
            n,
            y * stride[0] + ry * dilation[0],
            x * stride[1] + rx * dilation[1],
            c // n_out * n_in + rc,
        ]
        return te.sum(read * weights[ry, rx, rc, c], axis=[ry, rx, rc])

    return te.compute((data.shape[0], height, width, channels), product, name="grouped_nhwc")


def _padded(data: te.Tensor, padding: Sequence[int], layout: str) -> te.Tensor:
    if not any(padding):
        return data
    top, left, bottom, right = padding
    before, after = [0] * 4, [0] * 4
    y = layout.index("H")
    before[y : y + 2], after[y : y + 2] = [top, left], [bottom, right]
    return topi.nn.pad(data, before, after, tvm.tirx.const(0, data.dtype), name="pad")


def _out_length(padded: int, kernel: int, stride: int, dilation: int) -> int:
    return (padded - (kernel - 1) * dilation - 1) // stride + 1
