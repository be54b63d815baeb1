"""Winograd's filtering of layers whose blocks of output channels each read input channels of their
own.

Where whole kernels go, a transformed image needs no entry less, but each of the 36 matrix products
has fewer terms: for a
block of output channels a table says which input channels are left, and the transformed weights are
those of these alone.
Single entries of a kernel are no saving here, because its transform is dense whatever they are.
Tables are data, as those
of `block_sparse` are. Called by `rebuild`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import te

from cprune_rl.compiler.kernels.block_sparse import BlockSparseFormat
from cprune_rl.compiler.kernels.schedule_rules import WINOGRAD_PRODUCTS
from cprune_rl.compiler.kernels.winograd import Tiling, transform_kernels

__all__ = ["pack_kernels", "packed_kernels_shape", "sparse_winograd_conv2d"]


def packed_kernels_shape(blocks: BlockSparseFormat) -> tuple[int, ...]:
    """Shape of transformed weights, `(6, 6, blocks, kept input channels, block)`.

    Args:
        blocks: of 3x3 kernels that are kept whole.
    """
    return (*Tiling.transformed_kernel, blocks.count, blocks.n_units, blocks.block)


def pack_kernels(weights: NDArray[Any], blocks: BlockSparseFormat) -> NDArray[Any]:
    """Pruned weights `(out, in, 3, 3)` as `packed_kernels_shape` has them, surplus channels zero."""
    kernels = blocks.pack(weights).reshape(blocks.count, -1, *blocks.shape[2:], blocks.block)
    return np.ascontiguousarray(
        transform_kernels(kernels.transpose(0, 1, 4, 2, 3)).transpose(3, 4, 0, 1, 2)
    )


def sparse_winograd_conv2d(
    data: te.Tensor, weights: te.Tensor, table: te.Tensor, channels: int, padding: Sequence[int]
) -> te.Tensor:
    """A 3x3 convolution of stride 1 that writes `(n, y, x, channels)`.

    Args:
        data: `(n, y, x, in)`.
        weights: transformed, see `packed_kernels_shape`.
        table: `(blocks, kept input channels)`, which those are.
        channels: of the output.
        padding: top, left, bottom, right.
    """
    tiling = Tiling(data, padding)
    tiles, n_x = tiling.tiles(data), tiling.n_x
    n_blocks, n_kept, block = (int(d) for d in weights.shape[2:])
    k = te.reduce_axis((0, n_kept), name="k")

    def product(y: Any, x: Any, t: Any, o: Any, i: Any) -> Any:
        return te.sum(
            tiles[t // n_x, t % n_x, y, x, table[o, k]] * weights[y, x, o, k, i], axis=[k]
        )

    products = te.compute(
        (*Tiling.transformed_kernel, tiling.count, n_blocks, block),
        product,
        name="conv2d_winograd_sparse",
        attrs={"schedule_rule": WINOGRAD_PRODUCTS},
    )
    return tiling.image(products, channels)
