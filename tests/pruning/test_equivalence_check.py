"""Groups whose channels cannot be removed safely are found, and stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cprune_rl.errors import ModelError
from cprune_rl.pruning.equivalence_check import find_unsafe_groups, randomize_zero_scales
from cprune_rl.pruning.groups import find_groups, find_slices
from cprune_rl.pruning.slices import ChannelSlices
from tests.doubles.networks import packaged_network


class Numbered(nn.Module):
    """Weighs channels by their numbers: a structure whose removal is not masking."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x).mean((2, 3))
        return self.fc(y * torch.arange(y.shape[1]))


def test_a_group_that_cannot_be_removed_stays_whole_and_says_why() -> None:
    with pytest.raises(ModelError, match=r"conv: is combined \(mul, in the network's own"):
        find_groups(Numbered(), torch.randn(1, 3, 8, 8))


class BadNeighbours(nn.Module):
    """A good group, a grouped convolution, a norm over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.second = nn.Conv2d(8, 12, 3)
        self.norm = nn.GroupNorm(1, 12)
        self.third = nn.Conv2d(12, 6, 3)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.second(torch.relu(self.grouped(self.first(x))))))
        return self.fc(torch.relu(self.third(y)).mean((2, 3)))


def test_groups_at_fault_are_found_among_good_ones() -> None:
    coupled = find_groups(BadNeighbours(), torch.zeros(1, 3, 16, 16))
    assert [g.name for g in coupled.groups] == ["third"]
    reasons = dict(coupled.unprunable)
    assert reasons["second"].startswith("'norm' takes a norm over all of its channels")
    assert reasons["grouped"].startswith("'grouped' has 2 groups")
    assert reasons["fc"] == "gives the network's output"


class Hidden(nn.Module):
    """A branch whose channels cannot be removed, behind a scale that begins at nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, 8, 3, 1, 1)
        self.conv1 = nn.Conv2d(8, 8, 3, 1, 1)
        self.conv2 = nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 3)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv0(x)
        h = self.conv1(x)
        h = h - h.mean(1, keepdim=True)
        return self.fc((x + self.norm(self.conv2(h))).mean((2, 3)))


def test_a_scale_that_begins_at_nothing_hides_nothing_from_the_check() -> None:
    coupled = find_groups(Hidden().eval(), torch.zeros(1, 3, 8, 8))
    assert "takes together, by mean, all of its channels" in dict(coupled.unprunable)["conv1"]
    assert {"conv0", "conv2"} & {group.name for group in coupled.groups}


def test_safe_groups_of_a_network_are_not_refused() -> None:
    model, coupled = packaged_network("resnet8-w8")
    channels = {group.name: group.channels for group in coupled.groups}
    example = torch.zeros(1, 3, 32, 32)
    assert find_unsafe_groups(model, coupled.slices, example, groups=channels) == {}
    assert find_unsafe_groups(model, coupled.slices, example, groups={}) == {}


def test_an_error_while_a_group_is_removed_is_its_reason() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 4))
    example = torch.zeros(1, 3, 8, 8)
    slices = find_slices(model, example, ["0"])
    without_reader = ChannelSlices(slices.widths, [part for part in slices.all if not part.reads])
    reasons = find_unsafe_groups(model, without_reader, example, groups={"0": 8})
    assert reasons["0"].startswith("removing channels fails: RuntimeError: ")


class Endings(nn.Module):
    """A layer whose channels cannot go, and an ending that may hide it.

    Args:
        ending: what becomes of the logits.
        offset: added to the first of them.
    """

    def __init__(self, ending: nn.Module, offset: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 24, 3, 2, 1)
        self.second = nn.Conv2d(24, 32, 3, 2, 1)
        self.fc = nn.Linear(32, 5)
        self.ending = ending
        with torch.no_grad():
            self.fc.bias[0] += offset

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        y = y / y.norm(dim=1, keepdim=True)
        return self.ending(self.fc(torch.relu(self.second(y)).mean((2, 3))))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("ending", "offset"),
    [
        (nn.Identity(), 0.0),
        (nn.Identity(), 40.0),
        (nn.Identity(), 1e6),
        (nn.Softmax(1), 0.0),
        (nn.Softmax(1), 40.0),
        (nn.Softmax(1), 4000.0),
        (nn.Sigmoid(), -200.0),
    ],
)
def test_large_answers_and_sure_ones_hide_nothing(ending: nn.Module, offset: float) -> None:
    model = Endings(ending, offset).eval()
    example = torch.zeros(1, 3, 16, 16)
    slices = find_slices(model, example, ["first", "second"])
    unsafe = find_unsafe_groups(model, slices, example, groups={"first": 24, "second": 32})
    assert list(unsafe) == ["first"], "the norm reads all channels, whatever the ending is"
    assert "removing channels is not masking them" in unsafe["first"]


class EqualWidths(nn.Module):
    """Two layers that must lose as many channels: either alone spoils the network."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        some = self.first(x)
        others = self.second(x)
        if some.shape[1] != 8 and others.shape[1] != 8:
            some = 2 * some
        return self.fc(torch.cat([some, others], 1).mean((2, 3)))  # type: ignore[no-any-return]


def test_groups_that_fail_only_together_are_found() -> None:
    coupled = find_groups(EqualWidths().eval(), torch.zeros(1, 3, 8, 8))
    assert len(coupled.groups) == 1
    assert (
        "not masking"
        in dict(coupled.unprunable)["second" if coupled.groups[0].name == "first" else "first"]
    )


def test_scales_of_zero_are_drawn_anew_in_a_copy() -> None:
    model = Hidden()
    before = model.norm.weight.clone()
    changed = randomize_zero_scales(model)
    assert isinstance(changed, Hidden)
    assert (changed.norm.weight >= 0.5).all()
    assert torch.equal(model.norm.weight, before), "the network itself stays as it was"
    assert torch.equal(changed.conv1.weight, model.conv1.weight)
    assert torch.equal(changed.norm.bias, model.norm.bias), "a bias of zero hides nothing"
