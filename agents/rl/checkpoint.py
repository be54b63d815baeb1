"""A training on disk, so that one that was killed goes on: tensors and plain values, no code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from cprune_rl.errors import PolicyError, first_line

__all__ = ["Checkpoint", "HeldOutResult"]


@dataclass(frozen=True, kw_only=True)
class HeldOutResult:
    """One greedily decoded roll-out on one held-out problem.

    Attributes:
        n_steps: that the policy had been trained for.
        problem: its name.
        log_gain: log of dense over found latency.
        accuracy_evaluations: that it asked for.
        tasks: that it measured.
    """

    n_steps: int
    problem: str
    log_gain: float
    accuracy_evaluations: int
    tasks: int


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A training as it was saved.

    A learner's memory of steps is not in it, and is filled anew.

    Attributes:
        n_steps: environment steps done.
        settings: that must be the same for a training to go on.
        policy: its tensors.
        optimizer: its tensors and numbers.
        held_out: results so far.
        seconds: that the training took.
    """

    n_steps: int
    settings: Mapping[str, Any]
    policy: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    held_out: tuple[HeldOutResult, ...]
    seconds: float

    def write(self, file: Path) -> None:
        """Write it aside and move it: a training that is killed leaves the one before."""
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_suffix(".part")
        value = {
            "n_steps": self.n_steps,
            "settings": dict(self.settings),
            "policy": self.policy,
            "optimizer": self.optimizer,
            "evaluations": [asdict(result) for result in self.held_out],
            "seconds": self.seconds,
        }
        torch.save(value, aside)
        aside.replace(file)

    @staticmethod
    def read(file: Path, settings: Mapping[str, Any]) -> Checkpoint:
        """Read what `write` wrote.

        Args:
            file: of the checkpoint.
            settings: of the training that is to go on.

        Raises:
            PolicyError: the file is damaged, or of another training.
        """
        try:
            value = torch.load(file, weights_only=True)
            checkpoint = Checkpoint(
                n_steps=int(value["n_steps"]),
                settings=dict(value["settings"]),
                policy=value["policy"],
                optimizer=value["optimizer"],
                held_out=tuple(HeldOutResult(**result) for result in value["evaluations"]),
                seconds=float(value["seconds"]),
            )
        except Exception as error:  # torch raises errors of many kinds for a damaged file
            raise PolicyError(
                f"{file} is no checkpoint, or a damaged one: {_describe(error)}"
            ) from error
        if checkpoint.settings != settings:
            raise PolicyError(
                f"{file} is of a training with other settings: give another folder, "
                "or the same settings to go on with it"
            )
        return checkpoint

    def restore(self, model: BaseAlgorithm, file: Path) -> None:
        """Set an algorithm's policy and optimizer to what was saved.

        Args:
            model: of the same settings.
            file: that the checkpoint was read from.

        Raises:
            PolicyError: they are of another network.
        """
        try:
            model.policy.load_state_dict(self.policy)
            model.policy.optimizer.load_state_dict(dict(self.optimizer))
        except Exception as error:  # torch raises errors of many kinds for tensors of other shapes
            raise PolicyError(f"{file} does not fit this network: {_describe(error)}") from error


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
