"""Schedules of tasks: their traces, drawn at random, mutated, and transferred to other shapes.

A schedule is kept as TVM's JSON form of its trace, without the post-processors. These run again
wherever it is applied; without them nothing is vectorised or unrolled, which costs a factor of 10.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import tvm
from tvm.s_tir import Schedule, Trace
from tvm.s_tir import meta_schedule as ms

from cprune_rl.compiler.devices.target import load_cpu_intrinsics
from cprune_rl.compiler.export.block_names import rename_traced_blocks

__all__ = [
    "Candidate",
    "ScheduleTrace",
    "apply_schedule",
    "mutate",
    "random_candidates",
    "transfer_schedule",
]

_apply_mutator = tvm.get_global_func("s_tir.meta_schedule.MutatorApply")
# Of schedules that follow a trace: a decision that the trace leaves open is drawn alike each time.
_SEED = 1
_MUTATIONS = (0.8, 0.1, 0.1)  # chance of a tile, an unrolling, a location
# Packed convolutions loop over (n, y, x, block, lane), Winograd's over (row, column, tile, block,
# lane).
_CHANNEL_LOOPS = {"NCHW": 1, "NHWC": 3}


@dataclass(frozen=True)
class ScheduleTrace:
    """The trace of a schedule, independent of the process that found it.

    Attributes:
        json: `[instructions, decisions]`, as `tvm.s_tir.Trace.as_json` gives them. An instruction
            is `[kind, inputs, attributes, outputs]`, a decision `[position of its instruction,
            value]`.
    """

    json: str

    @staticmethod
    def from_tvm(trace: Any) -> ScheduleTrace:
        """Take one of TVM's traces; its post-processors are left out."""
        return ScheduleTrace(json.dumps(_plain(trace.as_json(remove_postproc=True))))

    @property
    def digest(self) -> str:
        """Names the schedule in the cost cache."""
        return hashlib.sha256(self.json.encode()).hexdigest()[:20]

    def tile_factors(self, layout: str = "NCHW") -> tuple[int, ...]:
        """Read off how the output-channel loop is split.

        Multi-level tiling takes all loops of a block at once (`GetLoops`) and samples a split for
        each (`SamplePerfectTile`), so the loop of a split is known without guessing by name.

        Args:
            layout: of the maps: where the channel loop is. In NHWC it runs over the blocks of
                packed channels.

        Returns:
            The factors, outermost first; empty where the trace does not tile the loop.
        """
        instructions, decisions = json.loads(self.json)
        decision_at = {int(position): value for position, value in decisions}
        channel_loops: set[str] = set()
        for position, (kind, inputs, _, outputs) in enumerate(instructions):
            if kind == "GetLoops":
                at = _CHANNEL_LOOPS[layout] if len(outputs) > 3 else 1
                channel_loops.update(outputs[at : at + 1])
            elif kind == "SamplePerfectTile" and inputs[0] in channel_loops:
                return tuple(int(factor) for factor in decision_at[position])
        return ()


@dataclass(frozen=True)
class Candidate:
    """A schedule applied to a task: what a trial builds.

    Attributes:
        trace: with decisions that fit this task.
        module: the scheduled function.
    """

    trace: ScheduleTrace
    module: tvm.IRModule


def random_candidates(
    module: tvm.IRModule, target: tvm.target.Target, count: int, seed: int
) -> list[Candidate]:
    """Draw schedules at random from MetaSchedule's design space.

    Args:
        module: one function named `main`.
        target: what it will run on.
        count: how many to draw; fewer come back where the space is smaller.
        seed: same seed, same schedules.
    """
    if count <= 0:
        return []
    context = _context(module, target, seed)
    context.pre_tuning(count, count)
    drawn = [
        Candidate(ScheduleTrace.from_tvm(candidate.sch.trace), candidate.sch.mod)
        for candidate in context.generate_measure_candidates() or []
    ]
    return list({candidate.trace.digest: candidate for candidate in drawn}.values())


def mutate(
    parents: Sequence[Candidate],
    module: tvm.IRModule,
    target: tvm.target.Target,
    *,
    count: int,
    seed: int,
) -> list[Candidate]:
    """Draw schedules that differ from good ones in a tile, an unrolling or a block's location.

    Args:
        parents: best first; the better of two drawn at random is changed.
        module: the task.
        target: what it will run on.
        count: how many are drawn; those that do not fit the task are left out.
        seed: same seed, same schedules.
    """
    context = _context(module, target, seed)
    mutators = [
        ms.mutator.MutateTileSize(),
        ms.mutator.MutateUnroll(),
        ms.mutator.MutateComputeLocation(),
    ]
    for mutator in mutators:
        mutator._initialize_with_tune_context(context)
    rng = np.random.default_rng(seed)
    traces = [_follow(json.loads(parent.trace.json), module).trace for parent in parents]
    mutants = []
    for _ in range(count):
        trace = traces[int(rng.integers(len(traces), size=2).min())]
        mutator = mutators[int(rng.choice(len(mutators), p=_MUTATIONS))]
        # Mutator.apply would draw from the machine's entropy.
        mutated = _apply_mutator(mutator, trace, int(rng.integers(1, 2**31)))
        candidate = None if mutated is None else _apply_mutated(mutated, module, target)
        if candidate is not None:
            mutants.append(candidate)
    return mutants


