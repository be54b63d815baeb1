"""Operators of an imported function, rewritten where they would be in the way further on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from tvm import relax
from tvm.relax.dpl import is_const, is_op, rewrite_call, wildcard

from cprune_rl.compiler.export.fused_calls import scalar

__all__ = ["simplify_operators"]


def simplify_operators(function: relax.Function) -> relax.Function:
    """Rewrite some operators of an imported function.

    - `clip` becomes a maximum and a minimum. It has no layout rule of its own, and would be hemmed
      in by transposes.
    - `take` of one constant index becomes a slice. The index would be an argument of a task, and
      be timed with any number.
    - `split` becomes slices, so that each subgraph has one result.
    """
    value = wildcard()
    low = wildcard()
    high = wildcard()
    index = is_const()

    def bounded(_: Any, matched: Any) -> Any:
        dtype = matched[value].ty.dtype
        floor, ceiling = (
            relax.const(float(getattr(bound, "value", bound)), dtype)
            for bound in (matched[low], matched[high])
        )
        return relax.op.minimum(relax.op.maximum(matched[value], floor), ceiling)

    def taken(call: Any, matched: Any) -> Any:
        if call.attrs.axis is None or len(matched[index].ty.shape):
            return call
        axis = int(call.attrs.axis)
        at = int(scalar(matched[index]))
        if at < 0:
            at += int(matched[value].ty.shape[axis])
        return relax.op.squeeze(_slice(matched[value], axis, at, at + 1), [axis])

    def parted(call: Any, matched: Any) -> Any:
        axis = int(call.attrs.axis)
        sections = call.attrs.indices_or_sections
        length = int(matched[value].ty.shape[axis])
        if isinstance(sections, Iterable):
            starts = [0, *map(int, sections)]
        else:
            starts = list(range(0, length, -(-length // int(sections))))
        bounds = itertools.pairwise([*starts, length])
        return relax.Tuple([_slice(matched[value], axis, *pair) for pair in bounds])

    function = rewrite_call(is_op("relax.clip")(value, low, high), bounded, function)
    function = rewrite_call(is_op("relax.take")(value, index), taken, function)
    return rewrite_call(is_op("relax.split")(value), parted, function)


def _slice(value: Any, axis: int, first: int, end: int) -> Any:
    return relax.op.strided_slice(value, [axis], [first], [end])
