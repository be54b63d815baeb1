"""The supernet: how it is trained, and what it judges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cprune_rl.accuracy.data import load_data
from cprune_rl.accuracy.oracle import RecalibrationEvaluation
from cprune_rl.accuracy.supernet import PlanBounds, Supernet, SupernetSettings, train_supernet
from cprune_rl.accuracy.trainer import ImageTrainer
from cprune_rl.accuracy.training import TrainSettings, train
from cprune_rl.core.network import Plan
from cprune_rl.models.registry import build_model
from cprune_rl.pipeline.trained_cache import CachedTraining, supernet_identity
from cprune_rl.pipeline.trained_model import TrainedModel
from cprune_rl.pruning.channel_masks import ChannelMasks
from cprune_rl.pruning.groups import find_groups
from cprune_rl.pruning.surgery import prune
from tests.doubles.images import contours_data
from tests.doubles.networks import uniform_plan

EXAMPLE = torch.zeros(1, 3, 32, 32)
GROUPS = find_groups(build_model("resnet8-w8", 10).eval(), EXAMPLE)
BOUNDS = PlanBounds(
    tuple(group.channels for group in GROUPS.groups),
    tuple(group.minimum for group in GROUPS.groups),
)


def untrained_supernet() -> Supernet:
    """A supernet of resnet8-w8, with the same weights each time."""
    model = build_model("resnet8-w8", 10)
    return Supernet(model, masks=ChannelMasks(model, GROUPS).for_plan, bounds=BOUNDS)


def trained_weights(
    n_steps: int, checkpoint: Path | None = None, stop_at: int | None = None
) -> dict[str, torch.Tensor]:
    """Weights after a training, which a user may stop."""
    supernet = untrained_supernet()

    def stop(n_done: int) -> None:
        if n_done == stop_at:
            raise KeyboardInterrupt

    train_supernet(
        supernet,
        contours_data(),
        SupernetSettings(n_steps=n_steps, batch_size=16),
        checkpoint=checkpoint,
        on_step=stop,
    )
    return dict(supernet.model.state_dict())


@given(st.integers(0, 2**31))
def test_sampled_plans_stay_within_the_bounds(seed: int) -> None:
    widths = np.array(BOUNDS.sample(np.random.default_rng(seed)).widths)
    assert (widths >= BOUNDS.minimum).all()
    assert (widths <= BOUNDS.channels).all()


def test_narrow_plans_are_sampled_as_often_as_wide_ones() -> None:
    rng = np.random.default_rng(0)
    channels = np.array(BOUNDS.channels)
    ratios = [(np.array(BOUNDS.sample(rng).widths) / channels).mean() for _ in range(300)]
    assert 0.3 < np.mean(np.array(ratios) < 0.6) < 0.7
    assert min(ratios) < 0.3
    assert max(ratios) > 0.9


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cprune_rl.accuracy.supernet._SAVE_EVERY", 4)
    whole = trained_weights(12)
    checkpoint = tmp_path / "supernet.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        trained_weights(12, checkpoint, stop_at=9)
    assert checkpoint.exists()
    torch.testing.assert_close(trained_weights(12, checkpoint), whole)
    assert not checkpoint.exists()
    checkpoint.write_bytes(b"damaged")
    torch.testing.assert_close(trained_weights(12, checkpoint), whole)


@pytest.mark.slow
def test_a_supernet_is_better_at_narrow_plans_than_the_dense_network() -> None:
    data = load_data("digits")
    supernet = untrained_supernet()
    evaluation = RecalibrationEvaluation(
        pruner=lambda plan: prune(supernet.model, GROUPS, plan),
        weights="any",
        trainer=ImageTrainer(data),
    )
    narrow = uniform_plan(GROUPS, 0.5)
    train(supernet.model, data, TrainSettings(n_steps=60, batch_size=32))
    before = evaluation(narrow)
    train_supernet(supernet, data, SupernetSettings(n_steps=40, batch_size=32))
    assert evaluation(narrow) > before + 0.15


def test_a_supernet_is_trained_once() -> None:
    data = contours_data()
    settings = SupernetSettings(n_steps=3, batch_size=16, seed=11)
    steps: list[int] = []

    def cached(bounds: PlanBounds) -> CachedTraining:
        identity = supernet_identity("w", bounds)
        return CachedTraining(identity=identity, trainer=ImageTrainer(data), settings=settings)

    def trained() -> nn.Module:
        supernet = untrained_supernet()
        return cached(BOUNDS).load_or_train(
            supernet.model, lambda: train_supernet(supernet, data, settings, on_step=steps.append)
        )

    assert not cached(BOUNDS).is_done
    first = trained()
    again = trained()
    assert steps == [1, 2, 3]
    assert cached(BOUNDS).is_done
    assert not cached(PlanBounds(BOUNDS.channels, BOUNDS.channels)).is_done
    torch.testing.assert_close(dict(first.state_dict()), dict(again.state_dict()))


def test_a_supernet_judges_plans_with_schemes_too() -> None:
    data = contours_data()
    model = build_model("resnet8-w8", 10)
    trained_model = TrainedModel(
        name="resnet8-w8", trainer=ImageTrainer(data), model=model, example=EXAMPLE, coupled=GROUPS
    )
    asked: list[Plan] = []

    def pruner(plan: Plan) -> nn.Module:
        asked.append(plan)
        return trained_model.pruned_of(model, plan)

    half = uniform_plan(GROUPS, 0.5)
    plan = Plan(half.widths, (("blocks.1.conv2", "block(4,0.25)"),))
    evaluation = RecalibrationEvaluation(
        pruner=pruner, weights="supernet", trainer=ImageTrainer(data)
    )
    assert 0.0 <= evaluation(plan) <= 1.0
    assert asked == [plan]
    weight = trained_model.pruned_of(model, plan).get_submodule("blocks.1.conv2").weight
    assert float((weight != 0).float().mean()) == pytest.approx(0.25, abs=0.03)
