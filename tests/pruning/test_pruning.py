"""Groups, the guard and surgery."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cprune_rl.core.network import Plan
from cprune_rl.errors import ModelError, PlanError, UnknownNameError
from cprune_rl.models.registry import build_model
from cprune_rl.models.zoo import MODELS
from cprune_rl.pruning.groups import CoupledGroups, find_groups
from cprune_rl.pruning.surgery import PlanFile, kept_indices, load_pruned, prune

NAMES = ("resnet8-w8", "vgg-small", "resnet20")
_cache: dict[str, tuple[nn.Module, CoupledGroups]] = {}


def dense(name: str) -> tuple[nn.Module, CoupledGroups]:
    if name not in _cache:
        model = build_model(name, 10).eval()
        _cache[name] = model, find_groups(model, torch.zeros(MODELS[name].input_shape))
    return _cache[name]


def masked(model: nn.Module, coupled: CoupledGroups, plan: Plan) -> nn.Module:
    """The dense network with removed channels silenced where they are written:

    an independent account of what a plan means.
    """
    import copy

    silent = copy.deepcopy(model)
    modules = dict(silent.named_modules())
    names = list(modules)
    kept = kept_indices(coupled, plan)
    for group in coupled.groups:
        gone = [i for i in range(group.channels) if i not in kept[group.name]]
        for layer in group.layers:
            modules[layer].weight.data[gone] = 0
            norm = (
                modules[names[names.index(layer) + 1]]
                if "downsample" in layer or "features" in layer
                else modules[layer.replace("conv", "bn")]
            )
            for value in (norm.weight.data, norm.bias.data, norm.running_mean):
                value[gone] = 0
    return silent


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(NAMES), st.data())
def test_the_pruned_network_computes_what_the_masked_one_does(
    name: str, data: st.DataObject
) -> None:
    model, coupled = dense(name)
    plan = Plan(tuple(data.draw(st.integers(g.minimum, g.channels)) for g in coupled.groups))
    pruned = prune(model, coupled, plan)
    modules = dict(pruned.named_modules())
    assert [len(modules[g.name].weight) for g in coupled.groups] == list(plan.widths), (
        "counts are exact"
    )
    x = torch.randn(2, *MODELS[name].input_shape[1:])
    with torch.no_grad():
        torch.testing.assert_close(pruned(x), masked(model, coupled, plan)(x), atol=2e-4, rtol=1e-3)


def test_pruning_leaves_the_dense_network_as_it_was() -> None:
    model, coupled = dense("resnet8-w8")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    prune(model, coupled, Plan(tuple(g.minimum for g in coupled.groups)))
    torch.testing.assert_close(before, dict(model.state_dict()))


def test_parameter_axes_foretell_every_shape() -> None:
    model, coupled = dense("resnet8-w8")
    plan = Plan(tuple(g.channels - 2 for g in coupled.groups))
    widths = {g.name: w for g, w in zip(coupled.groups, plan.widths, strict=True)}
    pruned = prune(model, coupled, plan)
    for name, value in pruned.state_dict().items():
        assert tuple(value.shape) == tuple(e.at(widths) for e in coupled.axes[name]), name


def test_residual_channels_go_together() -> None:
    _, coupled = dense("resnet8-w8")
    layers = {g.name: set(g.layers) for g in coupled.groups}
    assert {"conv1", "blocks.0.conv2"} in layers.values()
    assert {"blocks.1.conv2", "blocks.1.downsample.0"} in layers.values()
    assert dict(coupled.unprunable)["fc"] == "gives the network's output"


def test_the_ranking_starts_with_the_most_important_channel() -> None:
    _, coupled = dense("vgg-small")
    for group in coupled.groups:
        scores = coupled.importance[group.name][list(coupled.ranking[group.name])]
        assert (np.diff(scores) <= 0).all()


class Chunked(nn.Module):
    """Splits channels by position: a structure whose removal is not masking."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x).mean((2, 3))
        return self.fc(y * torch.arange(y.shape[1]))


def test_the_guard_leaves_a_group_whole_and_says_why() -> None:
    with pytest.raises(ModelError, match=r"conv: removing channels is not masking them"):
        find_groups(Chunked(), torch.randn(1, 3, 8, 8))


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
    """A residual block around a convolution of 4 groups, whose channels can only go four at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12)
        self.narrow, self.grouped, self.wide = (
            nn.Conv2d(12, 16, 1),
            nn.Conv2d(16, 16, 3, 1, 1, groups=4),
            nn.Conv2d(16, 12, 1),
        )
        self.fc = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.wide(self.grouped(self.narrow(x).relu()).relu())
        return self.fc(x.mean((2, 3)))


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_a_grouped_convolution_loses_whole_groups(data: st.DataObject) -> None:
    example = torch.zeros(1, 3, 8, 8)
    model = Grouped().eval()
    coupled = find_groups(model, example)
    of_group = next(g for g in coupled.groups if "grouped" in g.layers)
    assert (of_group.channels, set(of_group.layers)) == (4, {"narrow", "grouped"})
    plan = Plan(tuple(data.draw(st.integers(g.minimum, g.channels)) for g in coupled.groups))
    kept = kept_indices(coupled, plan)
    pruned = prune(model, coupled, plan)
    left = dict(zip((g.name for g in coupled.groups), plan.widths, strict=True))
    grouped = dict(pruned.named_modules())["grouped"]
    assert isinstance(grouped, nn.Conv2d)
    assert (grouped.groups, grouped.in_channels, grouped.weight.shape[1]) == (
        left[of_group.name],
        4 * left[of_group.name],
        4,
    )
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


def test_a_saved_network_gives_the_same_outputs_bit_for_bit(tmp_path: Path) -> None:
    model, coupled = dense("resnet8-w8")
    plan = Plan(tuple(max(g.minimum, g.channels // 2) for g in coupled.groups))
    pruned = prune(model, coupled, plan)
    PlanFile(
        model="resnet8-w8",
        n_classes=10,
        input_shape=(1, 3, 32, 32),
        kept=kept_indices(coupled, plan),
    ).write(tmp_path, pruned)
    loaded, _ = load_pruned(tmp_path)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), pruned(x))


@pytest.mark.parametrize("damage", ["missing", "json", "index", "layer", "weights"])
def test_a_damaged_plan_is_an_error_of_ours(tmp_path: Path, damage: str) -> None:
    model, coupled = dense("resnet8-w8")
    plan = Plan(tuple(g.channels for g in coupled.groups))
    PlanFile(
        model="resnet8-w8",
        n_classes=10,
        input_shape=(1, 3, 32, 32),
        kept=kept_indices(coupled, plan),
    ).write(tmp_path, model)
    path = tmp_path / "plan.json"
    value = json.loads(path.read_text())
    if damage == "missing":
        path.unlink()
    elif damage == "json":
        path.write_text("{")
    elif damage == "index":
        value["groups"]["conv1"]["kept"] = [99]
    elif damage == "layer":
        value["groups"]["conv9"] = value["groups"].pop("conv1")
    else:
        value["groups"]["conv1"]["kept"] = [0, 1]
    if damage in ("index", "layer", "weights"):
        path.write_text(json.dumps(value))
    with pytest.raises(PlanError):
        load_pruned(tmp_path)


def test_an_unknown_model_is_named_with_what_was_meant() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'resnet8'\?"):
        build_model("resnet-8", 10)
