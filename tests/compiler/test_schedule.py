"""Schedules: their traces, and what is drawn, mutated and transferred."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tvm.s_tir import Schedule

from cprune_rl.compiler.devices.target import make_target
from cprune_rl.compiler.tuning.schedule import (
    ScheduleTrace,
    apply_schedule,
    mutate,
    random_candidates,
    transfer_schedule,
)
from cprune_rl.core.network import Plan
from cprune_rl.cost_cache.archive.safe_traces import trace_problem
from tests.conftest import Lowered, lower
from tests.doubles.tuning_fixtures import conv_task, packed_conv_task

GET_LOOPS = ["GetLoops", ["b0"], [], ["l0", "l1", "l2", "l3"]]


def trace(instructions: list[Any], decisions: list[Any]) -> ScheduleTrace:
    return ScheduleTrace(json.dumps([instructions, decisions]))


@pytest.mark.parametrize("split", [(4, 2, 1, 8), (1, 1, 1, 64), (64, 1, 1, 1)])
def test_tile_factors_are_read_off_the_channel_loop(split: tuple[int, ...]) -> None:
    instructions = [
        ["GetSBlock", [], ["conv2d_nchw", "main"], ["b0"]],
        GET_LOOPS,
        ["SamplePerfectTile", ["l0"], [4, 64], ["v0", "v1", "v2", "v3"]],
        ["SamplePerfectTile", ["l1"], [4, 64], ["v4", "v5", "v6", "v7"]],
        ["SamplePerfectTile", ["l2"], [4, 64], ["v8", "v9", "v10", "v11"]],
    ]
    decisions = [[2, [1, 1, 1, 1]], [3, list(split)], [4, [2, 2, 2, 2]]]
    assert trace(instructions, decisions).tile_factors() == split


@pytest.mark.parametrize("split", [[2, 1, 2, 2], [1, 8, 1, 1]])
def test_tile_factors_of_a_scheduled_convolution_are_those_it_was_split_by(
    lowered: Lowered, split: list[int]
) -> None:
    module = conv_task(lowered, lowered.network.dense)
    sch = Schedule(module)
    loops = sch.get_loops(sch.get_sblock("conv2d_nchw"))
    for loop, factors in ((loops[1], split), (loops[2], [4, 2, 2, 2])):
        sch.split(loop, sch.sample_perfect_tile(loop, n=4, decision=factors))
    assert ScheduleTrace.from_tvm(sch.trace).tile_factors() == tuple(split)


def test_a_trace_that_does_not_tile_has_no_factors() -> None:
    assert trace([["GetSBlock", [], ["add", "main"], ["b0"]], GET_LOOPS], []).tile_factors() == ()


def test_a_schedule_transfers_to_every_width_and_its_factors_follow(lowered: Lowered) -> None:
    target = make_target(1)
    dense = lowered.network.dense
    first = random_candidates(conv_task(lowered, dense), target, 1, seed=0)[0].trace
    assert np.prod(first.tile_factors()) == 8
    at = lowered.network.group_index["blocks.0.conv1"]
    for width in (8, 7, 6, 4, 3):
        widths = list(dense.widths)
        widths[at] = width
        candidate = transfer_schedule(first, conv_task(lowered, Plan(tuple(widths))), target)
        assert candidate is not None
        assert np.prod(candidate.trace.tile_factors()) == width
    same = transfer_schedule(first, conv_task(lowered, dense), target)
    assert same is not None
    assert same.trace == first


def test_a_schedule_of_another_family_does_not_fit(lowered: Lowered) -> None:
    dense = lowered.variants.all[0].lowered(lowered.network.dense)
    convolution = dense.task(dense.calls[2])
    drawn = random_candidates(convolution, make_target(1), 1, seed=0)[0].trace
    other = dense.task(dense.calls[-1])
    assert transfer_schedule(drawn, other, make_target(1)) is None
    with pytest.raises(ValueError, match="does not belong"):
        apply_schedule(drawn, other, make_target(1))


def test_the_same_seed_draws_the_same_schedules(lowered: Lowered) -> None:
    module = conv_task(lowered, lowered.network.dense)
    draws = [
        [c.trace.digest for c in random_candidates(module, make_target(1), 3, seed)]
        for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]
    first = random_candidates(module, make_target(1), 1, seed=1)[0].trace
    assert ScheduleTrace(json.dumps(json.loads(first.json))).digest == draws[0][0]


def test_candidates_are_distinct(lowered: Lowered) -> None:
    drawn = random_candidates(packed_conv_task(lowered), make_target(1), 8, seed=0)
    assert len({c.trace.digest for c in drawn}) == len(drawn)


def test_none_are_drawn_where_none_are_wanted(lowered: Lowered) -> None:
    module = packed_conv_task(lowered)
    assert random_candidates(module, make_target(1), 0, seed=0) == []
    assert random_candidates(module, make_target(1), -3, seed=0) == []


def test_mutants_differ_from_their_parent_and_follow_the_seed(lowered: Lowered) -> None:
    module = packed_conv_task(lowered)
    target = make_target(1)
    parents = random_candidates(module, target, 1, seed=0)
    first, again, other = (
        [c.trace for c in mutate(parents, module, target, count=6, seed=seed)] for seed in (1, 1, 2)
    )
    assert first == again != other
    assert any(mutant != parents[0].trace for mutant in first)


def test_a_task_is_the_same_function_in_every_network() -> None:
    short = lower("resnet8")
    deep = lower("resnet20")
    target = make_target(1)
    shared = 0
    for variant, other in zip(short.variants.all, deep.variants.all, strict=True):
        position = {w.key: i for i, w in enumerate(other.network.workloads(other.network.dense))}
        for at, workload in enumerate(variant.network.workloads(variant.network.dense)):
            if workload.key not in position or "mean" not in workload.key:
                continue
            shared += 1
            tasks = [
                v.lowered(v.network.dense).task(v.calls[i])
                for v, i in ((variant, at), (other, position[workload.key]))
            ]
            (candidate,) = random_candidates(tasks[1], target, 1, seed=0)
            assert "reduced" in candidate.trace.json
            assert transfer_schedule(candidate.trace, tasks[0], target) is not None, (
                "a schedule of one network fits the other's"
            )
            older = ScheduleTrace(candidate.trace.json.replace('"reduced"', '"lv90_red"'))
            assert transfer_schedule(older, tasks[0], target) is not None, (
                "so does one that was kept under a numbered name"
            )
    assert shared


def test_traces_hold_only_the_instructions_that_a_recording_may(lowered: Lowered) -> None:
    target = make_target(1)
    for variant in lowered.variants.all:
        for call in (variant.calls[1], variant.calls[-1]):  # a convolution, and the classifier
            module = variant.lowered(lowered.network.dense).task(call)
            drawn = random_candidates(module, target, 3, seed=0)
            mutants = mutate(drawn, module, target, count=3, seed=0)
            assert drawn
            assert mutants
            assert {trace_problem(c.trace.json) for c in (*drawn, *mutants)} == {None}


ROOT_BLOCK = ["GetSBlock", [], ["root", "main"], ["b0"]]


@pytest.mark.parametrize(
    "imported",
    [
        [],
        [[ROOT_BLOCK, ["Unannotate", ["b0"], ["meta_schedule.parallel"], []]], []],
        [[ROOT_BLOCK, ["Annotate", ["b0", 2**31], ["meta_schedule.vectorize"], []]], []],
    ],
    ids=["nothing", "an annotation that is not there", "a vector too long"],
)
def test_an_imported_schedule_that_cannot_be_applied_is_left_out(
    lowered: Lowered, imported: list[object]
) -> None:
    module = packed_conv_task(lowered)
    assert transfer_schedule(ScheduleTrace(json.dumps(imported)), module, make_target(1)) is None
