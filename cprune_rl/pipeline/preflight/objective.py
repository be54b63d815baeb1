"""What a step of training minimises, on a few targets: as a run will, before one is begun."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from cprune_rl.accuracy.data import ImageData
from cprune_rl.accuracy.data.image_data import CPU
from cprune_rl.accuracy.task import CLASSIFICATION, Task
from cprune_rl.accuracy.training import on_device, side_loss
from cprune_rl.models.side_heads import Heads

__all__ = ["Objective"]

_N_TARGETS = 8


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A task with a few targets, on the CPU.

    Attributes:
        n_classes: logits that the network must give; None where a task of the user's takes outputs
            of any shape.
        task: whose loss it is.
        targets: `(n, ...)`.
    """

    n_classes: int | None
    task: Task
    targets: torch.Tensor

    @classmethod
    def of_classes(cls, n_classes: int) -> Objective:
        """Give one that tells so many classes apart."""
        targets = torch.arange(_N_TARGETS) % n_classes
        return cls(n_classes=n_classes, task=CLASSIFICATION, targets=targets)

    @classmethod
    def of_task(cls, data: ImageData, model: nn.Module) -> Objective:
        """Give that of a user's task, on the first images' targets.

        Args:
            data: with the task.
            model: in evaluation mode. Its answers stand for targets that the images do not have.

        Raises:
            ConfigError: the task fails, or cannot say what an answer stands for.
        """
        split = data.train
        first = slice(0, min(_N_TARGETS, len(split)))
        targets = split.targets[first]
        if not data.n_classes:
            with torch.no_grad(), on_device(model, split.device):
                targets = split.task.targets_of(model(split.batch(first)))
        return cls(n_classes=None, task=split.task, targets=targets.to(CPU))

    def targets_of(self, n_images: int) -> torch.Tensor:
        """Give so many targets, the first ones again where there are fewer, `(n_images, ...)`."""
        return self.targets[torch.arange(n_images) % len(self.targets)]

    def loss(self, heads: Heads) -> torch.Tensor:
        """Give the loss of what a network gave, a scalar."""
        targets = self.targets_of(len(heads.main))
        loss = self.task.loss(heads.main.float(), targets)
        return loss + side_loss(heads, self.task, targets)
