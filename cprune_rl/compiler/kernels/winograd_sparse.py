"""Winograd's filtering where each block of output channels reads input channels of its own.

Pruning whole kernels saves no entry of a transformed image, but each of the 36 matrix products has
fewer terms. For a block of output channels a table says which input channels are left, and the
weights are transformed for these alone. Pruning single entries of a kernel would save nothing
here: the transform of a kernel is dense whatever they are. Tables are data, as in `block_sparse`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import te

from cprune_rl.compiler.kernels.block_sparse import BlockSparseFormat
from cprune_rl.compiler.kernels.schedule_rules import WINOGRAD_PRODUCTS
from cprune_rl.compiler.kernels.winograd import TRANSFORMED_SIZE, Tiling, transform_kernels

__all__ = ["channel_table", "pack_kernels", "packed_kernels_shape", "sparse_winograd_conv2d"]


def packed_kernels_shape(blocks: BlockSparseFormat) -> tuple[int, ...]:
    """Return the shape of transformed weights: `(6, 6, blocks, kept input channels, block)`.

    Args:
        blocks: of 3x3 kernels that are kept whole.
    """
    return (*TRANSFORMED_SIZE, blocks.n_blocks, blocks.n_units, blocks.block)


def pack_kernels(weights: NDArray[Any], blocks: BlockSparseFormat) -> NDArray[Any]:
    """Transform pruned weights `(out, in, 3, 3)` into `packed_kernels_shape`.

    Surplus channels are zero.
    """
    packed = blocks.pack(weights)
    kernels = packed.reshape(blocks.n_blocks, -1, *blocks.shape[2:], blocks.block)
    transformed = transform_kernels(kernels.transpose(0, 1, 4, 2, 3))
    return np.ascontiguousarray(transformed.transpose(3, 4, 0, 1, 2))


def channel_table(weights: NDArray[Any], blocks: BlockSparseFormat) -> NDArray[np.int32]:
    """Tell which input channels each block reads: `(blocks, kept input channels)`."""
    return blocks.kept_units(weights).astype(np.int32)


def sparse_winograd_conv2d(
    data: te.Tensor, weights: te.Tensor, table: te.Tensor, channels: int, padding: Sequence[int]
) -> te.Tensor:
    """Compute a 3x3 convolution of stride 1 that writes `(n, y, x, channels)`.

    Args:
        data: `(n, y, x, in)`.
        weights: transformed, in `packed_kernels_shape`.
        table: `(blocks, kept input channels)`.
        channels: of the output.
        padding: top, left, bottom, right.
    """
    tiling = Tiling(data, padding)
    n_blocks, n_kept, block = (int(d) for d in weights.shape[2:])
    k = te.reduce_axis((0, n_kept), name="k")

    def product(y: Any, x: Any, t: Any, o: Any, i: Any) -> Any:
        return te.sum(tiling.at(t, y, x, table[o, k]) * weights[y, x, o, k, i], axis=[k])

    products = te.compute(
        (*TRANSFORMED_SIZE, tiling.n_tiles, n_blocks, block),
        product,
        name="conv2d_winograd_sparse",
        attrs={"schedule_rule": WINOGRAD_PRODUCTS},
    )
    return tiling.image_of(products, channels)
