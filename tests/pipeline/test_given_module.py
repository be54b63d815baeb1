"""A module that is given in Python may be wrapped, and may keep what it computed."""

from __future__ import annotations

import torch
from torch import nn

from cprune_rl.accuracy.training import TrainSettings
from cprune_rl.models.registry import object_name
from cprune_rl.pipeline.given import Given
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.trained_model import LoadSettings, load_trained_model
from cprune_rl.pruning.groups import GroupSettings


class KeepsItsMaps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.conv2 = nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.maps = self.conv2(self.conv1(x).relu()).relu()
        return self.fc(self.maps.mean((2, 3)))  # type: ignore[no-any-return]


def test_wrappers_are_taken_off_a_copy_and_the_module_stays() -> None:
    module = KeepsItsMaps()
    module(torch.rand(2, 3, 8, 8))
    wrapped = nn.DataParallel(module)
    settings = LoadSettings(
        network=object_name(wrapped),
        data="digits",
        weights=None,
        training=TrainSettings(n_steps=1),
        groups=GroupSettings(),
        train_device="cpu",
        seed=0,
        top=1,
        labels="given",
        task=None,
        is_fast=True,
    )
    loaded = load_trained_model(settings, ProgressLog(), Given(model=wrapped))
    assert type(loaded.model) is KeepsItsMaps
    assert loaded.model is not module
    assert wrapped.module is module
    assert [group.name for group in loaded.coupled.groups] == ["conv2", "conv1"]
