"""Where channels part and meet, each part is a group of its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cprune_rl.core.network import Plan
from cprune_rl.pruning.groups import CoupledGroups, find_groups, find_slices
from cprune_rl.pruning.surgery import kept_indices, prune
from tests.doubles.branching_networks import BRANCHING_NETWORKS, N_CLASSES

EXAMPLE = torch.zeros(1, 3, 32, 32)


def made(name: str) -> tuple[nn.Module, CoupledGroups]:
    torch.manual_seed(0)
    model = BRANCHING_NETWORKS[name]().eval()
    return model, find_groups(model, EXAMPLE)


def by_layers(coupled: CoupledGroups) -> dict[str, set[str]]:
    return {group.name: set(group.layers) for group in coupled.groups}


def test_each_branch_is_a_group_with_its_range_of_the_residual() -> None:
    model, coupled = made("residual over concat")
    assert by_layers(coupled)["body.one.0"] == {"body.one.0", "body.inner.1"}
    assert by_layers(coupled)["body.three.0"] == {"body.three.0", "body.inner.1"}
    plan = Plan(tuple(g.minimum for g in coupled.groups))
    pruned = prune(model, coupled, plan)
    assert pruned.get_submodule("body.one.0").out_channels == 3
    assert pruned.get_submodule("body.three.0").out_channels == 4
    assert pruned.get_submodule("body.inner.1").out_channels == 7


@pytest.mark.parametrize("name", BRANCHING_NETWORKS)
def test_branches_keep_their_minimum_and_plans_open_again(name: str) -> None:
    model, coupled = made(name)
    layers = {layer for group in coupled.groups for layer in group.layers}
    assert "stem.0" in layers
    plan = Plan(tuple(g.minimum for g in coupled.groups))
    kept = kept_indices(coupled, plan)
    pruned = prune(model, coupled, plan)
    assert pruned(EXAMPLE).shape == (1, N_CLASSES)
    again = find_slices(model, EXAMPLE, kept).prune(model, kept)
    torch.testing.assert_close(again.state_dict(), pruned.state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("name", "together"),
    [
        ("cross stage", "body.expand.0"),
        ("c2f", "body.enter.0"),
    ],
)
def test_halves_of_a_chunk_go_together(name: str, together: str) -> None:
    model, coupled = made(name)
    (group,) = [group for group in coupled.groups if together in group.layers]
    layer = model.get_submodule(together)
    assert isinstance(layer, nn.Conv2d)
    assert group.channels == layer.out_channels // 2


def test_only_the_last_part_shrinks_where_the_places_are_fixed() -> None:
    _, coupled = made("fixed split")
    assert {g.name: g.channels for g in coupled.groups}["body.enter.0[8:24]"] == 16
    reasons = dict(coupled.unprunable)
    assert "parts its channels (slice) at places" in reasons["body.enter.0[0:8]"]


def test_parts_shrink_by_themselves_where_the_module_keeps_their_sizes() -> None:
    model, coupled = made("kept sizes")
    widths = {g.name: g.channels for g in coupled.groups}
    assert [n for name, n in widths.items() if name.startswith("body.mixed")] == [12, 10, 6]
    assert not any("body" in layer for layer, _ in coupled.unprunable)
    plan = Plan(tuple(4 if g.name == "body.mixed.1" else g.channels for g in coupled.groups))
    pruned = prune(model, coupled, plan)
    assert pruned.get_submodule("body").splits == [12, 4, 6]
    assert model.get_submodule("body").splits == [12, 10, 6], "the dense network stays as it was"
    assert pruned.get_submodule("body.enter.0").out_channels == 22


def test_branches_that_are_stacked_go_together_channel_by_channel() -> None:
    _, coupled = made("selective")
    together = {"body.branches.0.0", "body.branches.1.0", "body.weigh.0", "body.weigh.1"}
    assert together in by_layers(coupled).values()
    assert {"body.squeeze"} in by_layers(coupled).values()


def test_a_layer_that_runs_twice_is_coupled_by_both_runs() -> None:
    _, coupled = made("twice")
    assert {"stem.0", "body.again"} in by_layers(coupled).values()


def test_a_whole_layer_of_an_older_plan_is_all_that_it_writes() -> None:
    model, _ = made("residual over concat")
    slices = find_slices(model, EXAMPLE, ["body.inner.1"])
    assert slices.widths == {"body.inner.1": 32}
    kept = {"body.inner.1": [0, 1, 12, 13, 14]}
    pruned = slices.prune(model, kept)
    assert pruned.get_submodule("body.one.0").out_channels == 2
    assert pruned.get_submodule("body.three.0").out_channels == 3


class SideHead(nn.Module):
    """A second head that answers only in training."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, 2, 1)
        self.second = nn.Conv2d(16, 24, 3, 2, 1)
        self.side = nn.Linear(16, N_CLASSES)
        self.fc = nn.Linear(24, N_CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.first(x))
        y: torch.Tensor = self.fc(torch.relu(self.second(x)).mean((2, 3)))
        return (y, self.side(x.mean((2, 3)))) if self.training else y


def test_a_head_that_answers_only_in_training_is_cut_too() -> None:
    model = SideHead().eval()
    coupled = find_groups(model, EXAMPLE)
    assert {g.name for g in coupled.groups} == {"first", "second"}
    pruned = prune(model, coupled, Plan(tuple(g.minimum for g in coupled.groups)))
    main, side = pruned.train()(EXAMPLE.repeat(2, 1, 1, 1))
    assert main.shape == side.shape == (2, N_CLASSES)
    assert pruned.get_submodule("side").in_features == 4


def test_a_parametrised_layer_stays_and_its_neighbours_go() -> None:
    norm = nn.utils.parametrizations.weight_norm
    model = nn.Sequential(
        norm(nn.Conv2d(3, 16, 3)),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3),
        nn.ReLU(),
        nn.Conv2d(24, 32, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 4),
    ).eval()
    coupled = find_groups(model, EXAMPLE)
    assert {g.name for g in coupled.groups} == {"2", "4"}
    assert "weights are computed" in dict(coupled.unprunable)["0"]


def test_layers_that_share_a_weight_stay_whole() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1),
        nn.Conv2d(8, 12, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    ).eval()  # fmt: skip
    model[2].weight = model[1].weight
    coupled = find_groups(model, EXAMPLE)
    assert {g.name for g in coupled.groups} == {"3"}
    assert any("shares its weights with" in reason for _, reason in coupled.unprunable)