def transfer_schedule(
    trace: ScheduleTrace, module: tvm.IRModule, target: tvm.target.Target
) -> Candidate | None:
    """Apply a schedule to another shape of its family.

    Its perfect-tile decisions move to the nearest splits of the new loop lengths, inner factors
    weighing most.

    Returns:
        The candidate, or None where the trace does not fit the new function.
    """
    sch = _transferred(trace, module)
    return None if sch is None else _postprocess(sch, module, target)


def apply_schedule(
    trace: ScheduleTrace, module: tvm.IRModule, target: tvm.target.Target
) -> Schedule:
    """Schedule a function by a trace that was found for it.

    Raises:
        ValueError: the trace does not belong to this function.
    """
    sch = _transferred(trace, module)
    if sch is None or _postprocess(sch, module, target) is None:
        raise ValueError("the schedule does not belong to this function")
    return sch


def _plain(value: Any) -> Any:
    """Turn TVM's containers and numbers into JSON's."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    if isinstance(value, tvm.tirx.FloatImm):
        return float(value.value)
    if isinstance(value, tvm.tirx.IntImm):
        return int(value)
    return [_plain(v) for v in value]


def _context(module: tvm.IRModule, target: tvm.target.Target, seed: int) -> Any:
    load_cpu_intrinsics()
    return ms.TuneContext(
        mod=module,
        target=target,
        space_generator="post-order-apply",
        search_strategy=ms.search_strategy.ReplayTrace(),
        num_threads=1,
        rand_state=seed,
    )


def _follow(trace: Sequence[Any], module: tvm.IRModule) -> Schedule:
    """Apply a trace to a function, its decisions as they stand."""
    sch = Schedule(module, seed=_SEED)
    Trace.apply_json_to_schedule(trace, sch)
    return sch


def _apply_mutated(
    trace: Trace, module: tvm.IRModule, target: tvm.target.Target
) -> Candidate | None:
    try:
        sch = Schedule(module, seed=_SEED)
        trace.apply_to_schedule(sch, remove_postproc=True)
        return _postprocess(sch, module, target)
    except RuntimeError:
        return None  # the changed decision does not go with the others


def _transferred(trace: ScheduleTrace, module: tvm.IRModule) -> Schedule | None:
    """Apply a trace, its tiles moved to the function's lengths; None where it does not fit."""
    try:
        instructions, decisions = json.loads(trace.json)
        instructions = rename_traced_blocks(instructions)
        tiles = iter(
            [
                tuple(int(factor) for factor in value)
                for position, value in decisions
                if instructions[position][0] == "SamplePerfectTile"
            ]
        )
        draft = _follow([instructions, decisions], module)
        sch = Schedule(module, seed=_SEED)

        def decide(instruction: Any, inputs: Any, attributes: Any, decision: Any) -> Any:
            if instruction.kind.name != "SamplePerfectTile":
                return decision
            length = int(sch.get(inputs[0]).extent)
            return _nearest_split(next(tiles), length, int(attributes[1]))

        draft.trace.apply_to_schedule(sch, remove_postproc=True, decision_provider=decide)
    # The trace names a block, a loop or an annotation that this function lacks, or is no trace.
    except (RuntimeError, ValueError, TypeError, LookupError):
        return None
    return sch


def _postprocess(
    sch: Schedule, module: tvm.IRModule, target: tvm.target.Target
) -> Candidate | None:
    trace = ScheduleTrace.from_tvm(sch.trace)
    sch.enter_postproc()
    try:
        fits = all(postproc.apply(sch) for postproc in _postprocs(module, target))
    # An annotation asks for what no post-processor can do. Ours never do; an imported trace may.
    except RuntimeError:
        return None
    return Candidate(trace, sch.mod) if fits else None


_contexts: dict[str, Any] = {}


def _postprocs(module: tvm.IRModule, target: tvm.target.Target) -> list[Any]:
    """Return a target's post-processors; they read nothing else of their context."""
    key = str(target)
    if key not in _contexts:
        _contexts[key] = _context(module, target, 0)
    return list(_contexts[key].space_generator.postprocs)


@lru_cache(maxsize=4096)
def _nearest_split(wanted: tuple[int, ...], length: int, max_innermost: int) -> tuple[int, ...]:
    """Return the exact split of `length` that is nearest to `wanted`.

    Distances are those of the factors' logs; the innermost factor counts fourfold.
    """
    if math.prod(wanted) == length:
        return wanted

    def distance(split: tuple[int, ...]) -> float:
        *outer, inner = (abs(math.log(a / b)) for a, b in zip(split, wanted, strict=True))
        return 4 * inner + sum(outer)

    splits = (s for s in _splits(length, len(wanted)) if s[-1] <= max_innermost)
    return min(splits, key=distance)


def _splits(length: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (length,)
        return
    for factor in range(1, length + 1):
        if length % factor == 0:
            yield from ((factor, *rest) for rest in _splits(length // factor, parts - 1))
