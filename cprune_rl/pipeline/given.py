"""Objects that a caller of the Python interface gives in the place of names."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from cprune_rl.accuracy.loop_trainer import TrainingLoop

__all__ = ["Given"]


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a run takes as objects.

    Attributes:
        model: the trained network, left as it was; None to build the named one.
        loop: functions that train and judge it; None to do so on labelled images.
    """

    model: nn.Module | None = None
    loop: TrainingLoop | None = None
