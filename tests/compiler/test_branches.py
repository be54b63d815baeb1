"""Branches for training alone are one convolution where a network is compiled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from cprune_rl.core.network import Network
from cprune_rl.pruning.groups import find_groups
from cprune_rl.pruning.surgery import prune
from tests.compiler.compiled import assert_compiled_equals_torch, layout_variants


def norm(channels: int) -> nn.BatchNorm2d:
    """A batch norm that has seen something."""
    made = nn.BatchNorm2d(channels)
    generator = torch.Generator().manual_seed(channels)
    with torch.no_grad():
        made.running_mean.copy_(torch.randn(channels, generator=generator))
        made.running_var.copy_(torch.rand(channels, generator=generator) + 0.5)
        made.weight.copy_(torch.rand(channels, generator=generator) + 0.5)
        made.bias.copy_(torch.randn(channels, generator=generator))
    return made


class Branches(nn.Module):
    """A block as RepVGG's and MobileOne's: convolutions and a norm of one map, summed."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        settings = {"stride": stride, "groups": groups, "bias": False}
        self.conv3 = nn.Conv2d(n_in, n_out, 3, padding=1, **settings)
        self.norm3 = norm(n_out)
        self.conv1 = nn.Conv2d(n_in, n_out, 1, **settings)
        self.norm1 = norm(n_out)
        self.skip = norm(n_in) if n_in == n_out and stride == 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.norm3(self.conv3(x)) + self.norm1(self.conv1(x))
        if self.skip is not None:
            out = out + self.skip(x)
        return torch.relu(out)


class Asymmetric(nn.Module):
    """ACNet's block: a square kernel, a column, a row, and the map itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.row = nn.Conv2d(channels, channels, (1, 3), padding=(0, 1))
        self.square = nn.Conv2d(channels, channels, 3, padding=1)
        self.column = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.row(x) + self.square(x) + self.column(x))


class OtherMap(nn.Module):
    """Two branches of one map, beside a third of another."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = nn.Conv2d(channels, channels, 1)
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv1 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.before(x))
        return torch.relu(self.conv3(inner) + x + self.conv1(inner))


class ReadTwice(nn.Module):
    """A branch whose map is read elsewhere too, so that it has to be computed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv1 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = self.conv1(x)
        return torch.relu(self.conv3(x) + one) * torch.sigmoid(one)


def network(*blocks: nn.Module, channels: int = 12) -> nn.Module:
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 12, 3, padding=1), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4)]
    return nn.Sequential(*stem, *blocks, *head).eval()


def convolutions(network: Network) -> int:
    workloads = network.workloads(network.dense)
    return sum(w.operator.name in ("conv2d", "depthwise") for w in workloads)


@pytest.mark.parametrize(
    ("model", "n_convolutions"),
    [
        (network(Branches(12, 12), Branches(12, 20, stride=2), channels=20), 3),
        (network(Branches(12, 12, groups=12), Branches(12, 12)), 3),
        (network(Asymmetric(12)), 2),
        (network(OtherMap(12)), 3),
        (network(ReadTwice(12)), 3),
    ],
    ids=["RepVGG", "MobileOne", "ACNet", "beside another map", "read elsewhere too"],
)
def test_branches_are_one_convolution_in_the_dense_and_in_the_pruned_network(
    model: nn.Module, n_convolutions: int, tmp_path: Path
) -> None:
    example = torch.zeros(1, 3, 10, 10)
    coupled = find_groups(model, example)
    variants = layout_variants(model, example, coupled)
    assert convolutions(variants.network) == n_convolutions
    assert coupled.groups
    for plan in (variants.network.dense, variants.network.uniform(0.6)):
        pruned = prune(model, coupled, plan)
        for variant in range(len(variants.all)):
            choice = variants.uniform_choice(variant)
            assert_compiled_equals_torch(variants, plan, choice, pruned, tmp_path)


def test_a_scheme_prunes_no_layer_that_is_merged_with_others() -> None:
    model = network(Branches(12, 12), nn.Conv2d(12, 12, 3), nn.ReLU())
    example = torch.zeros(1, 3, 10, 10)
    coupled = find_groups(model, example)
    variants = layout_variants(model, example, coupled)
    assert "3" in variants.network.scheme_layers
    assert not any(layer.startswith("2.") for layer in variants.network.scheme_layers)
