"""What the tests share: a user cache of their own, and one lowered network for all that need the compiler."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cprune_rl.compiler.device import LocalDevice
    from cprune_rl.compiler.workload import ExportedNetwork
    from cprune_rl.pruning.groups import CoupledGroups
    from cprune_rl.table import Network


@pytest.fixture(autouse=True, scope="session")
def _own_user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the user's own networks and costs."""
    path = tmp_path_factory.mktemp("user-cache")
    before = {name: os.environ.pop(name, None) for name in ("XDG_CACHE_HOME", "CPRUNE_RL_STORAGE")}
    os.environ["XDG_CACHE_HOME"] = str(path)
    yield path
    os.environ.pop("XDG_CACHE_HOME")
    os.environ.update({name: value for name, value in before.items() if value is not None})


@dataclass(frozen=True)
class Lowered:
    """A packaged network, ready for the compiler."""

    model: nn.Module
    example: torch.Tensor
    coupled: CoupledGroups
    exported: ExportedNetwork
    network: Network


@pytest.fixture(scope="session")
def lowered() -> Lowered:
    """`resnet8-w8` with random weights and batch-norm statistics, lowered once."""
    return lower("resnet8-w8")


def lower(name: str) -> Lowered:
    """Any packaged network, lowered."""
    import torch

    from cprune_rl.compiler.lower import describe_network
    from cprune_rl.compiler.target import make_target
    from cprune_rl.compiler.workload import ExportedNetwork
    from cprune_rl.pruning.groups import find_groups
    from cprune_rl.pruning.zoo import MODELS, build_model

    model = build_model(name, 10)
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
    model.eval()
    example = torch.zeros(MODELS[name].input_shape)
    coupled = find_groups(model, example)
    exported = ExportedNetwork.export(model, example, coupled.axes, make_target(1))
    return Lowered(model, example, coupled, exported, describe_network(name, exported, coupled.groups, coupled.unprunable))


@pytest.fixture(scope="session")
def device() -> Iterator[LocalDevice]:
    """The local device, timing briefly and giving up soon."""
    from cprune_rl.compiler.device import LocalDevice, TimingSettings

    with LocalDevice(timing=TimingSettings(n_repeats=2, min_repeat_ms=1, timeout_s=3.0)) as local:
        yield local
