"""Which channels go together, which may go, and in which order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cprune_rl.accuracy.data import load_data
from cprune_rl.accuracy.training import accumulate_gradients
from cprune_rl.core.network import Plan
from cprune_rl.errors import ConfigError, ModelError
from cprune_rl.models.registry import build_model
from cprune_rl.pruning.groups import GroupSettings, find_groups
from cprune_rl.pruning.importance import IMPORTANCES
from cprune_rl.pruning.surgery import kept_indices, prune
from tests.doubles.networks import packaged_network

EXAMPLE = torch.zeros(1, 3, 32, 32)


def test_residual_channels_go_together() -> None:
    _, coupled = packaged_network("resnet8-w8")
    layers = {g.name: set(g.layers) for g in coupled.groups}
    assert {"conv1", "blocks.0.conv2"} in layers.values()
    assert {"blocks.1.conv2", "blocks.1.downsample.0"} in layers.values()
    assert dict(coupled.unprunable)["fc"] == "gives the network's output"


def test_the_ranking_starts_with_the_most_important_channel() -> None:
    _, coupled = packaged_network("vgg-small")
    for group in coupled.groups:
        scores = coupled.importance[group.name][list(coupled.ranking[group.name])]
        assert (np.diff(scores) <= 0).all()


def test_parameter_axes_foretell_every_shape() -> None:
    model, coupled = packaged_network("resnet8-w8")
    plan = Plan(tuple(g.channels - 2 for g in coupled.groups))
    widths = {g.name: w for g, w in zip(coupled.groups, plan.widths, strict=True)}
    pruned = prune(model, coupled, plan)
    for name, value in pruned.state_dict().items():
        assert tuple(value.shape) == tuple(e.at(widths) for e in coupled.axes[name]), name


def test_a_network_without_anything_to_prune_is_refused() -> None:
    with pytest.raises(ModelError, match="nothing in this network can be pruned"):
        find_groups(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), torch.randn(1, 3, 2, 2))


def test_a_network_without_batch_norm_is_pruned_alike() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    coupled = find_groups(model, torch.randn(1, 3, 8, 8))
    assert [(g.name, g.channels) for g in coupled.groups] == [("0", 8)]


class Grouped(nn.Module):
    """A residual block around a convolution of 4 groups, whose channels go four at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3)
        self.norm = nn.BatchNorm2d(12)
        self.narrow = nn.Conv2d(12, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 3, 1, 1, groups=4)
        self.wide = nn.Conv2d(16, 12, 1)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.wide(self.grouped(self.narrow(x).relu()).relu())
        return self.fc(x.mean((2, 3)))


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_a_grouped_convolution_loses_whole_groups(data: st.DataObject) -> None:
    model = Grouped().eval()
    coupled = find_groups(model, torch.zeros(1, 3, 8, 8))
    of_group = next(g for g in coupled.groups if "grouped" in g.layers)
    assert of_group.channels == 4
    assert set(of_group.layers) == {"narrow", "grouped"}
    plan = Plan(tuple(data.draw(st.integers(g.minimum, g.channels)) for g in coupled.groups))
    kept = kept_indices(coupled, plan)
    pruned = prune(model, coupled, plan)
    left = dict(zip((g.name for g in coupled.groups), plan.widths, strict=True))
    grouped = pruned.get_submodule("grouped")
    assert isinstance(grouped, nn.Conv2d)
    assert grouped.groups == left[of_group.name]
    assert grouped.in_channels == 4 * left[of_group.name]
    assert grouped.weight.shape[1] == 4
    for name, value in pruned.state_dict().items():
        assert tuple(value.shape) == tuple(e.at(left) for e in coupled.axes[name]), name
    channels = torch.zeros(16)
    for unit in kept[of_group.name]:
        channels[4 * unit : 4 * unit + 4] = 1
    stem = torch.zeros(12)
    stem[list(next(kept[g.name] for g in coupled.groups if "stem" in g.layers))] = 1
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        y = model.norm(model.stem(x)).relu() * stem.view(1, -1, 1, 1)
        inner = model.grouped(model.narrow(y).relu()).relu() * channels.view(1, -1, 1, 1)
        y = (y + model.wide(inner)) * stem.view(1, -1, 1, 1)
        torch.testing.assert_close(pruned(x), model.fc(y.mean((2, 3))), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_every_criterion_ranks_all_channels(importance: str) -> None:
    model = build_model("resnet8-w8", 10).eval()
    data = load_data("digits")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    coupled, again = [
        find_groups(
            model,
            EXAMPLE,
            settings=GroupSettings(importance=importance),
            gradients=lambda m: accumulate_gradients(m, data),
        )
        for _ in range(2)
    ]
    for group in coupled.groups:
        assert sorted(coupled.ranking[group.name]) == list(range(group.channels))
        assert np.isfinite(coupled.importance[group.name]).all()
        assert len(set(coupled.importance[group.name])) > 1
    assert coupled.ranking == again.ranking
    torch.testing.assert_close(before, dict(model.state_dict()))


def test_criteria_differ_and_random_follows_its_seed() -> None:
    model = build_model("resnet8-w8", 10).eval()
    by = {
        (name, seed): find_groups(model, EXAMPLE, GroupSettings(importance=name, seed=seed)).ranking
        for name in ("l1", "fpgm", "random")
        for seed in (0, 1)
    }
    assert by["random", 0] != by["random", 1]
    assert by["l1", 0] == by["l1", 1] != by["fpgm", 0]


def test_l1_puts_the_channel_with_small_weights_last() -> None:
    model = build_model("vgg-small", 10).eval()
    with torch.no_grad():
        model.features[0].weight[5] *= 1e-3
        model.features[1].weight[5] *= 1e-3
        model.features[3].weight[:, 5] *= 1e-3
    for name in ("l1", "l2"):
        assert (
            find_groups(model, EXAMPLE, GroupSettings(importance=name)).ranking["features.0"][-1]
            == 5
        )


def test_taylor_without_images_says_what_it_needs() -> None:
    with pytest.raises(ConfigError, match="needs gradients"):
        find_groups(build_model("resnet8-w8", 10), EXAMPLE, GroupSettings(importance="taylor"))


def test_frozen_layers_stay_whole_with_what_is_coupled_to_them() -> None:
    coupled = find_groups(
        build_model("resnet8-w8", 10), EXAMPLE, GroupSettings(freeze=("blocks.0.conv2", "blocks.1"))
    )
    reasons = dict(coupled.unprunable)
    assert (
        reasons["conv1"] == "frozen by 'blocks.0.conv2' (and so blocks.0.conv2, coupled to it)"
    ), "its channels are added to those of the first block"
    assert {"blocks.1.conv1"} <= {
        name for name, reason in reasons.items() if reason == "frozen by 'blocks.1'"
    }
    assert all(
        not layer.startswith("blocks.1.") for group in coupled.groups for layer in group.layers
    )
    assert [
        g.name
        for g in find_groups(
            build_model("resnet8-w8", 10), EXAMPLE, GroupSettings(freeze=("*.conv2",))
        ).groups
    ] == [f"blocks.{i}.conv1" for i in range(3)]


def test_shares_that_stay_are_the_groups_minimum() -> None:
    coupled = find_groups(
        build_model("resnet8-w8", 10),
        EXAMPLE,
        GroupSettings(keep={"blocks.2": 0.5, "blocks.2.conv1": 0.9}),
    )
    minimum = {g.name: g.minimum for g in coupled.groups}
    assert minimum["blocks.2.conv1"] == 29
    assert minimum["blocks.0.conv1"] == 2


@pytest.mark.parametrize(
    "settings", [GroupSettings(freeze=("stem",)), GroupSettings(keep={"stem": 0.5})]
)
def test_a_layer_that_is_not_there_is_named_with_those_that_are(settings: GroupSettings) -> None:
    with pytest.raises(
        ConfigError, match=r"no layer with channels of its own is called 'stem'. Known: blocks"
    ):
        find_groups(build_model("resnet8-w8", 10), EXAMPLE, settings)


def test_a_pattern_that_matches_no_channels_is_refused() -> None:
    model = build_model("resnet8-w8", 10)
    with pytest.raises(ConfigError, match="no layer with channels of its own"):
        find_groups(model, torch.zeros(1, 3, 32, 32), GroupSettings(freeze=("*.bn1",)))
