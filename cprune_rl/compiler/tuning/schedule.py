"""Programs: schedule traces of a task, their tile factors, and carrying one over to another shape.

A program is kept as TVM's JSON form of its trace without the post-processors, which are run again
wherever it is applied (leaving them out costs 10x: no vectorising, no unrolling). Called by the
tuner.
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
    "tile_factors",
    "transfer_schedule",
]

_apply_mutator = tvm.get_global_func("s_tir.meta_schedule.MutatorApply")
_SEED = (
    1  # of schedules that follow a trace: a decision it leaves open is then drawn alike each time
)
_MUTATIONS = (0.8, 0.1, 0.1)  # chance of a tile, an unrolling, a location
_CHANNEL_LOOPS = {
    "NCHW": 1,
    "NHWC": 3,
}  # packed convolutions: (n, y, x, block, lane); Winograd's: (row, column, tile, block, lane)


@dataclass(frozen=True)
class ScheduleTrace:
    """A schedule trace, independent of the process that found it.

    Attributes:
        json: instructions and decisions, as `tvm.s_tir.Trace.as_json` gives them.
    """

    json: str

    @staticmethod
    def from_tvm(trace: Any) -> ScheduleTrace:
        """The program of one of TVM's traces; its post-processors are left out."""
        return ScheduleTrace(json.dumps(_plain(trace.as_json(remove_postproc=True))))

    @property
    def digest(self) -> str:
        """Names the program in the cost cache."""
        return hashlib.sha256(self.json.encode()).hexdigest()[:20]

    def tile_factors(self, layout: str = "NCHW") -> tuple[int, ...]:
        """Split of the output-channel loop (see `tile_factors`)."""
        return tile_factors(json.loads(self.json), layout)


@dataclass(frozen=True)
class Candidate:
    """A program applied to a task: what a trial builds.

    Attributes:
        trace: of the schedule, with decisions that fit this task.
        module: the scheduled function.
    """

    trace: ScheduleTrace
    module: tvm.IRModule


def tile_factors(trace: Sequence[Any], layout: str = "NCHW") -> tuple[int, ...]:
    """Reads the tile factors of the output-channel loop off a trace.

    Multi-level tiling takes all loops of a block at once (`GetLoops`) and samples a split for each
    (`SamplePerfectTile`), so the loop a split belongs to is exact: no name is guessed.

    Args:
        trace: `[instructions, decisions]`; an instruction is `[kind, inputs, attributes, outputs]`,
            a decision `[position of its instruction, value]`.
        layout: of the maps: where the channel loop is. In NHWC it runs over the blocks of packed
            channels.

    Returns:
        The factors, outermost first; empty where the trace does not tile the loop.
    """
    instructions, decisions = trace
    decided = {int(position): value for position, value in decisions}
    channel_loops: set[str] = set()
    for position, (kind, inputs, _, outputs) in enumerate(instructions):
        if kind == "GetLoops" and len(outputs) > (
            loop := _CHANNEL_LOOPS[layout] if len(outputs) > 3 else 1
        ):
            channel_loops.add(outputs[loop])
        elif kind == "SamplePerfectTile" and inputs[0] in channel_loops:
            return tuple(int(f) for f in decided[position])
    return ()


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


def _plain(value: Any) -> Any:
    """TVM's containers and integers as JSON's."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    if isinstance(value, tvm.tirx.FloatImm):
        return float(value.value)
    if isinstance(value, tvm.tirx.IntImm):
        return int(value)
    return [_plain(v) for v in value]


def random_candidates(
    module: tvm.IRModule, target: tvm.target.Target, count: int, seed: int
) -> list[Candidate]:
    """Draws programs at random from MetaSchedule's design space.

    Args:
        module: one function named `main`.
        target: what it will run on.
        count: how many to draw; fewer come back where the space is smaller.
        seed: same seed, same programs.
    """
    if count <= 0:
        return []
    context = _context(module, target, seed)
    context.pre_tuning(count, count)
    drawn = [
        Candidate(ScheduleTrace.from_tvm(c.sch.trace), c.sch.mod)
        for c in context.generate_measure_candidates() or []
    ]
    return list({c.trace.digest: c for c in drawn}.values())


def mutate(
    parents: Sequence[Candidate],
    module: tvm.IRModule,
    target: tvm.target.Target,
    count: int,
    seed: int,
) -> list[Candidate]:
    """Draws programs that differ from good ones in one decision:

    a tile, an unrolling, where a block is computed.

    Args:
        parents: best first; the better of two drawn at random is changed.
        module: the task.
        target: what it will run on.
        count: how many are drawn; those that do not fit the task are left out.
        seed: same seed, same programs.
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
    traces = [_trace_of(parent, module) for parent in parents]
    found = []
    for _ in range(count):
        trace = traces[int(rng.integers(len(traces), size=2).min())]
        mutator = mutators[int(rng.choice(len(mutators), p=_MUTATIONS))]
        mutated = _apply_mutator(
            mutator, trace, int(rng.integers(1, 2**31))
        )  # Mutator.apply draws from the machine's entropy
        if mutated is not None and (candidate := _applied(mutated, module, target)) is not None:
            found.append(candidate)
    return found


