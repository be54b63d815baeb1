"""Networks that nobody recorded, and problems drawn for training."""

import numpy as np
import pytest

from cprune_rl.agents.baselines.proxy_greedy import ProxyGreedy
from cprune_rl.agents.core.searcher import Budget
from cprune_rl.envs.problems.generated import GeneratedProblems, GeneratorSettings
from cprune_rl.envs.problems.network_variants import draw_variant
from cprune_rl.envs.problems.registry import read_recording

NAMES = ("resnet8@znver4-1t", "vgg-small@znver4-1t", "mobilenetv2-small@znver4-1t")


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_is_a_network_whose_tasks_are_of_the_recorded_kinds(name: str) -> None:
    network = read_recording(name).network
    kinds = {(s.template.family, s.template.operator) for s in network.subgraphs}
    for seed in range(20):
        varied = draw_variant(network, np.random.default_rng(seed))
        assert len({g.name for g in varied.groups}) == len(varied.groups)
        assert all(1 <= g.minimum <= g.channels for g in varied.groups)
        assert {(s.template.family, s.template.operator) for s in varied.subgraphs} <= kinds
        assert all(w.macs >= 0 for w in varied.workloads(varied.dense)), "every shape can be told"
        written = {name for s in varied.subgraphs for name in s.writes}
        assert written == {g.name for g in varied.groups}, (
            "no group without a layer, no layer without its group"
        )


def test_depth_varies_where_there_are_residual_blocks() -> None:
    network = read_recording("mobilenetv2-small@znver4-1t").network
    assert (
        len(
            {
                len(draw_variant(network, np.random.default_rng(seed)).subgraphs)
                for seed in range(20)
            }
        )
        > 1
    )
    chain = read_recording("vgg-small@znver4-1t").network
    assert {
        len(draw_variant(chain, np.random.default_rng(seed)).subgraphs) for seed in range(10)
    } == {len(chain.subgraphs)}


def test_drawn_problems_differ_and_can_be_solved() -> None:
    problems = GeneratedProblems.from_recordings(NAMES, GeneratorSettings(n_variants=6))
    rng = np.random.default_rng(0)
    drawn = [problems(rng) for _ in range(8)]
    assert len({(p.network.name, p.network.dense.widths, p.floor) for p in drawn}) > 4
    for problem in drawn[:3]:
        result = ProxyGreedy().search(problem, Budget())
        assert result.best.latency_s < result.accepted[0].latency_s
    again = GeneratedProblems.from_recordings(NAMES, GeneratorSettings(n_variants=6))(
        np.random.default_rng(0)
    )
    assert again.network == drawn[0].network, "same seeds, same problems"
