"""Networks that nobody recorded, and problems drawn for training."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from cprune_rl.agents.baselines.proxy_greedy import ProxyGreedy
from cprune_rl.agents.core.searcher import Budget
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.generated import GeneratedProblems, GeneratorSettings, ProblemSource
from cprune_rl.envs.problems.network_variants import draw_variant
from cprune_rl.envs.problems.registry import read_recording
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.latency.sources import InterpolatedLatency
from cprune_rl.testing import toy_problem
from tests.doubles.toy_recordings import save_toy, warm_start_plans

NAMES = ("resnet8@znver4-1t", "vgg-small@znver4-1t", "mobilenetv2-small@znver4-1t")


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_is_a_network_whose_tasks_are_of_the_recorded_kinds(name: str) -> None:
    network = read_recording(name).network
    kinds = {(s.template.family, s.template.operator) for s in network.subgraphs}
    for seed in range(20):
        variant = draw_variant(network, np.random.default_rng(seed))
        group_names = {group.name for group in variant.groups}
        assert len(group_names) == len(variant.groups)
        assert all(1 <= group.minimum <= group.channels for group in variant.groups)
        assert {(s.template.family, s.template.operator) for s in variant.subgraphs} <= kinds
        assert all(workload.macs >= 0 for workload in variant.workloads(variant.dense))
        written = {name for subgraph in variant.subgraphs for name in subgraph.writes}
        assert written == group_names, "no group without a layer, no layer without its group"


def depths(name: str) -> set[int]:
    network = read_recording(name).network
    variants = [draw_variant(network, np.random.default_rng(seed)) for seed in range(20)]
    return {len(variant.subgraphs) for variant in variants}


def test_depth_varies_where_there_are_residual_blocks() -> None:
    assert len(depths("mobilenetv2-small@znver4-1t")) > 1
    chain = read_recording("vgg-small@znver4-1t").network
    assert depths("vgg-small@znver4-1t") == {len(chain.subgraphs)}


def test_drawn_problems_differ_and_can_be_solved() -> None:
    settings = GeneratorSettings(n_variants=6)
    problems = GeneratedProblems.from_recordings(NAMES, settings)
    rng = np.random.default_rng(0)
    drawn = [problems(rng) for _ in range(8)]
    assert len({(p.network.name, p.network.dense.widths, p.floor) for p in drawn}) > 4
    for problem in drawn[:3]:
        result = ProxyGreedy().search(problem, Budget())
        assert result.best.latency_s < result.accepted[0].latency_s
    again = GeneratedProblems.from_recordings(NAMES, settings)(np.random.default_rng(0))
    assert again.network == drawn[0].network, "same seeds, same problems"


def source() -> ProblemSource:
    recording = read_recording()
    return ProblemSource(
        name=recording.name,
        network=recording.network,
        interpolator=LatencyInterpolator(recording.costs),
        loss_model=recording.loss_model,
        dense_accuracy=recording.dense_accuracy,
        descriptor=recording.descriptor,
    )


def is_as_predicted(problem: Problem) -> bool:
    assert isinstance(problem.latency, InterpolatedLatency)
    return problem.latency.noise is None


def test_variations_of_one_problem_differ_in_floor_losses_and_latencies() -> None:
    problems = GeneratedProblems.from_source(source())
    rng = np.random.default_rng(0)
    drawn = [problems(rng) for _ in range(8)]
    half = drawn[0].network.uniform(0.5)
    as_predicted = [problem for problem in drawn if is_as_predicted(problem)]
    assert {problem.network for problem in drawn} == {source().network}
    assert len({problem.floor for problem in drawn}) > 1
    assert len({problem.oracle.accuracy(half).value for problem in drawn}) == 8
    assert 0 < len(as_predicted) < 8
    assert len({problem.measured_s(half) for problem in drawn}) == 8 - len(as_predicted) + 1


def test_some_problems_are_as_predicted_and_all_know_what_they_have_measured() -> None:
    problems = GeneratedProblems.from_source(source())
    rng = np.random.default_rng(0)
    for problem in (problems(rng) for _ in range(8)):
        half = problem.network.uniform(0.5)
        if is_as_predicted(problem):
            accuracy = problem.dense_accuracy - problem.predicted_loss(half)
            assert problem.oracle.accuracy(half).value == pytest.approx(accuracy)
        costs = problem.latency.measure(half)
        assert problem.latency.predict(problem.network.workloads(half)) == costs


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_share_of_problems_that_are_as_predicted_can_be_set(share: float) -> None:
    problems = GeneratedProblems.from_source(source(), GeneratorSettings(model_share=share))
    rng = np.random.default_rng(0)
    assert {is_as_predicted(problems(rng)) for _ in range(6)} == {share == 1.0}


def test_what_is_gone_at_the_start_counts_for_no_floor() -> None:
    settings = GeneratorSettings(start_ratios=(1.0, 0.75))
    problems = GeneratedProblems.from_source(source(), settings)
    rng = np.random.default_rng(0)
    drawn = [problems(rng) for _ in range(8)]
    assert len({problem.start_plan.widths for problem in drawn}) == 2
    for problem in drawn:
        assert problem.oracle.accuracy(problem.start_plan).value >= problem.floor


def test_problems_know_layers_where_the_recording_does(tmp_path: Path) -> None:
    path = tmp_path / "toy.json"
    save_toy(path, warm_start_plans(toy_problem().network, (0.5, 0.25, 0.0625)))
    settings = GeneratorSettings(n_variants=4, start_ratios=(1.0, 0.5))
    problems = GeneratedProblems.from_recordings([str(path)], settings)
    rng = np.random.default_rng(0)
    drawn = [problems(rng) for _ in range(12)]
    for problem in drawn:
        assert len(problem.loss_model.layer_scale) == len(problem.network.scheme_layers) > 0
        assert problem.oracle.accuracy(problem.start_plan).value >= problem.floor
    assert len({problem.start_plan.widths for problem in drawn}) > 1


def test_a_sampler_goes_to_another_process_as_it_is() -> None:
    problems = GeneratedProblems.from_recordings(NAMES[:1], GeneratorSettings(n_variants=2))
    sent = pickle.loads(pickle.dumps(problems))
    here, there = (sampler(np.random.default_rng(1)) for sampler in (problems, sent))
    assert (here.network, here.floor) == (there.network, there.floor)
    np.testing.assert_array_equal(here.loss_model.scale, there.loss_model.scale)
