"""Trained networks: the base network and fine-tuned plans, kept in the user cache folder.

Training the same network on the same images with the same settings is done once on a machine.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from platformdirs import user_cache_path
from safetensors.torch import load_file
from torch import nn

from cprune_rl.accuracy.data import ImageData
from cprune_rl.accuracy.supernet import PlanSpace, Supernet, SupernetSettings, train_supernet
from cprune_rl.accuracy.training import TrainSettings, train
from cprune_rl.models.weights import save_weights

__all__ = ["is_cached", "is_supernet_cached", "train_or_load", "train_or_load_supernet"]

OnStep = Callable[[int, float], None]


def _path(identity: str, data: ImageData, settings: TrainSettings | SupernetSettings) -> Path:
    where = (
        [] if data.train.device.type == "cpu" else [data.train.device.type]
    )  # another processor rounds otherwise
    text = json.dumps([identity, data.fingerprint, asdict(settings), torch.__version__, *where])
    return (
        user_cache_path("cprune-rl", ensure_exists=True)
        / "networks"
        / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.safetensors"
    )


def is_cached(identity: str, data: ImageData, settings: TrainSettings) -> bool:
    """Whether `train_or_load` would only read a file."""
    return _path(identity, data, settings).exists()


def train_or_load(
    model: nn.Module,
    identity: str,
    data: ImageData,
    settings: TrainSettings,
    on_step: OnStep | None = None,
    teacher: nn.Module | None = None,
) -> nn.Module:
    """Trains a network in place, or reads what the same training gave before.

    Args:
        model: with its starting weights.
        identity: names the network and its starting weights.
        data: images; only `data.train` is learnt from.
        settings: of the training.
        on_step: see `training.train`.
        teacher: see `training.train`; `identity` names it too.

    Returns:
        `model`, in evaluation mode.
    """
    return _load_or_train(
        model,
        _path(identity, data, settings),
        lambda: train(model, data, settings, on_step=on_step, teacher=teacher),
    )


def is_supernet_cached(
    weights: str, space: PlanSpace, data: ImageData, settings: SupernetSettings
) -> bool:
    """Whether `train_or_load_supernet` would only read a file."""
    return _path(_supernet(weights, space), data, settings).exists()


def train_or_load_supernet(
    supernet: Supernet,
    weights: str,
    data: ImageData,
    settings: SupernetSettings,
    on_step: Callable[[int], None] | None = None,
) -> nn.Module:
    """Trains a supernet in place, or reads what the same training gave before.

    A training that was stopped goes on.

    Args:
        supernet: a copy of the dense network, and the plans that it is to work at.
        weights: names its weights and the ranking of its channels.
        data: images; only `data.train` is learnt from.
        settings: of the training.
        on_step: called with the number of steps done after each.

    Returns:
        Its network, in evaluation mode.
    """
    path = _path(_supernet(weights, supernet.space), data, settings)
    checkpoint = path.with_suffix(".checkpoint")
    return _load_or_train(
        supernet.model,
        path,
        lambda: train_supernet(supernet, data, settings, checkpoint=checkpoint, on_step=on_step),
    )


def _supernet(weights: str, space: PlanSpace) -> str:
    """Names its training: it learns to work at the plans of a space, and at no others."""
    return f"supernet:{weights}:{json.dumps(asdict(space))}"


def _load_or_train(model: nn.Module, path: Path, train_it: Callable[[], None]) -> nn.Module:
    """Weights from a file, or trained and written to it."""
    if path.exists():
        try:
            model.load_state_dict(load_file(path))
            return model.eval()
        except (
            Exception
        ):  # safetensors raises its own type for a damaged file, torch another: train again over it
            path.unlink()
    train_it()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.part")
    save_weights(model, temporary)
    temporary.replace(path)
    return model.eval()
