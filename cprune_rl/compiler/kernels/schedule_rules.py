"""Schedule rules of this project's own kernels.

MetaSchedule's general rules find no good schedule for them, or only after many trials. A block
names its rule by the attribute `schedule_rule`, and MetaSchedule applies it in the place of its
own. What a rule samples is in the trace like any other decision, so schedules can be transferred
and mutated. Importing this module registers the rules.
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
]

# Functions and traces carry these names: cost caches hold them.
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
"""For each of Winograd's transforms, which loop runs over its entries."""

# Places, tiles, channels or blocks whose sums are held in registers at once.
_MOST_IN_REGISTERS = 8
# Rows, which multiply with those, and entries that one pass of the reduction takes.
_MOST_UNROLLED = 4
# Lanes of one vector: MetaSchedule's own limit.
_MOST_LANES = 64
# Lanes that fill any CPU's registers: an AVX-512 register holds 16.
_REGISTER_LANES = 16


def _transform(schedule: Any, block: Any) -> list[Any]:
    """Unroll the loop over a transform's entries.

    Each entry is another sum, told apart by a select that falls away only where the loop is
    unrolled. Scheduled as an elementwise operator, transforms would take most of a convolution's
    time. The post-processors vectorise and parallelise.
    """
    name = str(schedule.get(block).name_hint)
    _unroll(schedule, schedule.get_loops(block)[ENTRY_LOOPS[name]])
    return [schedule]


def _products(schedule: Any, block: Any) -> list[Any]:
    """Keep the sums of some tiles and blocks in registers while the input channels are read.

    MetaSchedule's own tiling splits the lanes as well. For blocks that read channels of their own,
    its best of 32 random schedules took twice as long as the best of 16 of these. For dense ones
    (64 channels, 8x8) it took 1.1 times as long.
    """
    y, x, t, o, i, k = schedule.get_loops(block)
    outer_t, inner_t = _sampled_split(schedule, t, _MOST_IN_REGISTERS)
    outer_o, inner_o = _sampled_split(schedule, o, _MOST_IN_REGISTERS)
    outer_k, inner_k = _sampled_split(schedule, k, _MOST_IN_REGISTERS)
    outer_i, lanes = _vector_split(schedule, i)
    sums = schedule.cache_write(block, 0, "global")
    schedule.reorder(y, x, outer_o, outer_i, outer_t, outer_k, inner_k, inner_o, inner_t, lanes)
    schedule.reverse_compute_at(sums, outer_t, preserve_unit_loops=True)
    _unroll(schedule, inner_k, inner_o, inner_t)
    return [schedule]


def _copy(schedule: Any, block: Any) -> list[Any]:
    """Split the row into the axes of the map again.

    What is copied from where is plain then, and the innermost axis is vectorised. MetaSchedule
    would inline the copy into the sums, where each read would ask again whether it is padding.
    """
    lengths = [int(v) for v in schedule.get(block).annotations["lengths"]]
    _, row = schedule.get_loops(block)
    schedule.split(row, lengths)
    return [schedule]


def _block_sparse_sums(schedule: Any, block: Any) -> list[Any]:
    """Keep the sums of some places and channels in registers while the kept entries are read.

    So an offset is read once for all of them. Lanes are the channels of a block in NHWC, and the
    places of a row in NCHW.
    """
    if str(schedule.get(block).name_hint).endswith("nchw"):
        n, o, i, y, x, k = schedule.get_loops(block)
        outer, inner = _sampled_split(schedule, i, _MOST_IN_REGISTERS)
        rows, row = _sampled_split(schedule, y, _MOST_UNROLLED)
        places, lanes = _sampled_split(schedule, x, _MOST_LANES)
        unrolled = (inner, row)
    else:
        n, y, x, o, i, k = schedule.get_loops(block)
        places, inner = _sampled_split(schedule, x, _MOST_IN_REGISTERS)
        rows, row = _sampled_split(schedule, y, _MOST_UNROLLED)
        outer, lanes = _vector_split(schedule, i)
        unrolled = (row, inner)
    outer_k, inner_k = _sampled_split(schedule, k, _MOST_UNROLLED)
    sums = schedule.cache_write(block, 0, "global")
    schedule.reorder(n, o, outer, rows, places, outer_k, inner_k, *unrolled, lanes)
    schedule.reverse_compute_at(sums, places, preserve_unit_loops=True)
    _unroll(schedule, inner_k, *unrolled)
    return [schedule]


def _sampled_split(schedule: Any, loop: Any, longest: int) -> Any:
    """Split a loop in two by a sampled decision; the inner one has at most this length."""
    return schedule.split(loop, schedule.sample_perfect_tile(loop, 2, longest))


def _vector_split(schedule: Any, loop: Any) -> Any:
    """Split the channels of a block so that the inner loop goes in one vector.

    Its length is a divisor that fills registers, and the longest of these.
    """
    length = int(schedule.get(loop).extent)
    divisors = [d for d in range(1, min(length, _MOST_LANES) + 1) if length % d == 0]
    lanes = max(divisors, key=lambda d: (math.gcd(d, _REGISTER_LANES), d))
    return schedule.split(loop, [length // lanes, lanes])


def _unroll(schedule: Any, *loops: Any) -> None:
    for loop in loops:
        schedule.unroll(loop)
        # An annotated loop is not fused into the vectorised one.
        schedule.annotate(loop, "pragma_unroll_explicit", 1)


_RULES = {
    WINOGRAD_TRANSFORM: _transform,
    WINOGRAD_PRODUCTS: _products,
    FLAT_COPY: _copy,
    BLOCK_SPARSE_SUMS: _block_sparse_sums,
}
for _name, _rule in _RULES.items():
    tvm_ffi.register_global_func(f"s_tir.meta_schedule.cpu.{_name}", _rule, override=True)
