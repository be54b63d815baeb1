"""Structures of published networks that need care go the whole way:

pruned where they can be, compiled, and equal to torch.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from cprune_rl.compiler.export.capture import capture_program
from cprune_rl.pruning.groups import CoupledGroups, find_groups
from cprune_rl.pruning.surgery import prune
from tests.compiler.compiled import assert_compiled_equals_torch, layout_variants

EXAMPLE = torch.zeros(1, 3, 16, 16)
N_CLASSES = 5


class Shuffled(nn.Module):
    """A unit of ShuffleNet: half of the channels pass by, then all are shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.up, self.middle, self.down = (
            nn.Conv2d(8, 12, 1),
            nn.Conv2d(12, 12, 3, 1, 1, groups=12),
            nn.Conv2d(12, 8, 1),
        )
        self.fc = nn.Linear(16, N_CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        passing, x = functional.relu(self.stem(x)).chunk(2, dim=1)
        x = torch.cat((passing, self.down(self.middle(functional.relu(self.up(x))))), dim=1)
        n, channels, height, width = x.shape
        x = (
            x.view(n, 2, channels // 2, height, width)
            .transpose(1, 2)
            .reshape(n, channels, height, width)
        )
        return self.fc(functional.relu(x).mean((2, 3)))  # type: ignore[no-any-return]


class NormAndActivation(nn.BatchNorm2d):
    """A batch norm as timm has it: called as a function, its activation inside."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.Hardswish()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(
            functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps
            )
        )  # type: ignore[no-any-return]


class Squeezed(nn.Module):
    """A block of MobileNetV3:

    an axis counted from the end in one mean, from the front in another; a norm with no convolution
    before it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, 2, 1, bias=False), NormAndActivation(12)
        self.reduce, self.expand = nn.Conv2d(12, 6, 1), nn.Conv2d(6, 12, 1)
        self.pool, self.later = nn.AvgPool2d(2), NormAndActivation(12)
        self.last = nn.Conv2d(12, 12, 1)
        self.fc = nn.Linear(12, N_CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x))
        x = x * torch.sigmoid(
            self.expand(functional.relu(self.reduce(x.mean((-1, -2), keepdim=True))))
        )
        x = self.last(self.later(self.pool(x)))
        x = x + functional.adaptive_avg_pool2d(x, 1)
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


class Tokens(nn.Module):
    """Patches as a sequence, of which the first is read."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 4, 4)
        self.up, self.down = nn.Linear(12, 20), nn.Linear(20, 12)
        self.fc = nn.Linear(12, N_CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.down(functional.gelu(self.up(x)))
        return self.fc(x[:, 0])  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("structure", "pruned_layers", "whole"),
    [
        (Shuffled, {"stem", "up", "middle", "down"}, None),
        (Squeezed, {"stem", "expand", "reduce", "last"}, None),
        (Tokens, {"up", "embed", "down"}, None),
    ],
)
def test_a_structure_goes_the_whole_way(
    structure: type[nn.Module], pruned_layers: set[str], whole: str | None, tmp_path: Path
) -> None:
    model, coupled = made(structure)
    assert {layer for group in coupled.groups for layer in group.layers} >= pruned_layers
    if whole is not None:
        assert any(whole in name or whole in reason for name, reason in coupled.unprunable), (
            coupled.unprunable
        )
        assert whole not in {layer for group in coupled.groups for layer in group.layers}
    variants = layout_variants(model, EXAMPLE, coupled)
    plan = variants.network.uniform(0.6)
    pruned = prune(model, coupled, plan)
    for variant in range(min(2, len(variants.all))):
        choice = variants.uniform_choice(variant)
        assert_compiled_equals_torch(variants, plan, choice, pruned, tmp_path)


def test_folding_leaves_the_users_network_as_it_was() -> None:
    model, _ = made(Squeezed)
    image = torch.randn(EXAMPLE.shape)
    before, names = model(image), list(model.state_dict())
    program, _ = capture_program(model, EXAMPLE, {})
    torch.testing.assert_close(program.module()(image), before, atol=1e-5, rtol=1e-4)
    assert list(model.state_dict()) == names
    assert isinstance(model.get_submodule("norm"), NormAndActivation)
    torch.testing.assert_close(model(image), before, atol=0, rtol=0)


def made(structure: type[nn.Module]) -> tuple[nn.Module, CoupledGroups]:
    torch.manual_seed(0)
    model = structure().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return model, find_groups(model, EXAMPLE)
