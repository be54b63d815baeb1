"""This project's own implementations of a layer, and which of them computes one.

A task's family carries an implementation's name. A name ends with the version of the function.
Raise it where the function changes, or how it is timed: trials of the old one would count for the
new one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from numpy.typing import NDArray
from tvm import te

from cprune_rl.compiler.kernels.block_sparse import (
    BlockSparseFormat,
    block_sparse_conv2d,
    block_sparse_dense,
    entry_strides,
)
from cprune_rl.compiler.kernels.packed_conv import (
    depthwise_conv2d,
    grouped_conv2d,
    pack,
    pack_depthwise,
    pack_grouped,
    packed_conv2d,
    packed_shape,
)
from cprune_rl.compiler.kernels.window import Window
from cprune_rl.compiler.kernels.winograd import (
    supports_winograd,
    transform_weights,
    transformed_weights_shape,
    winograd_conv2d,
)
from cprune_rl.compiler.kernels.winograd_sparse import (
    channel_table,
    pack_kernels,
    packed_kernels_shape,
    sparse_winograd_conv2d,
)
from cprune_rl.core.scheme import PATTERN_KERNEL, Scheme

__all__ = [
    "BLOCK_SPARSE",
    "PACKED",
    "SPARSE_WINOGRAD",
    "WINOGRAD",
    "Implementation",
    "Packing",
    "family_attribute",
    "implement_convolution",
    "implement_pruned_convolution",
    "implement_pruned_dense",
    "implementation_of",
]

PACKED = "packed1"
DEPTHWISE = "depthwise1"
GROUPED = "grouped1"
WINOGRAD = "winograd2"
BLOCK_SPARSE = "block3"
SPARSE_WINOGRAD = "winogradkernel1"

# The key in the text is 0.2's: cost caches hold it.
_ATTRIBUTE = re.compile(r"form=(\w+) from ")


def family_attribute(name: str, data_layout: str) -> str:
    """Write an implementation, and the layout of the map that it reads, as a family has them."""
    return f", form={name} from {data_layout}"


def implementation_of(family: str) -> str:
    """Read an implementation's name off a task's family; empty where the operator is TVM's own."""
    match = _ATTRIBUTE.search(family)
    return match[1] if match else ""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """An argument of an implementation that is computed from the layer's weights.

    Attributes:
        suffix: what its name adds to the weights' name.
        shape: of the argument.
        compute: the argument, from weights.
        dtype: None for that of the weights.
    """

    suffix: str
    shape: tuple[int, ...]
    compute: Callable[[NDArray[Any]], NDArray[Any]]
    dtype: str | None = None


@dataclass(frozen=True, kw_only=True)
class Implementation:
    """How a layer is computed.

    Attributes:
        name: as families carry it.
        function: what the function is called in a module.
        compute: the output, of the layer's input and packed arguments.
        packings: the packed arguments.
        prune: what keeps as many entries of any weights as the layer keeps; None of a dense layer.
    """

    name: str
    function: str
    compute: Callable[..., te.Tensor]
    packings: tuple[Packing, ...]
    prune: Callable[[NDArray[Any]], NDArray[Any]] | None = None


def implement_convolution(
    shape: tuple[int, ...],
    window: Window,
    *,
    n_channels: int,
    is_grouped: bool,
    lanes: int,
    uses_winograd: bool,
) -> Implementation:
    """Choose the implementation of a dense convolution that writes its map in NHWC.

    Args:
        shape: of its weights, `(out, in of a group, kh, kw)`.
        window: its geometry; one in groups reads its map in NHWC.
        n_channels: of the map that it reads.
        is_grouped: whether its channels go in groups.
        lanes: of a vector register.
        uses_winograd: whether Winograd's filtering is taken where it can be.
    """
    channels = shape[0]
    if is_grouped:
        is_depthwise = shape[1] == 1 and channels == n_channels
        return _grouped(shape, window, is_depthwise=is_depthwise)
    if uses_winograd and supports_winograd(window):
        return Implementation(
            name=WINOGRAD,
            function="conv2d_winograd",
            compute=partial(winograd_conv2d, channels=channels, padding=window.padding),
            packings=(
                Packing(
                    suffix="packed",
                    shape=transformed_weights_shape(shape, lanes),
                    compute=partial(transform_weights, lanes=lanes),
                ),
            ),
        )
    return Implementation(
        name=PACKED,
        function="conv2d_packed",
        compute=partial(packed_conv2d, channels=channels, window=window),
        packings=(
            Packing(
                suffix="packed",
                shape=packed_shape(shape, lanes),
                compute=partial(pack, lanes=lanes),
            ),
        ),
    )


