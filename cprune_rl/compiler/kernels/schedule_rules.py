"""Schedule rules of our own functions, where MetaSchedule's general ones find no good program, or
only after many trials.

A block names its rule by the attribute `schedule_rule`; MetaSchedule applies it in the place of its
own. What a rule samples is in the
program's trace like any other decision, so that programs carry over and evolve. Importing this
module registers the rules.
"""

from __future__ import annotations

import math
from typing import Any

import tvm_ffi

__all__ = [
    "BLOCK_SPARSE_SUMS",
    "ENTRY_LOOPS",
    "FLAT_COPY",
    "WINOGRAD_PRODUCTS",
    "WINOGRAD_TRANSFORM",
    "lanes_in",
]

WINOGRAD_TRANSFORM = "cprune_rl_winograd_transform"
WINOGRAD_PRODUCTS = "cprune_rl_winograd_products"
FLAT_COPY = "cprune_rl_flat_copy"
BLOCK_SPARSE_SUMS = "cprune_rl_blocked_sums"
ENTRY_LOOPS = {
    "winograd_rows": 2,
    "winograd_columns": 3,
    "winograd_rows_back": 3,
    "winograd_columns_back": 3,
}
"""Of each of Winograd's transforms which loop runs over its entries."""
# places, tiles, channels or blocks whose sums are held in registers at once, or entries that one
# pass of the loop takes
_MOST = 8
_LONGEST = 64  # lanes of one vector, as MetaSchedule has it


def lanes_in(block: int) -> int:
    """Channels of a block that go in one vector: a divisor that fills registers, a long one."""
    return max(
        (d for d in range(1, min(block, _LONGEST) + 1) if block % d == 0),
        key=lambda d: (math.gcd(d, 16), d),
    )


def _transform(schedule: Any, block: Any) -> list[Any]:
    """Unrolls the loop over a transform's entries;

    vectorising and parallelising are left to the post-processors.

    Scheduled as an elementwise operator, a transform would take most of the time of a convolution:
    each entry is another sum, told
    apart by a select that falls away only where its loop is unrolled.
    """
    loop = schedule.get_loops(block)[ENTRY_LOOPS[str(schedule.get(block).name_hint)]]
    schedule.unroll(loop)
    schedule.annotate(
        loop, "pragma_unroll_explicit", 1
    )  # an annotated loop is not fused into the vectorised one
    return [schedule]


def _products(schedule: Any, block: Any) -> list[Any]:
    """Sums of some tiles and blocks stay in registers while the kept channels are gone through.

    MetaSchedule's own tiling splits the lanes as well: of the products of blocks that read channels
    of their own its best of 32 random
    programs took twice as long as the best of 16 of these, of dense ones (64 channels, 8x8) 1.1
    times.
    """
    y, x, t, o, i, k = schedule.get_loops(block)
    outer_t, inner_t = schedule.split(t, schedule.sample_perfect_tile(t, 2, _MOST))
    outer_o, inner_o = schedule.split(o, schedule.sample_perfect_tile(o, 2, _MOST))
    outer_k, inner_k = schedule.split(k, schedule.sample_perfect_tile(k, 2, _MOST))
    block_size = int(schedule.get(i).extent)
    lanes = lanes_in(block_size)
    outer_i, inner_i = schedule.split(i, [block_size // lanes, lanes])
    sums = schedule.cache_write(block, 0, "global")
    schedule.reorder(y, x, outer_o, outer_i, outer_t, outer_k, inner_k, inner_o, inner_t, inner_i)
    schedule.reverse_compute_at(sums, outer_t, preserve_unit_loops=True)
    for loop in (inner_k, inner_o, inner_t):
        schedule.unroll(loop)
        schedule.annotate(
            loop, "pragma_unroll_explicit", 1
        )  # an annotated loop is not fused into the vectorised one
    return [schedule]


def _copy(schedule: Any, block: Any) -> list[Any]:
    """Splits the row into the axes of the map again:

    what is copied from where is plain then, and the innermost axis is vectorised.

    MetaSchedule would write the copy into the sums, where each read would ask anew whether it is
    padding.
    """
    lengths = [int(v) for v in schedule.get(block).annotations["lengths"]]
    _, row = schedule.get_loops(block)
    schedule.split(row, lengths)
    return [schedule]


def _sums(schedule: Any, block: Any) -> list[Any]:
    """Sums of some places and channels stay in registers while the kept entries are gone through,
    so that an offset is read once for all of them.

    Lanes are the channels of a block where maps are in NHWC, the places of a row in NCHW.
    """
    if str(schedule.get(block).name_hint).endswith("nchw"):
        n, o, i, y, x, k = schedule.get_loops(block)
        outer, inner = schedule.split(i, schedule.sample_perfect_tile(i, 2, _MOST))
        rows, row = schedule.split(y, schedule.sample_perfect_tile(y, 2, _MOST // 2))
        places, lanes = schedule.split(x, schedule.sample_perfect_tile(x, 2, _LONGEST))
        outermost, held = (n, o, outer, rows, places), (inner, row)
    else:
        n, y, x, o, i, k = schedule.get_loops(block)
        places, inner = schedule.split(x, schedule.sample_perfect_tile(x, 2, _MOST))
        rows, row = schedule.split(y, schedule.sample_perfect_tile(y, 2, _MOST // 2))
        lanes_of = lanes_in(int(schedule.get(i).extent))
        outer, lanes = schedule.split(i, [int(schedule.get(i).extent) // lanes_of, lanes_of])
        outermost, held = (n, o, outer, rows, places), (row, inner)
    outer_k, inner_k = schedule.split(k, schedule.sample_perfect_tile(k, 2, _MOST // 2))
    sums = schedule.cache_write(block, 0, "global")
    schedule.reorder(*outermost, outer_k, inner_k, *held, lanes)
    schedule.reverse_compute_at(sums, outermost[-1], preserve_unit_loops=True)
    for loop in (inner_k, *held):
        schedule.unroll(loop)
        schedule.annotate(
            loop, "pragma_unroll_explicit", 1
        )  # an annotated loop is not fused into the vectorised one
    return [schedule]


for _name, _rule in (
    (WINOGRAD_TRANSFORM, _transform),
    (WINOGRAD_PRODUCTS, _products),
    (FLAT_COPY, _copy),
    (BLOCK_SPARSE_SUMS, _sums),
):
    tvm_ffi.register_global_func(f"s_tir.meta_schedule.cpu.{_name}", _rule, override=True)
