"""A pruned network as its user has it: one file, without the code that built the network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import cprune_rl
from cprune_rl.errors import ConfigError, DataError
from cprune_rl.models.registry import build_model
from cprune_rl.pruning.groups import find_groups
from cprune_rl.pruning.surgery import PlanFile, load_pruned

OWN = """
from torch import nn
def build(n_classes):
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, n_classes)]
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), *head)
"""
SHAPE = (1, 3, 16, 16)


def write(folder: Path, name: str) -> torch.nn.Module:
    """Write what a run folder has of a network whose first group kept three channels."""
    folder.mkdir()
    dense = build_model(name, 5)
    coupled = find_groups(dense, torch.zeros(SHAPE))
    kept = {coupled.groups[0].name: (0, 1, 2)}
    pruned = coupled.slices.prune(dense, kept).eval()
    PlanFile(model=name, n_classes=5, input_shape=SHAPE, kept=kept).write(folder, pruned)
    return pruned


def without_graph(folder: Path) -> None:
    values = {
        name: value.clone() for name, value in load_file(folder / "model.safetensors").items()
    }
    (folder / "model.safetensors").unlink()
    save_file(values, folder / "model.safetensors")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "mynet.py").write_text(OWN)
    return tmp_path / "mynet.py"


def test_a_network_of_ones_own_opens_after_its_code_is_gone(own: Path, tmp_path: Path) -> None:
    pruned = write(tmp_path / "run", f"{own}:build")
    own.unlink()
    images = torch.randn(3, *SHAPE[1:])
    for path in (tmp_path / "run", tmp_path / "run" / "model.safetensors"):
        network = cprune_rl.load(str(path))
        assert not network.training
        torch.testing.assert_close(network(images), pruned(images))


def test_its_plan_and_weights_still_build_it(own: Path, tmp_path: Path) -> None:
    pruned = write(tmp_path / "run", f"{own}:build")
    images = torch.randn(3, *SHAPE[1:])
    torch.testing.assert_close(load_pruned(tmp_path / "run")[0](images), pruned(images))


def test_a_folder_of_an_older_version_opens_by_the_networks_name(tmp_path: Path) -> None:
    pruned = write(tmp_path / "run", "resnet8-w8")
    without_graph(tmp_path / "run")
    images = torch.randn(3, *SHAPE[1:])
    torch.testing.assert_close(cprune_rl.load(tmp_path / "run")(images), pruned(images))


def test_a_folder_of_an_older_version_does_not_run_its_own_code(own: Path, tmp_path: Path) -> None:
    write(tmp_path / "run", f"{own}:build")
    without_graph(tmp_path / "run")
    own.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ConfigError, match=r"only .*mynet\.py:build can build the network"):
        cprune_rl.load(tmp_path / "run")
    assert not (tmp_path / "ran").exists()


def test_a_path_without_a_network_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no run folder"):
        cprune_rl.load(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"is no run folder: it has no model\.safetensors"):
        cprune_rl.load(tmp_path)
    write(tmp_path / "floor-0.01", "resnet8-w8")
    with pytest.raises(ConfigError, match=r"several networks: open one of floor-0\.01 inside"):
        cprune_rl.load(tmp_path)
    (tmp_path / "floor-0.01" / "model.safetensors").write_bytes(b"{")
    with pytest.raises(DataError, match=r"model\.safetensors cannot be read as weights"):
        cprune_rl.load(tmp_path / "floor-0.01")


def test_weights_without_a_plan_are_named(tmp_path: Path) -> None:
    write(tmp_path / "run", "resnet8-w8")
    without_graph(tmp_path / "run")
    (tmp_path / "run" / "plan.json").write_text(json.dumps({"model": "resnet8-w8"}))
    with pytest.raises(ConfigError, match=r"without a graph, and .*plan\.json is no plan"):
        cprune_rl.load(tmp_path / "run")
