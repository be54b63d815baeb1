"""Masks that stand for plans, and the supernet that is trained with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from cprune_rl.accuracy.oracle import RecalibrationEvaluation
from cprune_rl.accuracy.supernet import PlanBounds, Supernet, SupernetSettings, train_supernet
from cprune_rl.accuracy.training import TrainSettings, train
from cprune_rl.core.intervals import rank_correlation
from cprune_rl.core.network import Plan
from cprune_rl.core.scheme import Scheme
from cprune_rl.envs.problems.registry import open_recorded
from cprune_rl.errors import ConfigError
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.latency.sources import InterpolatedLatency
from cprune_rl.models.registry import build_model
from cprune_rl.pipeline.config import load_config
from cprune_rl.pipeline.equal_latency import equal_latency_plans
from cprune_rl.pipeline.trained_cache import CachedTraining, supernet_identity
from cprune_rl.pipeline.trained_model import TrainedModel
from cprune_rl.pruning.channel_masks import ChannelMasks
from cprune_rl.pruning.groups import find_groups
from cprune_rl.pruning.surgery import prune
from cprune_rl.testing import AnalyticLatency, toy_network
from tests.doubles.images import contours_data

EXAMPLE = torch.zeros(1, 3, 32, 32)
MODELS = {
    name: build_model(name, 10).eval() for name in ("resnet8-w8", "vgg-small", "mobilenetv2-small")
}
GROUPS = {name: find_groups(model, EXAMPLE) for name, model in MODELS.items()}


def space(name: str) -> PlanBounds:
    groups = GROUPS[name].groups
    return PlanBounds(tuple(g.channels for g in groups), tuple(g.minimum for g in groups))


@settings(
    max_examples=15, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)  # shrinking trains nobody and takes minutes
@given(st.sampled_from(list(MODELS)), st.integers(0, 2**31))
def test_a_masked_network_computes_what_the_pruned_one_does(name: str, seed: int) -> None:
    model, coupled = MODELS[name], GROUPS[name]
    plan = space(name).sample(np.random.default_rng(seed))
    masks = ChannelMasks(model, coupled).for_plan(plan)
    weights = model.state_dict()
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        masked = functional_call(
            model, {name: weights[name] * mask for name, mask in masks.items()}, (image,)
        )
        pruned = prune(model, coupled, plan)
        torch.testing.assert_close(masked, pruned(image), atol=2e-4, rtol=1e-3)


def test_the_dense_plan_has_no_masks() -> None:
    coupled = GROUPS["vgg-small"]
    assert (
        ChannelMasks(MODELS["vgg-small"], coupled).for_plan(
            Plan(tuple(g.channels for g in coupled.groups))
        )
        == {}
    )


@given(st.integers(0, 2**31))
def test_drawn_plans_stay_within_the_space(seed: int) -> None:
    wanted = space("resnet8-w8")
    plan = wanted.sample(np.random.default_rng(seed))
    assert all(
        m <= w <= c for m, w, c in zip(wanted.minimum, plan.widths, wanted.channels, strict=True)
    )


def untrained_supernet() -> Supernet:
    model = build_model("resnet8-w8", 10)
    return Supernet(
        model,
        masks=ChannelMasks(model, GROUPS["resnet8-w8"]).for_plan,
        space=space("resnet8-w8"),
    )


def trained_supernet(
    n_steps: int, checkpoint: Path | None = None, stop_at: int | None = None
) -> torch.nn.Module:
    supernet = untrained_supernet()

    def stop(done: int) -> None:
        if done == stop_at:
            raise KeyboardInterrupt

    train_supernet(
        supernet,
        contours_data(256, 128),
        SupernetSettings(n_steps=n_steps, batch_size=16),
        checkpoint=checkpoint,
        on_step=stop,
    )
    return supernet.model


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cprune_rl.accuracy.supernet._SAVE_EVERY", 4)
    whole = trained_supernet(12)
    checkpoint = tmp_path / "supernet.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        trained_supernet(12, checkpoint, stop_at=9)
    assert checkpoint.exists()
    resumed = trained_supernet(12, checkpoint)
    torch.testing.assert_close(dict(whole.state_dict()), dict(resumed.state_dict()))
    assert not checkpoint.exists()
    checkpoint.write_bytes(b"damaged")
    torch.testing.assert_close(
        dict(whole.state_dict()), dict(trained_supernet(12, checkpoint).state_dict())
    )


@pytest.mark.slow
def test_a_supernet_is_better_at_narrow_plans_than_the_dense_network() -> None:
    data, model, coupled = (
        contours_data(1024, 128),
        build_model("resnet8-w8", 10),
        GROUPS["resnet8-w8"],
    )
    train(model, data, TrainSettings(n_steps=150))
    narrow = Plan(tuple(max(g.minimum, g.channels // 2) for g in coupled.groups))
    before = RecalibrationEvaluation(
        pruner=lambda plan: prune(model, coupled, plan), weights="dense", data=data
    )(narrow)
    supernet = Supernet(
        model, masks=ChannelMasks(model, coupled).for_plan, space=space("resnet8-w8")
    )
    train_supernet(supernet, data, SupernetSettings(n_steps=150))
    after = RecalibrationEvaluation(
        pruner=lambda plan: prune(model, coupled, plan), weights="supernet", data=data
    )(narrow)
    assert after > before + 0.05


def test_a_supernet_is_trained_once() -> None:
    data, settings_ = contours_data(256, 128), SupernetSettings(n_steps=3, batch_size=16, seed=11)
    plans = space("resnet8-w8")
    steps: list[int] = []

    def cached(at: PlanBounds) -> CachedTraining:
        identity = supernet_identity("w", at)
        return CachedTraining(identity=identity, data=data, settings=settings_)

    def trained() -> torch.nn.Module:
        supernet = untrained_supernet()
        return cached(plans).load_or_train(
            supernet.model,
            lambda: train_supernet(supernet, data, settings_, on_step=steps.append),
        )

    assert not cached(plans).is_done
    first, again = trained(), trained()
    assert steps == [1, 2, 3]
    assert cached(plans).is_done
    assert not cached(PlanBounds(plans.channels, plans.channels)).is_done
    torch.testing.assert_close(dict(first.state_dict()), dict(again.state_dict()))


# --- earning its place


def test_plans_of_equal_latency_are_that_and_differ() -> None:
    problem = open_recorded("resnet8")
    costs = InterpolatedLatency(
        problem.network, LatencyInterpolator(problem.latency.interpolator.measured_tasks())
    )  # type: ignore[attr-defined]

    def latency(plan: Plan) -> float:
        return sum(c.latency_s for c in costs.predict(problem.network.workloads(plan)))

    plans = equal_latency_plans(problem.network, costs, 0.5, count=8, seed=0)
    assert len(set(plans)) == 8
    assert plans == equal_latency_plans(problem.network, costs, 0.5, count=8, seed=0)
    dense = latency(problem.network.dense)
    assert all(abs(latency(p) / dense - 0.5) < 0.03 for p in plans)


def test_plans_of_equal_latency_may_be_pruned_by_schemes() -> None:
    network = toy_network()
    costs = AnalyticLatency(network)
    plans = equal_latency_plans(network, costs, 0.5, count=6, seed=0, by_schemes=True)
    dense = sum(c.latency_s for c in costs.predict(network.workloads(network.dense)))
    assert len(set(plans)) == 6
    for plan in plans:
        assert plan.widths == network.dense.widths
        assert plan.schemes
        assert (
            abs(sum(c.latency_s for c in costs.predict(network.workloads(plan))) / dense - 0.5)
            < 0.03
        )
    kinds = {Scheme.parse(text).kind for plan in plans for _, text in plan.schemes}
    assert len(kinds) > 1, "each layer has a shape of its own"


def test_a_supernet_judges_plans_with_schemes_too() -> None:
    data, model, coupled = (
        contours_data(256, 128),
        build_model("resnet8-w8", 10),
        GROUPS["resnet8-w8"],
    )
    trained_model = TrainedModel(
        name="resnet8-w8", data=data, model=model, example=EXAMPLE, coupled=coupled
    )
    looked: list[dict[str, Scheme]] = []

    def pruner(plan: Plan) -> torch.nn.Module:
        looked.append({layer: Scheme.parse(text) for layer, text in plan.schemes})
        return trained_model.pruned_of(model, plan)

    plan = Plan(
        tuple(max(g.minimum, g.channels // 2) for g in coupled.groups),
        (("blocks.1.conv2", "block(4,0.25)"),),
    )
    assert 0.0 <= RecalibrationEvaluation(pruner=pruner, weights="supernet", data=data)(plan) <= 1.0
    weight = trained_model.pruned_of(model, plan).get_submodule("blocks.1.conv2").weight
    assert float((weight != 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert looked == [{"blocks.1.conv2": Scheme("block", 4, 0.25)}]


def test_rank_correlation_says_how_sure_it_is() -> None:
    rng = np.random.default_rng(0)
    x = np.arange(10.0)
    same, none, few = (
        rank_correlation(x, x**3),
        rank_correlation(rng.random(10), rng.random(10)),
        rank_correlation(x, np.zeros(10)),
    )
    assert (same.value, same.low) == (pytest.approx(1.0), pytest.approx(1.0))
    assert none.low < none.value < none.high
    assert none.high - none.low > 0.5
    assert few.value == 0.0


@pytest.mark.parametrize(
    "name", ["supernets", "finetune:", "finetune:0", "finetune:x", "supernet:3"]
)
def test_an_oracle_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="give finetune, finetune:STEPS, supernet or recalibrate"):
        load_config(None, {"oracle": name})
    assert load_config(None, {"oracle": "finetune:80"}).oracle == "finetune:80"
