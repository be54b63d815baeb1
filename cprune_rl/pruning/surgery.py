"""Plan -> smaller network, and (model, plan) as files.

A plan keeps the most important channels of each group by a ranking that is fixed once, so a plan's
indices do not depend on the path of the search that found it. Called by oracles, the job and
`validate`.
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
from cprune_rl.models.weights import save_weights
from cprune_rl.pruning.groups import CoupledGroups, find_slices

__all__ = ["PlanFile", "count_parameters", "kept_indices", "load_pruned", "prune"]


def kept_indices(coupled: CoupledGroups, plan: Plan) -> dict[str, tuple[int, ...]]:
    """For each group the channels a plan keeps, ascending."""
    return {
        g.name: tuple(sorted(coupled.ranking[g.name][:width]))
        for g, width in zip(coupled.groups, plan.widths, strict=True)
    }


def prune(model: nn.Module, coupled: CoupledGroups, plan: Plan) -> nn.Module:
    """The network that a plan leaves: a copy with only the kept channels, in evaluation mode.

    Args:
        model: the dense network, or one of its shape; left as it was.
        coupled: the dense network's groups.
        plan: what is kept.
    """
    return coupled.slices.prune(model, kept_indices(coupled, plan))


def count_parameters(model: nn.Module, schemes: Sequence[tuple[str, str]] = ()) -> int:
    """Number of trained values.

    Args:
        model: with plain weights.
        schemes: of the layers that are pruned by one, by name: what they have pruned does not
            count.
    """
    layers = dict(schemes)
    return sum(
        int(p.count_nonzero())
        if name.removesuffix(".weight") in layers and name.endswith(".weight")
        else p.numel()
        for name, p in model.named_parameters()
    )


@dataclass(frozen=True)
class PlanFile:
    """`plan.json`: with `model.safetensors`, all that a pruned network is.

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
        save_weights(weights, folder / "model.safetensors")

    @staticmethod
    def read(folder: Path) -> PlanFile:
        """Reads `plan.json`.

        Raises:
            PlanError: it is missing, or not a plan.
        """
        path = folder / "plan.json"
        try:
            value = json.loads(path.read_text())
            kept = {
                name: tuple(int(i) for i in group["kept"])
                for name, group in value["groups"].items()
            }
            shape = tuple(int(n) for n in value["input_shape"])
            return PlanFile(
                model=str(value["model"]),
                n_classes=int(value["n_classes"]),
                input_shape=shape,
                kept=kept,
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
    dense = build_model(plan.model, plan.n_classes)
    pruned = find_slices(dense, torch.zeros(plan.input_shape), plan.kept).prune(dense, plan.kept)
    try:
        pruned.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, RuntimeError) as error:
        raise PlanError(
            f"{folder / 'model.safetensors'} does not fit plan.json: {error}"
        ) from error
    return pruned.eval(), plan
