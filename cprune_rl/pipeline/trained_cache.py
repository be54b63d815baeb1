"""Keeps trained networks in the user cache folder, so that a machine does each training once."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from cprune_rl.accuracy.supernet import PlanBounds, SupernetSettings
from cprune_rl.accuracy.trainer import Trainer
from cprune_rl.accuracy.training import TrainSettings
from cprune_rl.core.folders import cache_folder
from cprune_rl.models.weights import save_weights

__all__ = ["CachedTraining", "supernet_identity"]

# Names of what a file of weights says of its training: how long it took, and when it ended in
# seconds since the epoch.
_SECONDS = "train_s"
_FINISHED = "finished"


def supernet_identity(weights: str, bounds: PlanBounds) -> str:
    """Name the training of a supernet: it learns to work at plans within the bounds, and no others.

    Args:
        weights: names the dense network's weights and the ranking of its channels.
    """
    return f"supernet:{weights}:{json.dumps(asdict(bounds))}"


@dataclass(frozen=True, kw_only=True)
class CachedTraining:
    """One training, and the file that keeps what came of it.

    Attributes:
        identity: names the network, its starting weights and its teacher.
        trainer: that trains it.
    """

    identity: str
    trainer: Trainer
    settings: TrainSettings | SupernetSettings

    @functools.cached_property
    def path(self) -> Path:
        """File of the trained weights."""
        device = self.trainer.device_type
        key = [self.identity, self.trainer.fingerprint, asdict(self.settings), torch.__version__]
        if device != "cpu":
            key.append(device)  # another processor rounds otherwise
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
        folder = cache_folder() / "networks"
        return folder / f"{name}.safetensors"

    @property
    def is_done(self) -> bool:
        """Whether `load_or_train` only reads a file."""
        return self.path.exists()

    def load_or_train(self, model: nn.Module, train: Callable[[], None]) -> nn.Module:
        """Read the trained weights, or train and keep them.

        Args:
            model: with its starting weights; changed in place.
            train: trains `model`.

        Returns:
            `model`, in evaluation mode.
        """
        if self.is_done:
            try:
                model.load_state_dict(load_file(self.path))
                return model.eval()
            except Exception:  # a damaged file: safetensors and torch raise types of their own
                self.path.unlink()
        started = time.perf_counter()
        train()
        seconds = time.perf_counter() - started
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(f".{os.getpid()}.part")
        metadata = {_SECONDS: f"{seconds:.3f}", _FINISHED: f"{time.time():.3f}"}
        save_weights(model, temporary, metadata)
        temporary.replace(self.path)
        return model.eval()

    def train_s(self, since: float) -> float:
        """Give the seconds that the training took; 0 where it was done before `since`.

        A file of an earlier version does not say, and counts as done before.

        Args:
            since: in seconds since the epoch.
        """
        with safe_open(self.path, framework="pt") as file:
            metadata = file.metadata() or {}
        is_new = float(metadata.get(_FINISHED, 0.0)) >= since
        return float(metadata.get(_SECONDS, 0.0)) if is_new else 0.0
