"""3x3 convolutions by Winograd's minimal filtering, F(4x4, 3x3).

It needs 36 multiplications where the direct algorithm needs 144. An image is cut into tiles of 4x4
outputs (Lavin and Gray, CVPR 2016), each of which reads 6x6 inputs. The inputs are transformed by
rows, then by columns. A batch of 36 small matrix products takes the place of the convolution, and
the products are transformed back. Weights are transformed once, at build time, and packed for the
vector unit as in `packed_conv`. Values differ from the direct algorithm's by some millionths of
the largest one.

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
from cprune_rl.compiler.kernels.window import Window

__all__ = [
    "TRANSFORMED_SIZE",
    "Tiling",
    "supports_winograd",
    "transform_kernels",
    "transform_weights",
    "transformed_weights_shape",
    "winograd_conv2d",
]

_TILE = 4  # outputs of a tile, each way
_READ = _TILE + 2  # inputs that they read
TRANSFORMED_SIZE = (_READ, _READ)
"""Height and width of a transformed kernel, and of a transformed tile."""

# Matrices of F(4, 3), for the points 0, 1, -1, 2, -2 and infinity: Lavin and Gray, section 4.3.
_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_OUTPUT = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)
_WEIGHTS = np.array(((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))) / 24


def supports_winograd(window: Window) -> bool:
    """Whether a convolution can be computed this way."""
    is_dense = set(window.stride) == set(window.dilation) == {1}
    return window.layout == "NHWC" and window.kernel == (3, 3) and is_dense


def transformed_weights_shape(shape: Sequence[int], lanes: int) -> tuple[int, ...]:
    """Return the shape of transformed weights.

    Args:
        shape: `(out, in, 3, 3)`.
        lanes: of a vector register.
    """
    block = block_size(shape[0], lanes)
    return (*TRANSFORMED_SIZE, math.ceil(shape[0] / block), shape[1], block)


def transform_weights(weights: NDArray[Any], lanes: int) -> NDArray[Any]:
    """Bring weights `(out, in, 3, 3)` into `transformed_weights_shape`; surplus lanes are zero."""
    rows, columns, blocks, n_in, block = transformed_weights_shape(weights.shape, lanes)
    filled = np.zeros((rows, columns, blocks * block, n_in), weights.dtype)
    filled[:, :, : len(weights)] = transform_kernels(weights).transpose(2, 3, 0, 1)
    in_blocks = filled.reshape(rows, columns, blocks, block, n_in)
    return np.ascontiguousarray(in_blocks.transpose(0, 1, 2, 4, 3))


def transform_kernels(kernels: NDArray[Any]) -> NDArray[Any]:
    """Bring kernels `(..., 3, 3)` into what the products multiply by, `(..., 6, 6)`."""
    values: NDArray[Any] = _WEIGHTS @ kernels.astype(np.float64) @ _WEIGHTS.T
    return values.astype(kernels.dtype)


class Tiling:
    """How an image is cut into tiles.

    Args:
        data: `(n, y, x, in)`.
        padding: top, left, bottom, right.

    Attributes:
        n_tiles: of all images.
    """

    def __init__(self, data: te.Tensor, padding: Sequence[int]) -> None:
        n, height, width, n_in = (int(d) for d in data.shape)
        top, left, bottom, right = padding
        out_y = height + top + bottom - 2
        out_x = width + left + right - 2
        self._n_y = math.ceil(out_y / _TILE)
        self._n_x = math.ceil(out_x / _TILE)
        self._out_shape = (n, out_y, out_x)
        self._n_rows = n * self._n_y
        self.n_tiles = self._n_rows * self._n_x
        filled_y = self._n_y * _TILE - out_y + bottom
        filled_x = self._n_x * _TILE - out_x + right
        image = topi.nn.pad(
            data,
            (0, top, left, 0),
            (0, filled_y, filled_x, 0),
            tirx.const(0, data.dtype),
            name="pad",
        )
        n_y = self._n_y
        rows = _transform(
            "winograd_rows",
            matrix=_INPUT,
            shape=(self._n_rows, self._n_x * _TILE + 2, _READ, n_in),
            read=lambda r, t, x, _, c: image[t // n_y, t % n_y * _TILE + r, x, c],
        )
        # (images times tiles in a column, tiles in a row, 6, 6, in)
        self._tiles = _transform(
            "winograd_columns",
            matrix=_INPUT,
            shape=(self._n_rows, self._n_x, _READ, _READ, n_in),
            read=lambda r, t, x, e, _, c: rows[t, x * _TILE + r, e, c],
        )

    def at(self, tile: Any, y: Any, x: Any, channel: Any) -> Any:
        """Read an entry of a transformed tile."""
        return self._tiles[tile // self._n_x, tile % self._n_x, y, x, channel]

    def image_of(self, products: te.Tensor, channels: int) -> te.Tensor:
        """Transform products `(6, 6, tiles, blocks, channels of a block)` back.

        Returns:
            `(n, y, x, channels)`.
        """
        n_y = self._n_y
        n_x = self._n_x
        block = int(products.shape[4])
        rows = _transform(
            "winograd_rows_back",
            matrix=_OUTPUT,
            shape=(self._n_rows, n_x, _READ, _TILE, channels),
            read=lambda r, t, x, e, _, c: products[r, e, t * n_x + x, c // block, c % block],
        )
        tiles = _transform(
            "winograd_columns_back",
            matrix=_OUTPUT,
            shape=(self._n_rows, _TILE, n_x, _TILE, channels),
            read=lambda r, t, y, x, _, c: rows[t, x, r, y, c],
        )
        return te.compute(
            (*self._out_shape, channels),
            lambda b, y, x, c: tiles[b * n_y + y // _TILE, y % _TILE, x // _TILE, x % _TILE, c],
            name="conv2d_nhwc",
        )


def winograd_conv2d(
    data: te.Tensor, weights: te.Tensor, channels: int, padding: Sequence[int]
) -> te.Tensor:
    """Compute a 3x3 convolution of stride 1 that writes `(n, y, x, channels)`.

    Args:
        data: `(n, y, x, in)`.
        weights: transformed.
        channels: of the output.
        padding: top, left, bottom, right.
    """
    tiling = Tiling(data, padding)
    _, _, n_blocks, n_in, block = (int(d) for d in weights.shape)
    rc = te.reduce_axis((0, n_in), name="rc")
    products = te.compute(
        (*TRANSFORMED_SIZE, tiling.n_tiles, n_blocks, block),
        lambda y, x, t, o, i: te.sum(tiling.at(t, y, x, rc) * weights[y, x, o, rc, i], axis=[rc]),
        name="conv2d_winograd",
        attrs={"schedule_rule": WINOGRAD_PRODUCTS},
    )
    return tiling.image_of(products, channels)


def _transform(
    name: str,
    *,
    matrix: Sequence[Sequence[int]],
    shape: Sequence[int],
    read: Callable[..., Any],
) -> te.Tensor:
    """Multiply columns by a matrix.

    Args:
        name: of the block; `ENTRY_LOOPS` has the axis of the result that runs over the rows of
            the matrix.
        matrix: of small whole numbers.
        shape: of the result.
        read: reads an entry of a column, of its row and the place in the result.
    """
    entry = ENTRY_LOOPS[name]

    def value(*place: Any) -> Any:
        def weighted_sum(row: int) -> Any:
            return _weighted_sum(matrix[row], lambda r: read(r, *place))

        result = weighted_sum(-1)
        for row in reversed(range(len(matrix) - 1)):
            result = tirx.Select(place[entry] == row, weighted_sum(row), result)
        return result

    return te.compute(tuple(shape), value, name=name, attrs={"schedule_rule": WINOGRAD_TRANSFORM})


def _weighted_sum(weights: Sequence[int], read: Callable[[int], Any]) -> Any:
    """Sum values times small whole numbers, without the multiplications by 0 and 1.

    One of the weights is positive.
    """
    total: Any = None
    # Positive ones first: so no term needs its sign turned.
    for at, weight in sorted(enumerate(weights), key=lambda item: item[1] < 0):
        if not weight:
            continue
        term = read(at)
        if abs(weight) != 1:
            term = term * tirx.const(float(abs(weight)), "float32")
        if total is None:
            total = term
        elif weight > 0:
            total = total + term
        else:
            total = total - term
    return total