def _grouped(shape: tuple[int, ...], window: Window, *, is_depthwise: bool) -> Implementation:
    out, n_in, *kernel = shape
    if is_depthwise:
        packed = Packing(suffix="packed", shape=(*kernel, out), compute=pack_depthwise)
        return Implementation(
            name=DEPTHWISE,
            function="depthwise_nhwc",
            compute=partial(depthwise_conv2d, window=window),
            packings=(packed,),
        )
    packed = Packing(suffix="packed", shape=(*kernel, n_in, out), compute=pack_grouped)
    return Implementation(
        name=GROUPED,
        function="grouped_nhwc",
        compute=partial(grouped_conv2d, window=window),
        packings=(packed,),
    )


def implement_pruned_convolution(
    shape: tuple[int, ...],
    window: Window,
    *,
    scheme: Scheme,
    map_shape: Sequence[int],
    uses_winograd: bool,
) -> Implementation:
    """Choose the implementation of a convolution that is pruned by a scheme.

    Args:
        shape: of its weights, `(out, in, kh, kw)`.
        window: its geometry.
        scheme: what it keeps.
        map_shape: of the map that it reads.
        uses_winograd: whether Winograd's filtering is taken where it can be.
    """
    blocks = _format_of(shape, scheme)
    if scheme.kind == "kernel" and uses_winograd and supports_winograd(window):
        return Implementation(
            name=SPARSE_WINOGRAD,
            function="conv2d_winograd_sparse",
            compute=partial(sparse_winograd_conv2d, channels=shape[0], padding=window.padding),
            packings=(
                Packing(
                    suffix="blocked",
                    shape=packed_kernels_shape(blocks),
                    compute=partial(pack_kernels, blocks=blocks),
                ),
                Packing(
                    suffix="offsets",
                    shape=(blocks.n_blocks, blocks.n_units),
                    compute=partial(channel_table, blocks=blocks),
                    dtype="int32",
                ),
            ),
            prune=blocks.prune_at_random,
        )
    return Implementation(
        name=BLOCK_SPARSE,
        function="conv2d_blocked",
        compute=partial(block_sparse_conv2d, channels=shape[0], window=window),
        packings=_sparse_packings(blocks, entry_strides(window, map_shape)),
        prune=blocks.prune_at_random,
    )


def implement_pruned_dense(shape: tuple[int, ...], scheme: Scheme) -> Implementation:
    """Choose the implementation of a fully connected layer that is pruned by a scheme.

    Args:
        shape: of its weights, `(out, in)`.
        scheme: what it keeps.
    """
    blocks = _format_of(shape, scheme)
    return Implementation(
        name=BLOCK_SPARSE,
        function="dense_blocked",
        compute=partial(block_sparse_dense, channels=shape[0]),
        packings=_sparse_packings(blocks, (1,)),
        prune=blocks.prune_at_random,
    )


def _format_of(shape: tuple[int, ...], scheme: Scheme) -> BlockSparseFormat:
    return BlockSparseFormat(
        shape=shape,
        block=min(scheme.block, shape[0]),
        n_kept=scheme.n_kept(math.prod(shape[1:])),
        unit=PATTERN_KERNEL if scheme.kind == "kernel" else 1,
    )


def _sparse_packings(blocks: BlockSparseFormat, strides: Sequence[int]) -> tuple[Packing, Packing]:
    return (
        Packing(
            suffix="blocked",
            shape=(blocks.n_blocks, blocks.n_kept, blocks.block),
            compute=blocks.pack,
        ),
        Packing(
            suffix="offsets",
            shape=(blocks.n_blocks, blocks.n_kept),
            compute=partial(blocks.offsets, strides=strides),
            dtype="int32",
        ),
    )
