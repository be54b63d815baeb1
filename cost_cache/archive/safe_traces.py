"""What a schedule trace may hold: the instructions and annotations of our own, as plain JSON.

A schedule out of an archive is later applied to a task, compiled and run. A trace of TVM's could
then do more than move loops. An annotation can bring C or LLVM code into a function. An instruction
can replace a loop nest by any registered intrinsic, change a buffer's type unchecked, or leave out
the bounds of a split. So this lists what MetaSchedule's rules for processors and our own write, and
nothing else is taken.

Whether a schedule is fast or fits a task is not checked: both show where it is tried.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pydantic_core

__all__ = ["trace_problem"]

# TVM would load what stands in braces as an object of any type.
_NAME = re.compile(r'[A-Za-z_]\w*|"\w*"', re.ASCII)
_VARIABLE = re.compile(r"v\d+", re.ASCII)
_QUOTED = re.compile(r'"\w*"', re.ASCII)
_LARGEST = 2**31
# Of a tile: transferring a schedule goes through all splits of a loop into as many.
_MAX_FACTORS = 8
_SHOWN = 60


def trace_problem(text: str) -> str | None:
    """What is wrong with a schedule trace; None where nothing is.

    Args:
        text: `[instructions, decisions]` as JSON, or `[]` for what was timed without a schedule.
    """
    try:
        trace = pydantic_core.from_json(text, allow_inf_nan=False)
    except (ValueError, TypeError) as error:  # TypeError: half of a surrogate pair
        return f"no JSON: {error}"
    if trace == []:
        return None
    if not _are_lists(trace, 2):
        return "no schedule trace, which is [instructions, decisions]"
    instructions, decisions = trace
    for at, instruction in enumerate(instructions):
        if problem := _instruction_problem(instruction):
            return f"instruction {at}: {problem}"
    return _decisions_problem(instructions, decisions)


def _instruction_problem(instruction: Any) -> str | None:
    if (
        not isinstance(instruction, list)
        or len(instruction) != 4
        or not _are_lists(instruction[1:], 3)
    ):
        return "it is not [kind, inputs, attributes, outputs]"
    kind, inputs, attributes, outputs = instruction
    if not isinstance(kind, str) or kind not in _KINDS:
        return f"{_short(kind)} is not among the schedule instructions that a trace may have"
    for value in (*_flat(inputs), *outputs):
        if not _is_number(value) and not (isinstance(value, str) and _NAME.fullmatch(value)):
            return f"{kind} names {_short(value)}, which is no block, loop, number or word"
    for value in _flat(attributes):
        if not _is_number(value) and not isinstance(value, str):
            return f"{kind} has the attribute {_short(value)}, which is no number or text"
    if kind in ("Annotate", "Unannotate"):
        return _annotation_problem(kind, inputs, attributes)
    if not _KINDS[kind](attributes):
        return f"{kind} may not have the attributes {_short(attributes)}"
    return None


def _annotation_problem(kind: str, inputs: Sequence[Any], attributes: Sequence[Any]) -> str | None:
    key = attributes[0] if len(attributes) == 1 else attributes
    if not isinstance(key, str) or key not in _ANNOTATIONS:
        return f"{kind}: {_short(key)} is not among the annotations that a trace may have"
    if kind == "Annotate" and not _ANNOTATIONS[key](inputs[1] if len(inputs) == 2 else None):
        return f"Annotate: {key} may not be {_short(inputs[1:])}"
    return None


def _decisions_problem(instructions: Sequence[Any], decisions: Sequence[Any]) -> str | None:
    """Each sampling instruction is decided once.

    TVM finds one that is undecided, or decided as no sampler would, only where it is applied.
    """
    undecided = {at for at, (kind, *_) in enumerate(instructions) if kind.startswith("Sample")}
    for decision in decisions:
        if (
            not isinstance(decision, list)
            or len(decision) != 2
            or not _is_whole(decision[0])
            or decision[0] not in undecided
        ):
            return f"decision {_short(decision)} belongs to no instruction that is undecided"
        at, value = decision
        undecided.remove(at)
        if not _is_decision(instructions[at], value):
            return f"instruction {at}: {instructions[at][0]} cannot be decided as {_short(value)}"
    if undecided:
        first = min(undecided)
        return f"instruction {first}: {instructions[first][0]} has no decision"
    return None


def _is_decision(instruction: Sequence[Any], value: Any) -> bool:
    kind, _, attributes, _ = instruction
    if kind == "SamplePerfectTile":
        return (
            isinstance(value, list)
            and len(value) == attributes[0]
            and all(_is_count(f) for f in value)
        )
    if kind == "SampleCategorical":
        return _is_whole(value) and 0 <= value < len(attributes[0])
    return _is_whole(value) and -2 <= value < _LARGEST  # -1: at the root; -2: inlined


def _flat(values: Sequence[Any]) -> list[Any]:
    """Values, and those in lists among them. What is nested deeper stays a list and is refused."""
    return [inner for value in values for inner in (value if isinstance(value, list) else [value])]


def _are_lists(value: Any, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(part, list) for part in value)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) and abs(value) < _LARGEST


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_whole(value) and 1 <= value < _LARGEST


def _short(value: Any) -> str:
    return repr(value)[:_SHOWN]


def _anything(_: Sequence[Any]) -> bool:
    return True


def _is_tile(attributes: Sequence[Any]) -> bool:
    """Whether these are a number of factors, and the largest innermost one."""
    return (
        len(attributes) == 2
        and all(_is_count(a) for a in attributes)
        and attributes[0] <= _MAX_FACTORS
    )


def _are_categories(attributes: Sequence[Any]) -> bool:
    return _are_lists(attributes, 2) and all(_is_whole(v) and v >= 0 for v in attributes[0])


def _is_bounded_split(attributes: Sequence[Any]) -> bool:
    """Whether the split gets bounds where its factors do not divide the loop."""
    return len(attributes) == 2 and attributes[1] is False


def _is_quoted(value: Any) -> bool:
    return isinstance(value, str) and _QUOTED.fullmatch(value) is not None


def _is_unrolling(value: Any) -> bool:
    """Whether this is a number of steps, or the variable that samples it.

    TVM's post-processor runs for ever on anything else.
    """
    if isinstance(value, str):
        return _VARIABLE.fullmatch(value) is not None
    return _is_whole(value) and 0 <= value < _LARGEST


# Each kind of instruction, with a check of its attributes.
_KINDS: dict[str, Callable[[Sequence[Any]], bool]] = {
    "Annotate": _anything,
    "CacheWrite": lambda attributes: attributes[1:] == ["global"],  # a processor's only memory
    "ComputeAt": _anything,
    "ComputeInline": _anything,
    "Fuse": _anything,
    "GetBlock": _anything,  # in caches of 0.1.0
    "GetConsumers": _anything,
    "GetLoops": _anything,
    "GetProducers": _anything,
    "GetSBlock": _anything,
    "RFactor": _anything,
    "Reorder": _anything,
    "ReverseComputeAt": _anything,
    "SampleCategorical": _are_categories,
    "SampleComputeLocation": _anything,
    "SamplePerfectTile": _is_tile,
    "Split": _is_bounded_split,
    "Unannotate": _anything,
    "Unroll": _anything,
}
# Each annotation, with a check of its value.
_ANNOTATIONS: dict[str, Callable[[Any], bool]] = {
    "meta_schedule.parallel": _is_count,
    "meta_schedule.random_compute_producer": _is_count,
    "meta_schedule.tiling_structure": _is_quoted,
    "meta_schedule.unroll_explicit": _is_unrolling,
    "meta_schedule.vectorize": _is_count,
    "pragma_unroll_explicit": _is_whole,  # of Winograd's transforms
}
