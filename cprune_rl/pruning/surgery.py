"""Turns a plan into a smaller network, and keeps both as files.

A plan keeps the most important channels of each group by a ranking that is fixed once. So its
indices do not depend on the path of the search that found it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from cprune_rl.core.json_text import dump_json
from cprune_rl.core.network import Plan
from cprune_rl.errors import PlanError
from cprune_rl.models.registry import build_model
from cprune_rl.models.saved_network import save_network
from cprune_rl.pruning.groups import CoupledGroups, find_slices

__all__ = ["PlanFile", "count_parameters", "kept_indices", "load_pruned", "prune"]


def kept_indices(coupled: CoupledGroups, plan: Plan) -> dict[str, tuple[int, ...]]:
    """For each group the channels that a plan keeps, ascending."""
    return {
        group.name: tuple(sorted(coupled.ranking[group.name][:width]))
        for group, width in zip(coupled.groups, plan.widths, strict=True)
    }


def prune(model: nn.Module, coupled: CoupledGroups, plan: Plan) -> nn.Module:
    """Copies a network with only the channels that a plan keeps, in evaluation mode.

    Args:
        model: the dense network, or one of its shape; left as it was.
        coupled: the dense network's groups.
        plan: what is kept.
    """
    return coupled.slices.prune(model, kept_indices(coupled, plan))


def count_parameters(model: nn.Module, schemes: Sequence[tuple[str, str]] = ()) -> int:
    """Counts trained values.

    Args:
        model: with plain weights.
        schemes: of the layers that are pruned by one, by name: their zeros do not count.
    """
    sparse_weights = {f"{layer}.weight" for layer, _ in schemes}
    return sum(
        int(value.count_nonzero()) if name in sparse_weights else value.numel()
        for name, value in model.named_parameters()
    )


@dataclass(frozen=True, kw_only=True)
class PlanFile:
    """Stores a plan as `plan.json`: with `model.safetensors`, all that a pruned network is.

    Attributes:
        model: name of the dense network.
        n_classes: of its last layer.
        input_shape: of one image as a batch.
        kept: for each group the channels that stay.
        schemes: scheme of each layer that is not dense.
    """

    model: str
    n_classes: int
    input_shape: tuple[int, ...]
    kept: Mapping[str, tuple[int, ...]]
    schemes: tuple[tuple[str, str], ...] = ()

    def write(self, folder: Path, weights: nn.Module) -> None:
        """Writes `plan.json` and `model.safetensors`."""
        value = {
            "model": self.model,
            "n_classes": self.n_classes,
            "input_shape": list(self.input_shape),
            "groups": {name: {"kept": list(indices)} for name, indices in self.kept.items()},
            "schemes": dict(self.schemes),
        }
        (folder / "plan.json").write_text(dump_json(value))
        save_network(weights, self.input_shape, folder / "model.safetensors")

    @staticmethod
    def read(folder: Path) -> PlanFile:
        """Reads `plan.json`.

        Raises:
            PlanError: it is missing, or not a plan.
        """
        path = folder / "plan.json"
        try:
            value = json.loads(path.read_text())
            groups = value["groups"].items()
            return PlanFile(
                model=str(value["model"]),
                n_classes=int(value["n_classes"]),
                input_shape=tuple(map(int, value["input_shape"])),
                kept={name: tuple(map(int, group["kept"])) for name, group in groups},
                schemes=tuple(value["schemes"].items()),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise PlanError(f"{path} is no plan: {error}") from error


def load_pruned(folder: Path) -> tuple[nn.Module, PlanFile]:
    """Rebuilds a pruned network from `plan.json` and `model.safetensors`; nothing is unpickled.

    Raises:
        PlanError: a file is missing, or the weights do not fit the plan.
    """
    plan = PlanFile.read(folder)
    dense = build_model(plan.model, plan.n_classes, n_channels=plan.input_shape[1])
    slices = find_slices(dense, torch.zeros(plan.input_shape), plan.kept)
    pruned = slices.prune(dense, plan.kept)
    path = folder / "model.safetensors"
    try:
        pruned.load_state_dict(load_file(path))
    except (OSError, RuntimeError) as error:
        raise PlanError(f"{path} does not fit plan.json: {error}") from error
    return pruned.eval(), plan
