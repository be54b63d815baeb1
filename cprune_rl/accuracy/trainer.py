"""Trains networks and judges them: on a data set's images, or by functions of a user's.

Everything else of a run asks a `Trainer`. `tests/accuracy/test_trainer.py` holds each one to the
contract.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cprune_rl.accuracy.comparison_images import comparison_images
from cprune_rl.accuracy.data import ImageData, data_warnings
from cprune_rl.accuracy.final_gate import undetectable_loss
from cprune_rl.accuracy.training import (
    TrainSettings,
    accumulate_gradients,
    correct_predictions,
    recalibrate,
    train,
)
from cprune_rl.core.intervals import Correct
from cprune_rl.core.own_loop import OwnLoop
from cprune_rl.errors import ConfigError

__all__ = ["ImageTrainer", "OnStep", "Part", "Trainer", "accuracy_on", "labelled_images"]

OnStep = Callable[[int, float], None]
Part: TypeAlias = Literal["search", "gate", "test"]
"""Images that networks are judged on: inside a search, by the final gate, for the report."""


class Trainer(Protocol):
    """Trains networks in place, and tells which images they are right on; deterministic.

    Networks come on the CPU, and are left there in evaluation mode.
    """

    @property
    def name(self) -> str:
        """Of the images, as `--data` has it."""

    @property
    def fingerprint(self) -> str:
        """Names images, training and judging: part of the key of all that is cached."""

    @property
    def device_type(self) -> str:
        """Where networks are trained, as torch calls it: another processor rounds otherwise."""

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Of one image as a batch, `(1, channels, height, width)`."""

    @property
    def n_classes(self) -> int:
        """Outputs of a network for one image."""

    @property
    def n_images(self) -> Mapping[Part, int]:
        """Number of images of each part."""

    @property
    def is_agreement(self) -> bool:
        """Whether a network is right where it answers as the dense one does."""

    @property
    def judges_together(self) -> bool:
        """Whether networks may be judged in several threads at once."""

    @property
    def own_loop(self) -> OwnLoop | None:
        """What must be stated of a user's functions; None where there are none."""

    def describe(self) -> Mapping[str, object]:
        """Say what a report says of the images: name, sizes, input."""

    def warnings(self, floors: Sequence[float], risk: float) -> list[str]:
        """Say what makes figures less sure than they look; empty where nothing does.

        Args:
            floors: as asked for, see `resolve_floor`.
            risk: of the final gate, in (0, 1).
        """

    def comparison_images(self) -> NDArray[np.float32]:
        """Give images to compare compiled networks with torch on, `(n, channels, height, width)`.

        They are as a network sees them, at most 16, and the same ones each time.
        """

    def train(
        self,
        model: nn.Module,
        settings: TrainSettings,
        on_step: OnStep | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        """Train a network in place, and leave it in evaluation mode.

        Args:
            model: of the dense network's kind, with fewer channels.
            settings: steps and seed at least are kept to.
            on_step: called with the number of steps done and the loss, where these are known; at
                least once, in the end.
            teacher: whose answers may be learnt too.
        """

    def judge(self, model: nn.Module, part: Part) -> Correct:
        """Tell which images of a part a network is right on: the same images in one order."""

    def recalibrate(self, model: nn.Module) -> None:
        """Recompute batch-norm statistics from images that are no part of the gate or the test."""

    def accumulate_gradients(self, model: nn.Module) -> None:
        """Fill in the gradients of the loss; weights and statistics stay.

        Raises:
            ConfigError: the loss is not known.
        """


def accuracy_on(trainer: Trainer, model: nn.Module, part: Part) -> float:
    """Give the share of images of a part that a network is right on, in [0, 1]."""
    return float(trainer.judge(model, part).mean())


@dataclass(frozen=True)
class ImageTrainer:
    """Trains and judges on the images of a data set, as `training` does (a `Trainer`)."""

    data: ImageData

    @property
    def name(self) -> str:
        return self.data.name

    @property
    def fingerprint(self) -> str:
        return self.data.fingerprint

    @property
    def device_type(self) -> str:
        return self.data.train.device.type

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return self.data.input_shape

    @property
    def n_classes(self) -> int:
        return self.data.n_classes

    @property
    def n_images(self) -> Mapping[Part, int]:
        data = self.data
        return {"search": len(data.search), "gate": len(data.gate), "test": len(data.test)}

    @property
    def is_agreement(self) -> bool:
        return self.data.is_agreement

    @property
    def judges_together(self) -> bool:
        return self.device_type == "cpu"

    @property
    def own_loop(self) -> None:
        return None

    def describe(self) -> Mapping[str, object]:
        return self.data.describe()

    def warnings(self, floors: Sequence[float], risk: float) -> list[str]:
        found = data_warnings(self.data)
        n_images = len(self.data.gate)
        least = undetectable_loss(n_images, risk)
        for floor in floors:
            if -least < floor <= 0:
                found.append(
                    f"The gate has {n_images:,} images: on so few, even a network that answers as "
                    f"the dense one does may lose {least:.2%}, so none can be shown to hold the "
                    f"floor {floor:+.2%}. Give more images, a lower --floor or less --confidence."
                )
        return found

    def comparison_images(self) -> NDArray[np.float32]:
        return comparison_images(self.data)

    def train(
        self,
        model: nn.Module,
        settings: TrainSettings,
        on_step: OnStep | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        train(model, self.data, settings, on_step=on_step, teacher=teacher)

    def judge(self, model: nn.Module, part: Part) -> NDArray[np.bool_]:
        return correct_predictions(model, self.data.splits[part])

    def recalibrate(self, model: nn.Module) -> None:
        recalibrate(model, self.data.train)

    def accumulate_gradients(self, model: nn.Module) -> None:
        accumulate_gradients(model, self.data)


def labelled_images(trainer: Trainer, purpose: str) -> ImageData:
    """Give the images of a data set, with their labels.

    Args:
        trainer: that trains on them.
        purpose: what needs them, for the error.

    Raises:
        ConfigError: it is a user's own loop, which keeps its images to itself.
    """
    if not isinstance(trainer, ImageTrainer):
        raise ConfigError(
            f"{purpose} needs labelled images, which a training loop of your own keeps to itself: "
            "leave it out, or give images and labels to cprune_rl.prune"
        )
    return trainer.data
