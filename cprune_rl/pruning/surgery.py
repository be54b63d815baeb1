"""Turns a plan into a smaller network, and keeps both as files.

A plan keeps the most important channels of each group by a ranking that is fixed once. So its
indices do not depend on the path of the search that found it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cprune_rl.core.atomic_files import write_text
from cprune_rl.core.json_text import dump_json
from cprune_rl.core.network import Plan
from cprune_rl.core.scheme import Scheme
from cprune_rl.core.untrusted import DAMAGED, damage, printable, read_json, whole
from cprune_rl.errors import CPruneError, DataError, PlanError, first_line
from cprune_rl.models.registry import build_model
from cprune_rl.models.saved_network import save_network
from cprune_rl.models.tensor_files import read_tensors, weight_differences
from cprune_rl.pruning.groups import CoupledGroups, find_slices

__all__ = ["PlanFile", "count_parameters", "kept_indices", "load_pruned", "prune"]

_N_SHOWN = 60  # characters of a wrong name
_MAX_CLASSES = 1 << 20
_MAX_UNSEEN_CLASSES = 4096  # of which no weight shows the number
_MAX_CHANNELS = 1 << 20
_MAX_INPUT = 1 << 22  # values of an image: 3 channels of 1,180 by 1,180


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
        write_text(folder / "plan.json", dump_json(value))
        save_network(weights, self.input_shape, folder / "model.safetensors")

    @staticmethod
    def read(folder: Path) -> PlanFile:
        """Reads `plan.json`.

        Raises:
            PlanError: it is missing, or not a plan.
        """
        path = folder / "plan.json"
        try:
            return _plan_from_json(read_json(path))
        except DAMAGED as error:
            raise PlanError(f"{path} is no plan: {damage(error)}") from error


def load_pruned(folder: Path) -> tuple[nn.Module, PlanFile]:
    """Rebuilds a pruned network from `plan.json` and `model.safetensors`; nothing is unpickled.

    Raises:
        PlanError: a file is missing or damaged, the dense network cannot be built, or the weights
            do not fit the plan.
    """
    plan = PlanFile.read(folder)
    path = folder / "model.safetensors"
    try:
        weights = read_tensors(path)
    except DataError as error:
        raise PlanError(str(error)) from error
    # Before anything of a size is made: a network for 10^6 classes fills the memory.
    has_classes = any(plan.n_classes in value.shape for value in weights.values())
    if plan.n_classes > _MAX_UNSEEN_CLASSES and not has_classes:
        raise PlanError(
            f"{path} does not fit plan.json: none of its weights is of {plan.n_classes} classes"
        )
    try:
        dense = build_model(plan.model, plan.n_classes, n_channels=plan.input_shape[1])
        slices = find_slices(dense, torch.zeros(plan.input_shape), plan.kept)
        pruned = slices.prune(dense, plan.kept)
    except CPruneError as error:
        raise PlanError(f"{folder / 'plan.json'}: {printable(first_line(error))}") from error
    if problems := weight_differences(pruned.state_dict(), weights):
        raise PlanError(f"{path} does not fit plan.json: {'; '.join(problems)}")
    pruned.load_state_dict(weights)
    _check_schemes(pruned, plan, folder)
    return pruned.eval(), plan


def _check_schemes(pruned: nn.Module, plan: PlanFile, folder: Path) -> None:
    layers = dict(pruned.named_modules())
    for layer, _ in plan.schemes:
        if not isinstance(getattr(layers.get(layer), "weight", None), torch.Tensor):
            raise PlanError(
                f"{folder / 'plan.json'} prunes {layer[:_N_SHOWN]!r} by a scheme: "
                "there is no such layer"
            )


def _plan_from_json(value: Any) -> PlanFile:
    schemes = tuple(value["schemes"].items())
    for _, text in schemes:
        Scheme.parse(text)
    shape = tuple(whole(length, "input_shape", 1, _MAX_INPUT) for length in value["input_shape"])
    if len(shape) < 2 or shape[0] != 1 or math.prod(shape) > _MAX_INPUT:
        raise ValueError(f"input_shape {list(shape)[:6]} is not that of one image as a batch")
    return PlanFile(
        model=_text(value["model"]),
        n_classes=whole(value["n_classes"], "n_classes", 1, _MAX_CLASSES),
        input_shape=shape,
        kept={name: _indices(group["kept"]) for name, group in value["groups"].items()},
        schemes=schemes,
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"model is {type(value).__name__}, it must be a text")
    return value


def _indices(values: Sequence[object]) -> tuple[int, ...]:
    kept = tuple(whole(value, "a kept channel", 0, _MAX_CHANNELS) for value in values)
    if list(kept) != sorted(set(kept)):
        raise ValueError("kept channels do not ascend, or one is there twice")
    return kept
