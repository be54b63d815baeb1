"""How lengths follow the groups: a few random plans tell what one channel less of each tells."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cprune_rl.compiler.devices.target import make_target
from cprune_rl.compiler.export import call_extents
from cprune_rl.compiler.export.call_extents import find_extents
from cprune_rl.compiler.export.exported_network import ExportedNetwork
from cprune_rl.core.network import Group
from cprune_rl.pruning.groups import CoupledGroups, find_groups


class Branches(nn.Module):
    """Concatenated branches of several widths, then a flattened map."""

    def __init__(self, n_branches: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(3, 8 + at, 3, 2, 1) for at in range(n_branches))
        n_channels = sum(branch.out_channels for branch in self.branches)
        self.mixed = nn.Conv2d(n_channels, 16, 1)
        self.head = nn.Linear(16 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([torch.relu(branch(x)) for branch in self.branches], dim=1)
        return self.head(torch.relu(self.mixed(joined)).flatten(1))


class Parts(nn.Module):
    """Maps that are taken apart, each part convolved alone, and put together again."""

    def __init__(self, n_stages: int) -> None:
        super().__init__()
        self.sizes = [8, 6, 10]
        n_channels = sum(self.sizes)
        self.into = nn.ModuleList(
            nn.Conv2d(n_channels if at else 3, n_channels, 1) for at in range(n_stages)
        )
        self.parts = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(size, size, 3, 1, 1) for size in self.sizes)
            for _ in range(n_stages)
        )
        self.head = nn.Conv2d(n_channels, 5, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for into, convolutions in zip(self.into, self.parts, strict=True):
            maps = torch.relu(into(x)).split(self.sizes, dim=1)
            convolved = [part(each) for part, each in zip(convolutions, maps, strict=True)]
            x = torch.relu(torch.cat(convolved, dim=1))
        return self.head(x).flatten(1)


def export(model: nn.Module) -> tuple[ExportedNetwork, CoupledGroups]:
    example = torch.zeros(1, 3, 8, 8)
    coupled = find_groups(model.eval(), example)
    target = make_target(1)
    return ExportedNetwork.export(model, example, coupled.axes, target, coupled.written), coupled


class Lowerings:
    """Counts the plans at which a network is lowered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.widths: list[dict[str, int]] = []
        lowered = ExportedNetwork.lowered

        def counted(exported: ExportedNetwork, widths: dict[str, int], *schemes: object) -> object:
            self.widths.append(dict(widths))
            return lowered(exported, widths, *schemes)

        monkeypatch.setattr(ExportedNetwork, "lowered", counted)


def test_random_plans_tell_what_each_group_alone_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    exported, coupled = export(Branches(12))
    lowerings = Lowerings(monkeypatch)
    found = find_extents("branches", exported, coupled.groups)
    n_groups = len(coupled.groups)
    assert n_groups == 13
    assert len(lowerings.widths) < n_groups
    monkeypatch.setattr(call_extents, "_guess_slopes", lambda *_: None)
    assert find_extents("branches", exported, coupled.groups) == found
    n_terms = [len(e.terms) for call in found for axes in call.shapes for e in axes]
    assert max(n_terms) == 12  # what reads the concatenation follows every branch
    flattened = {e.terms for call in found for axes in call.shapes for e in axes}
    assert (("mixed", 16),) in flattened


def test_random_plans_tell_where_slices_end(monkeypatch: pytest.MonkeyPatch) -> None:
    exported, coupled = export(Parts(3))
    lowerings = Lowerings(monkeypatch)
    found = find_extents("parts", exported, coupled.groups)
    n_groups = len(coupled.groups)
    assert len(lowerings.widths) < n_groups
    bounds = [number.terms for call in found for numbers in call.bounds for number in numbers]
    assert {len(terms) for terms in bounds} >= {1, 2}  # where one part ends, and where two do
    monkeypatch.setattr(call_extents, "_guess_slopes", lambda *_: None)
    assert find_extents("parts", exported, coupled.groups) == found


def test_groups_that_the_plans_do_not_tell_apart_are_tried_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exported, coupled = export(Branches(12))
    found = find_extents("branches", exported, coupled.groups)

    def alike(groups: list[Group]) -> list[dict[str, int]]:
        return [{g.name: g.channels - n for g in groups} for n in (1, 2)]

    monkeypatch.setattr(call_extents, "_random_plans", alike)
    lowerings = Lowerings(monkeypatch)
    assert find_extents("branches", exported, coupled.groups) == found
    assert len(lowerings.widths) > len(coupled.groups)


def test_what_no_parameter_follows_is_found_group_by_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exported, coupled = export(Branches(12))
    found = find_extents("branches", exported, coupled.groups)
    known = call_extents._known_terms

    def single(*given: object) -> set[tuple[tuple[str, int], ...]]:
        return {terms for terms in known(*given) if len(terms) == 1}

    monkeypatch.setattr(call_extents, "_known_terms", single)
    lowerings = Lowerings(monkeypatch)
    assert find_extents("branches", exported, coupled.groups) == found
    assert len(lowerings.widths) > len(coupled.groups)
