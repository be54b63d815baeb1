"""Masks that stand for plans."""

from __future__ import annotations

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from cprune_rl.core.network import Plan
from cprune_rl.models.registry import build_model
from cprune_rl.pruning.channel_masks import ChannelMasks
from cprune_rl.pruning.groups import find_groups
from cprune_rl.pruning.surgery import prune
from tests.doubles.networks import uniform_plan

EXAMPLE = torch.zeros(1, 3, 32, 32)
MODELS = {
    name: build_model(name, 10).eval() for name in ("resnet8-w8", "vgg-small", "mobilenetv2-small")
}
GROUPS = {name: find_groups(model, EXAMPLE) for name, model in MODELS.items()}


# shrinking finds no simpler plan, and takes minutes
@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.sampled_from(list(MODELS)), st.data())
def test_a_masked_network_computes_what_the_pruned_one_does(name: str, data: st.DataObject) -> None:
    model = MODELS[name]
    coupled = GROUPS[name]
    plan = Plan(tuple(data.draw(st.integers(g.minimum, g.channels)) for g in coupled.groups))
    masks = ChannelMasks(model, coupled).for_plan(plan)
    weights = model.state_dict()
    masked_weights = {name: weights[name] * mask for name, mask in masks.items()}
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        masked = functional_call(model, masked_weights, (image,))
        pruned = prune(model, coupled, plan)(image)
    torch.testing.assert_close(masked, pruned, atol=2e-4, rtol=1e-3)


def test_the_dense_plan_has_no_masks() -> None:
    coupled = GROUPS["vgg-small"]
    masks = ChannelMasks(MODELS["vgg-small"], coupled)
    assert masks.for_plan(uniform_plan(coupled, 1.0)) == {}


@pytest.mark.parametrize("name", MODELS)
def test_masks_are_of_the_shape_that_a_weight_is_multiplied_with(name: str) -> None:
    coupled = GROUPS[name]
    weights = MODELS[name].state_dict()
    masks = ChannelMasks(MODELS[name], coupled).for_plan(uniform_plan(coupled, 0.5))
    assert masks
    for parameter, mask in masks.items():
        assert (mask * weights[parameter]).shape == weights[parameter].shape
        assert set(mask.unique().tolist()) == {0.0, 1.0}