def _trace_of(parent: Candidate, module: tvm.IRModule) -> Any:
    schedule = Schedule(module, seed=_SEED)
    Trace.apply_json_to_schedule(json.loads(parent.trace.json), schedule)
    return schedule.trace


def _applied(trace: Any, module: tvm.IRModule, target: tvm.target.Target) -> Candidate | None:
    try:
        schedule = Schedule(module, seed=_SEED)
        trace.apply_to_schedule(schedule, remove_postproc=True)
        return _finish(schedule, module, target)
    except RuntimeError:
        return None  # the changed decision does not go with the others


def transfer_schedule(
    program: ScheduleTrace, module: tvm.IRModule, target: tvm.target.Target
) -> Candidate | None:
    """Applies a program to another shape of its family (program inheritance).

    Its perfect-tile decisions are moved to the nearest splits of the new loop lengths, inner
    factors
    weighing most, and the post-processors are run again.

    Returns:
        The candidate, or None where the trace does not fit the new function.
    """
    schedule = _inherited(program, module)
    return None if schedule is None else _finish(schedule, module, target)


def apply_schedule(
    program: ScheduleTrace, module: tvm.IRModule, target: tvm.target.Target
) -> Schedule:
    """A function scheduled by a program that was found for it, post-processors included.

    Raises:
        ValueError: the program does not belong to this function.
    """
    schedule = _inherited(program, module)
    if schedule is None or _finish(schedule, module, target) is None:
        raise ValueError("the program does not belong to this function")
    return schedule


def _inherited(program: ScheduleTrace, module: tvm.IRModule) -> Any:
    try:
        instructions, decisions = json.loads(program.json)
        instructions = rename_traced_blocks(instructions)
        wanted = iter(
            [
                value
                for position, value in decisions
                if instructions[position][0] == "SamplePerfectTile"
            ]
        )
        draft = Schedule(module, seed=_SEED)
        Trace.apply_json_to_schedule([instructions, decisions], draft)
        schedule = Schedule(module, seed=_SEED)

        def decide(instruction: Any, inputs: Any, attrs: Any, decision: Any) -> Any:
            if instruction.kind.name != "SamplePerfectTile":
                return decision
            length = int(schedule.get(inputs[0]).extent)
            return _nearest_split(tuple(int(f) for f in next(wanted)), length, int(attrs[1]))

        draft.trace.apply_to_schedule(schedule, remove_postproc=True, decision_provider=decide)
    except (RuntimeError, ValueError, TypeError, LookupError):
        # the trace names a block, a loop or an annotation that this function lacks, or it is none
        # at all
        return None
    return schedule


def _finish(schedule: Any, module: tvm.IRModule, target: tvm.target.Target) -> Candidate | None:
    program = ScheduleTrace.from_tvm(schedule.trace)
    schedule.enter_postproc()
    try:
        fits = all(postproc.apply(schedule) for postproc in _postprocs(module, target))
    except RuntimeError:
        # an annotation says what a post-processor cannot do; ours never do, an imported program's
        # may
        return None
    return Candidate(program, schedule.mod) if fits else None


_contexts: dict[str, Any] = {}


def _postprocs(module: tvm.IRModule, target: tvm.target.Target) -> list[Any]:
    """Those of a target; what they read of the context they were made in is the target alone."""
    key = str(target)
    if key not in _contexts:
        _contexts[key] = _context(module, target, 0)
    return list(_contexts[key].space_generator.postprocs)


@lru_cache(maxsize=4096)
def _nearest_split(wanted: tuple[int, ...], length: int, max_innermost: int) -> tuple[int, ...]:
    """The exact split of `length` nearest to `wanted`, in log distance;

    the innermost factor counts fourfold.
    """
    if math.prod(wanted) == length:
        return wanted

    def distance(split: tuple[int, ...]) -> float:
        *outer, inner = (abs(math.log(a / b)) for a, b in zip(split, wanted, strict=True))
        return 4 * inner + sum(outer)

    return min((s for s in _splits(length, len(wanted)) if s[-1] <= max_innermost), key=distance)


def _splits(length: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (length,)
        return
    for factor in (f for f in range(1, length + 1) if length % f == 0):
        yield from ((factor, *rest) for rest in _splits(length // factor, parts - 1))
