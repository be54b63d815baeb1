"""3x3 convolutions by Winograd's minimal filtering, F(4x4, 3x3):

36 multiplications where the direct form has 144.

An image is cut into tiles of 4x4 outputs (Lavin and Gray, CVPR 2016). Each reads 6x6 inputs, which
are transformed
by rows, then by columns; a batch of 36 small matrix products takes the place of the convolution,
and the products
are transformed back. Weights are transformed once, at build time, and packed for the vector unit as
those of
`packing` are. Values differ from the direct form's by some millionths of the largest. Called by
`rebuild`, the transforms
by `winograd_sparse` too.

Transforms and products bring schedule rules of their own (`schedule_rules`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx, topi

from cprune_rl.compiler.kernels.packed_conv import block_size
from cprune_rl.compiler.kernels.schedule_rules import (
    ENTRY_LOOPS,
    WINOGRAD_PRODUCTS,
    WINOGRAD_TRANSFORM,
)

__all__ = [
    "Tiling",
    "supports_winograd",
    "transform_kernels",
    "transform_weights",
    "transformed_weights_shape",
    "winograd_conv2d",
]

_TILE = 4  # outputs of a tile, each way
_READ = _TILE + 2  # inputs that they read
_KERNEL = (3, 3)

# Matrices of F(4, 3), for the points 0, 1, -1, 2, -2 and infinity: Lavin and Gray, section 4.3.
_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
_WEIGHTS = np.array(((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))) / 24


def supports_winograd(
    kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> bool:
    """Whether a convolution can be computed this way."""
    return tuple(kernel) == _KERNEL and set(stride) == set(dilation) == {1}


def transformed_weights_shape(shape: Sequence[int], lanes: int) -> tuple[int, ...]:
    """Shape of transformed weights.

    Args:
        shape: `(out, in, 3, 3)`.
        lanes: of a vector register.
    """
    block = block_size(shape[0], lanes)
    return (_READ, _READ, math.ceil(shape[0] / block), shape[1], block)


def transform_weights(weights: NDArray[Any], lanes: int) -> NDArray[Any]:
    """Weights `(out, in, 3, 3)` as `transformed_weights_shape` has them, surplus lanes zero."""
    rows, columns, blocks, n_in, block = transformed_weights_shape(weights.shape, lanes)
    filled = np.zeros((rows, columns, blocks * block, n_in), weights.dtype)
    filled[:, :, : len(weights)] = transform_kernels(weights).transpose(2, 3, 0, 1)
    return np.ascontiguousarray(
        filled.reshape(rows, columns, blocks, block, n_in).transpose(0, 1, 2, 4, 3)
    )


def transform_kernels(kernels: NDArray[Any]) -> NDArray[Any]:
    """Kernels `(..., 3, 3)` as the products multiply by them, `(..., 6, 6)`."""
    values: NDArray[Any] = _WEIGHTS @ kernels.astype(np.float64) @ _WEIGHTS.T
    return values.astype(kernels.dtype)


class Tiling:
    """How an image is cut into tiles.

    Args:
        data: `(n, y, x, in)`.
        padding: top, left, bottom, right.

    Attributes:
        transformed_kernel: what a tile or a kernel becomes, rows and columns.
        count: tiles of all images.
        n_x: tiles in a row.
    """

    transformed_kernel = (_READ, _READ)

    def __init__(self, data: te.Tensor, padding: Sequence[int]) -> None:
        n, height, width, _ = (int(d) for d in data.shape)
        self._top, self._left, bottom, right = padding
        out_y, out_x = height + self._top + bottom - 2, width + self._left + right - 2
        self._n, self._out = n, (out_y, out_x)
        self._n_y, self.n_x = math.ceil(out_y / _TILE), math.ceil(out_x / _TILE)
        self._filling = (self._n_y * _TILE - out_y + bottom, self.n_x * _TILE - out_x + right)
        self.count = n * self._n_y * self.n_x

    def tiles(self, data: te.Tensor) -> te.Tensor:
        """The image transformed: `(images times tiles in a column, tiles in a row, 6, 6, in)`."""
        n_y, n_x, n_in = self._n_y, self.n_x, int(data.shape[3])
        padded = topi.nn.pad(
            data,
            (0, self._top, self._left, 0),
            (0, *self._filling, 0),
            tirx.const(0, data.dtype),
            name="pad",
        )
        rows = _transform(
            "winograd_rows",
            _INPUT,
            (self._n * n_y, n_x * _TILE + 2, _READ, n_in),
            lambda t, x, _, c: lambda r: padded[t // n_y, t % n_y * _TILE + r, x, c],
            entry=2,
        )
        return _transform(
            "winograd_columns",
            _INPUT,
            (self._n * n_y, n_x, _READ, _READ, n_in),
            lambda t, x, e, _, c: lambda r: rows[t, x * _TILE + r, e, c],
            entry=3,
        )

    def image(self, products: te.Tensor, channels: int) -> te.Tensor:
        """Products `(6, 6, tiles, blocks, channels of a block)` transformed back:

        `(n, y, x, channels)`.
        """
        n_y, n_x, block = self._n_y, self.n_x, int(products.shape[4])
        rows_back = _transform(
            "winograd_rows_back",
            _OUTPUT,
            (self._n * n_y, n_x, _READ, _TILE, channels),
            lambda t, x, e, _, c: lambda r: products[r, e, t * n_x + x, c // block, c % block],
            entry=3,
        )
        shape = (self._n * n_y, _TILE, n_x, _TILE, channels)
        back = _transform(
            "winograd_columns_back",
            _OUTPUT,
            shape,
            lambda t, y, x, _, c: lambda r: rows_back[t, x, r, y, c],
            entry=3,
        )
        return te.compute(
            (self._n, *self._out, channels),
            lambda b, y, x, c: back[b * n_y + y // _TILE, y % _TILE, x // _TILE, x % _TILE, c],
            name="conv2d_nhwc",
        )


def winograd_conv2d(
    data: te.Tensor, weights: te.Tensor, channels: int, padding: Sequence[int]
) -> te.Tensor:
    """A 3x3 convolution of stride 1 that writes `(n, y, x, channels)`.

    Args:
        data: `(n, y, x, in)`.
        weights: transformed.
        channels: of the output.
        padding: top, left, bottom, right.
    """
    tiling = Tiling(data, padding)
    tiles, n_x = tiling.tiles(data), tiling.n_x
    n_in, blocks, block = int(data.shape[3]), *(int(weights.shape[i]) for i in (2, 4))
    rc = te.reduce_axis((0, n_in), name="rc")

    def product(y: Any, x: Any, t: Any, o: Any, i: Any) -> Any:
        return te.sum(tiles[t // n_x, t % n_x, y, x, rc] * weights[y, x, o, rc, i], axis=[rc])

    products = te.compute(
        (_READ, _READ, tiling.count, blocks, block),
        product,
        name="conv2d_winograd",
        attrs={"schedule_rule": WINOGRAD_PRODUCTS},
    )
    return tiling.image(products, channels)


def _transform(
    name: str,
    matrix: Sequence[Sequence[int]],
    shape: Sequence[int],
    column: Callable[..., Callable[[int], Any]],
    entry: int,
) -> te.Tensor:
    """A matrix times columns: along axis `entry` of the result runs the row of the matrix."""

    def value(*at: Any) -> Any:
        of = column(*at)
        result = _weighted(matrix[-1], of)
        for row in range(len(matrix) - 2, -1, -1):
            result = tirx.Select(at[entry] == row, _weighted(matrix[row], of), result)
        return result

    assert ENTRY_LOOPS[name] == entry
    return te.compute(tuple(shape), value, name=name, attrs={"schedule_rule": WINOGRAD_TRANSFORM})


def _weighted(weights: Sequence[int], value: Callable[[int], Any]) -> Any:
    """The sum of values times small whole numbers, without the multiplications by 0 and 1."""
    total: Any = None
    for at, weight in sorted(
        enumerate(weights), key=lambda item: item[1] < 0
    ):  # a positive one first
        if weight:
            term = (
                value(at)
                if abs(weight) == 1
                else value(at) * tirx.const(float(abs(weight)), "float32")
            )
            total = term if total is None else total + term if weight > 0 else total - term
    return total
