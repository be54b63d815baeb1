"""Heads that run in training mode alone are cut along with what they read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from cprune_rl.core.network import Plan
from cprune_rl.pruning.groups import CoupledGroups, find_groups
from cprune_rl.pruning.surgery import prune
from tests.doubles.side_heads import FORMS, N_CLASSES, SideHeaded

EXAMPLE = torch.zeros(1, 3, 16, 16)
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def narrowest(model: nn.Module, coupled: CoupledGroups) -> nn.Module:
    return prune(model, coupled, Plan(tuple(group.minimum for group in coupled.groups)))


@pytest.mark.parametrize("form", FORMS)
def test_a_side_head_is_cut_with_its_group_and_named(form: str) -> None:
    model = SideHeaded(form)
    coupled = find_groups(model, EXAMPLE)
    assert {group.name: group.minimum for group in coupled.groups} == {"a.0": 2, "b.0": 3}
    assert dict(coupled.unprunable)["side.1"] == "runs in training alone"
    pruned = narrowest(model, coupled)
    side: Any = pruned.get_submodule("side")
    assert (side[0].num_features, side[1].in_features, side[1].out_features) == (2, 2, 6)
    output = pruned.train()(IMAGES)
    with torch.no_grad():
        assert pruned.eval()(IMAGES).shape == (4, N_CLASSES)
    assert output is not None


class OtherSides(nn.Module):
    """In training mode, calls a norm of its own and multiplies by weights that are no layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, 2))
        self.fc = nn.Linear(8, N_CLASSES)
        self.norm = nn.BatchNorm2d(8)
        self.weights = nn.Parameter(torch.randn(N_CLASSES, 8))

    def forward(self, x: torch.Tensor) -> Any:
        maps = functional.relu(self.a(x))
        scores = self.fc(maps.mean((2, 3)))
        if not self.training:
            return scores
        side = functional.linear(
            functional.dropout(self.norm(maps), 0.5).mean((2, 3)), self.weights
        )
        return {"logits": scores, "side": side}


def test_a_side_head_of_other_weights_is_cut_or_leaves_its_group_whole() -> None:
    model = OtherSides()
    coupled = find_groups(model, EXAMPLE)
    assert "a.0" in {group.name for group in coupled.groups}
    output = narrowest(model, coupled).train()(IMAGES)
    assert output["side"].shape == output["logits"].shape == (4, N_CLASSES)


class Aside(nn.Module):
    """In training mode, runs a head whose answer it keeps, and has a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, 2))
        self.fc, self.side = nn.Linear(8, N_CLASSES), nn.Linear(8, N_CLASSES)
        self.unused = nn.Linear(8, N_CLASSES)
        self.kept: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = functional.relu(self.a(x)).mean((2, 3))
        if self.training:
            self.kept = self.side(features)
        return self.fc(features)  # type: ignore[no-any-return]


def test_a_head_whose_answer_is_only_kept_is_cut_too() -> None:
    model = Aside()
    coupled = find_groups(model, EXAMPLE)
    assert {group.name for group in coupled.groups} == {"a.0", "a.2"}
    reasons = dict(coupled.unprunable)
    assert (reasons["side"], reasons["unused"]) == ("runs in training alone", "never runs")
    pruned: Any = narrowest(model, coupled).train()
    pruned(IMAGES)
    assert pruned.kept.shape == (4, N_CLASSES)
