"""Trains and judges networks by functions of a user's, who keeps loss, labels and loader."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cprune_rl.accuracy.comparison_images import spread_images
from cprune_rl.accuracy.data import Split
from cprune_rl.accuracy.final_gate import least_provable_loss
from cprune_rl.accuracy.trainer import OnStep, Part
from cprune_rl.accuracy.training import (
    TrainSettings,
    pointwise_strides_first,
    recalibrate,
    seeded,
)
from cprune_rl.core.intervals import Correct, Counts
from cprune_rl.core.own_loop import OwnLoop
from cprune_rl.errors import ConfigError, CPruneError, first_line
from cprune_rl.models.registry import check_output
from cprune_rl.models.weights import network_hash

__all__ = ["Evaluate", "FineTune", "LoopTrainer", "Right", "TrainingLoop"]

FineTune: TypeAlias = Callable[[nn.Module, int], object]
"""Trains a network in place for so many optimiser steps; what it returns is not looked at."""
Right: TypeAlias = NDArray[np.bool_] | torch.Tensor | Sequence[bool] | tuple[int, int]
"""One boolean for each image, `(n,)`, in the same order each time; or `(n_correct, n_images)`."""
Evaluate: TypeAlias = Callable[[nn.Module], Right]
"""Tells which images a network is right on, or how many."""

_CPU = torch.device("cpu")
_EXPECTED = (
    "give one boolean for each image, such as (output.argmax(1) == labels) of all batches, "
    "or (n_correct, n_images)"
)
# Which images the function judges on that judges the test, as `OwnLoop` says it.
_TEST_IMAGES: Mapping[str, Literal["own", "gate", "search"]] = {
    "test": "own",
    "gate": "gate",
    "evaluate": "search",
}
# Of the images: a GPU may round otherwise the second time, and one near the border flips.
_CHANCE_FLIPS = 0.001


@dataclass(frozen=True, kw_only=True)
class TrainingLoop:
    """Functions of a user's that train and judge networks; see `cprune_rl.Pruner`.

    Attributes:
        fine_tune: `(model, steps)`, in place.
        evaluate: on the images that a search may see.
        gate: on images that decide whether a finished network holds the floor; None where there are
            no others.
        test: on images that are only reported; None likewise.
    """

    fine_tune: FineTune
    evaluate: Evaluate
    gate: Evaluate | None = None
    test: Evaluate | None = None

    def check(self) -> None:
        """Refuse what cannot be called.

        Raises:
            ConfigError: a function is none.
        """
        needed = {"fine_tune": self.fine_tune, "evaluate": self.evaluate}
        functions = {**needed, **self.evaluations}
        for name, function in functions.items():
            if not callable(function):
                raise ConfigError(f"{name} is {type(function).__name__}: give a function")

    @property
    def evaluations(self) -> dict[str, Evaluate]:
        """Those that were given, by their names."""
        given = {"evaluate": self.evaluate, "gate": self.gate, "test": self.test}
        return {name: function for name, function in given.items() if function is not None}

    @property
    def name_for(self) -> dict[Part, str]:
        """Name of the function that judges each part."""
        gate = "evaluate" if self.gate is None else "gate"
        return {"search": "evaluate", "gate": gate, "test": gate if self.test is None else "test"}


class LoopTrainer:
    """Trains and judges by a user's functions (a `Trainer`).

    Args:
        loop: the functions.
        images: without labels, as a network sees them: for batch norms, and to compare compiled
            networks on.
        name: of the images and the loop, as `--data` has it: names all that is cached.
        loop_name: of the loop alone.
        model: the dense network; stays as it is. Every function that judges is tried on it, and is
            not asked about it again.

    Raises:
        ModelError: the network does not take the images, or gives no tensor.
        ConfigError: a function fails, gives something else than it should, another answer the
            second time, or changes the network.
    """

    device_type = "cpu"
    is_agreement = False
    judges_together = False

    def __init__(
        self, loop: TrainingLoop, images: Split, *, name: str, loop_name: str, model: nn.Module
    ) -> None:
        self.name = name
        self._loop = loop
        self._loop_name = loop_name
        self._images = images
        self._dense = model
        self.n_classes = check_output(model, torch.zeros(self.input_shape), None, "the network")[-1]
        self._first = {what: self._try(what, model) for what in loop.evaluations}

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"own loop:{self.name}".encode()).hexdigest()[:16]

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return (1, *self._images.images.shape[1:])  # type: ignore[return-value]  # of four

    @property
    def n_images(self) -> Mapping[Part, int]:
        return {part: len(self._first[what]) for part, what in self._loop.name_for.items()}

    @property
    def own_loop(self) -> OwnLoop:
        name_for = self._loop.name_for
        has_gate = name_for["gate"] == "gate"
        return OwnLoop(
            name=self._loop_name,
            gate_images="own" if has_gate else "search",
            test_images=_TEST_IMAGES[name_for["test"]],
            is_paired=not isinstance(self._first[name_for["gate"]], Counts),
        )

    def describe(self) -> Mapping[str, object]:
        sizes = {f"n_{part}": n_images for part, n_images in self.n_images.items()}
        return {
            "name": self.name,
            "n_classes": self.n_classes,
            "input_shape": list(self.input_shape),
            "fingerprint": self.fingerprint,
            "n_given": len(self._images),
            **sizes,
        }

    def warnings(self, floors: Sequence[float], risk: float) -> list[str]:
        found = self.own_loop.caveats
        dense_correct = self._first[self._loop.name_for["gate"]]
        least = least_provable_loss(dense_correct, risk)
        advice = "Judge more images, or ask for a lower floor or less confidence."
        if isinstance(dense_correct, Counts):
            advice = f"Give one boolean for each image. Else: {advice[0].lower()}{advice[1:]}"
        for floor in floors:
            if -least < floor <= 0:
                found.append(
                    f"On the gate's {len(dense_correct):,} images, even a network as good as the "
                    f"dense one may lose {least:.2%}: none can be shown to hold the floor "
                    f"{floor:+.2%}. {advice}"
                )
        return found

    def comparison_images(self) -> NDArray[np.float32]:
        return spread_images(self._images)

    def train(
        self,
        model: nn.Module,
        settings: TrainSettings,
        on_step: OnStep | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        before = _shapes(model)
        _make_contiguous(model.train())
        with seeded(settings.seed, _CPU), pointwise_strides_first(model, _CPU), torch.enable_grad():
            made = _call("fine_tune", self._loop.fine_tune, model, settings.n_steps)
        if isinstance(made, nn.Module) and made is not model:
            raise ConfigError(
                "fine_tune gives another network: it must train the one that it gets, in place"
            )
        model.to(_CPU).eval()
        model.zero_grad(set_to_none=True)
        if _shapes(model) != before:
            raise ConfigError(
                "fine_tune changes the weights' names or shapes: it must train the network that it "
                "gets, in place, and take off what it puts around its layers"
            )
        if on_step is not None:
            on_step(settings.n_steps, math.nan)

    def judge(self, model: nn.Module, part: Part) -> Correct:
        what = self._loop.name_for[part]
        first = self._first[what]
        if model is self._dense:
            return first
        correct = self._ask(what, model)
        if (len(correct), type(correct)) != (len(first), type(first)):
            raise ConfigError(
                f"{what} gives {_described(correct)}, and gave {_described(first)} for the dense "
                "network: it must judge the same images each time"
            )
        return correct

    def recalibrate(self, model: nn.Module) -> None:
        recalibrate(model, self._images)

    def accumulate_gradients(self, model: nn.Module) -> None:
        raise ConfigError(
            "importance='taylor' needs the loss, which a training loop of your own keeps to "
            "itself: take another, such as 'l2'"
        )

    def _ask(self, what: str, model: nn.Module) -> Correct:
        _make_contiguous(model.eval())
        with torch.no_grad():
            value = _call(what, self._loop.evaluations[what], model)
        model.to(_CPU).eval()
        return _checked(what, value)

    def _try(self, what: str, model: nn.Module) -> Correct:
        """Ask a function twice about the dense network."""
        before = network_hash(model)
        first = self._ask(what, model)
        second = self._ask(what, model)
        if network_hash(model) != before:
            raise ConfigError(
                f"{what} changes the network: leave it in evaluation mode, and train nothing there"
            )
        if _n_differences(first, second) > _CHANCE_FLIPS * len(first):
            raise ConfigError(
                f"{what} gives another answer about the same network the second time: judge the "
                "same images in the same order, without shuffling and random transforms"
            )
        return first


def _call(what: str, function: Callable[..., Any], *args: object) -> Any:
    try:
        return function(*args)
    except CPruneError:
        raise
    except Exception as error:  # the user's own function raises anything
        raise ConfigError(f"{what} fails: {type(error).__name__}: {first_line(error)}") from error


def _checked(what: str, value: Any) -> Correct:
    """Take what a function gives.

    Raises:
        ConfigError: it is something else than it should be.
    """
    counts = _as_counts(value)
    if counts is not None:
        if not 0 <= counts.n_correct <= counts.n_images or counts.n_images < 1:
            raise ConfigError(
                f"{what} gives {counts.n_correct} right images of {counts.n_images}: {_EXPECTED}"
            )
        return counts
    if isinstance(value, float | np.floating):
        raise ConfigError(f"{what} gives {value:g}, and not of how many images: {_EXPECTED}")
    try:
        right = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
    except (TypeError, ValueError, RuntimeError):  # batches of different sizes
        raise ConfigError(
            f"{what} gives {type(value).__name__} that is no array: {_EXPECTED}"
        ) from None
    if right.dtype != np.bool_ or right.ndim != 1 or not len(right):
        raise ConfigError(f"{what} gives {_named(value, right)}: {_EXPECTED}")
    return right


def _named(value: Any, array: NDArray[Any]) -> str:
    if array.dtype == object:
        return type(value).__name__
    return f"{type(value).__name__} of {array.dtype} {array.shape}"


def _as_counts(value: Any) -> Counts | None:
    """Take two whole numbers, numpy's and torch's too."""
    if not isinstance(value, tuple) or len(value) != 2:
        return None
    numbers = [v.item() if isinstance(v, torch.Tensor) and v.ndim == 0 else v for v in value]
    is_whole = [isinstance(v, int | np.integer) and not isinstance(v, bool) for v in numbers]
    return Counts(*(int(v) for v in numbers)) if all(is_whole) else None


def _described(correct: Correct) -> str:
    kind = "a count of" if isinstance(correct, Counts) else "booleans of"
    return f"{kind} {len(correct):,} images"


def _n_differences(first: Correct, second: Correct) -> float:
    if len(first) != len(second) or type(first) is not type(second):
        return math.inf
    if isinstance(first, Counts) or isinstance(second, Counts):
        return abs(int(first.sum()) - int(second.sum()))
    return float((first != second).sum())


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def _make_contiguous(model: nn.Module) -> None:
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stub lacks this form
