"""What a network is trained for and judged by: a class for each image, or a task of the user's."""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional

from cprune_rl.core.user_function import load_factory
from cprune_rl.errors import ConfigError, first_line

__all__ = ["CLASSIFICATION", "Classification", "Task", "UserTask", "load_task"]

_TEMPERATURE = 2.0  # at which a teacher's predictions are compared
_METHODS = ("loss", "correct")
_EXPECTED = (
    "A task is a class with loss(output, target), a scalar to minimise, and "
    "correct(output, target), a bool for each image."
)


class Task(Protocol):
    """Says what training minimises, and which images count as right."""

    @property
    def identity(self) -> str:
        """Part of the key of what is cached; empty where classes are the task."""

    @property
    def top(self) -> int:
        """Most likely classes among which the label may be; 1 where the task has no classes."""

    def loss(
        self, output: torch.Tensor, target: torch.Tensor, label_smoothing: float = 0.0
    ) -> torch.Tensor:
        """Gives the mean loss of a batch, a scalar.

        Args:
            output: of the network, float32, images first.
            target: of the same images.
            label_smoothing: mass moved from the label to all classes, where there are classes.
        """

    def correct(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Tells which images are right, `(n,)` bool."""

    def distillation_loss(
        self, output: torch.Tensor, teacher_output: torch.Tensor
    ) -> torch.Tensor | None:
        """Gives the difference to a teacher's output, a scalar; None where the task has none."""

    def targets_of(self, output: torch.Tensor) -> torch.Tensor:
        """Gives the targets that an output stands for: the labels that a teacher gives."""


@dataclass(frozen=True)
class Classification:
    """Has one class for each image: cross-entropy, and the label among the most likely classes.

    Attributes:
        top: so many of them.
    """

    top: int = 1

    @property
    def identity(self) -> str:
        return ""

    def loss(
        self, output: torch.Tensor, target: torch.Tensor, label_smoothing: float = 0.0
    ) -> torch.Tensor:
        return functional.cross_entropy(output, target, label_smoothing=label_smoothing)

    def correct(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output.topk(self.top).indices == target[:, None]).any(1)

    def distillation_loss(
        self, output: torch.Tensor, teacher_output: torch.Tensor
    ) -> torch.Tensor | None:
        difference = functional.kl_div(
            functional.log_softmax(output / _TEMPERATURE, 1),
            functional.softmax(teacher_output / _TEMPERATURE, 1),
            reduction="batchmean",
        )
        # the square brings it to the scale of a loss on labels (Hinton et al., 2015)
        return difference * _TEMPERATURE**2

    def targets_of(self, output: torch.Tensor) -> torch.Tensor:
        return output.argmax(1)


CLASSIFICATION = Classification()


class UserTask:
    """Checks what a user's task gives.

    Args:
        name: as `--task` takes it.
        own: the user's object.
        identity: changes with its code.

    Raises:
        ConfigError: it lacks a method.
    """

    top = 1

    def __init__(self, name: str, own: Any, identity: str) -> None:
        self.name = name
        self.identity = identity
        self._own = own
        for method in _METHODS:
            if not callable(getattr(own, method, None)):
                raise ConfigError(f"task {name!r} has no method {method!r}. {_EXPECTED}")

    def loss(
        self, output: torch.Tensor, target: torch.Tensor, label_smoothing: float = 0.0
    ) -> torch.Tensor:
        """Gives the user's loss. Labels are not smoothed: the task may do so itself.

        Raises:
            ConfigError: it fails, is no scalar, or is not finite.
        """
        return self._scalar("loss", output, target)

    def correct(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Tells which images are right, `(n,)` bool.

        Raises:
            ConfigError: it fails, or gives something else than one bool for each image.
        """
        value = self._call("correct", output, target)
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value)
        if not isinstance(value, torch.Tensor):
            raise self._error("correct", f"gives {type(value).__name__}", len(output))
        if value.shape != (len(output),):
            raise self._error("correct", f"has shape {tuple(value.shape)}", len(output))
        if value.dtype != torch.bool:
            raise self._error("correct", f"gives {value.dtype}", len(output))
        return value

    def distillation_loss(
        self, output: torch.Tensor, teacher_output: torch.Tensor
    ) -> torch.Tensor | None:
        """Gives the user's `distillation_loss(output, teacher_output)`; None where there is none.

        Raises:
            ConfigError: it fails, is no scalar, or is not finite.
        """
        if not callable(getattr(self._own, "distillation_loss", None)):
            return None
        return self._scalar("distillation_loss", output, teacher_output)

    def targets_of(self, output: torch.Tensor) -> torch.Tensor:
        """Gives the user's `target(output)`: what a teacher's output stands for.

        Raises:
            ConfigError: the task has none, it fails, or it does not give one for each image.
        """
        self.check_teaches()
        value = self._call("target", output)
        if not isinstance(value, torch.Tensor) or len(value) != len(output):
            raise ConfigError(
                f"task {self.name!r}: target(output) must give a tensor with one target for each "
                f"of {len(output)} images"
            )
        return value

    def check_teaches(self) -> None:
        """Refuses a task that cannot say what an output stands for.

        Raises:
            ConfigError: it has no method `target(output)`.
        """
        if not callable(getattr(self._own, "target", None)):
            raise ConfigError(
                f"task {self.name!r} has no method 'target': --labels teacher asks it for the "
                "targets that an output of the dense network stands for. Add target(output)."
            )

    def _scalar(self, method: str, *arguments: torch.Tensor) -> torch.Tensor:
        value = self._call(method, *arguments)
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            given = (
                f"shape {tuple(value.shape)}"
                if isinstance(value, torch.Tensor)
                else type(value).__name__
            )
            raise ConfigError(
                f"task {self.name!r}: {method} gives {given}; it must give one number as a "
                "tensor, e.g. a mean over the batch"
            )
        value = value.reshape(())
        if not bool(torch.isfinite(value)):
            raise ConfigError(
                f"task {self.name!r}: {method} is {float(value.detach())}; it must be finite. "
                "Look at the targets, or at a logarithm or division in it."
            )
        return value

    def _call(self, method: str, *arguments: torch.Tensor) -> Any:
        try:
            return getattr(self._own, method)(*arguments)
        except Exception as error:  # the user's own method raises anything
            shapes = " and ".join(str(tuple(a.shape)) for a in arguments)
            raise ConfigError(
                f"task {self.name!r}: {method} fails on {shapes}: "
                f"{type(error).__name__}: {first_line(error)}"
            ) from error

    def _error(self, method: str, what: str, n_images: int) -> ConfigError:
        return ConfigError(
            f"task {self.name!r}: {method} {what}; it must give one bool for each image, "
            f"({n_images},) torch.bool, e.g. (errors < 0.5).all(1)"
        )


def load_task(name: str) -> UserTask:
    """Makes a task of the user's.

    Args:
        name: `file.py:Task`, a class without arguments, or a function that gives an object.

    Raises:
        ConfigError: there is no such class, making it fails, or it lacks a method.
    """
    factory = load_factory("task", name)
    try:
        own = factory()
    except Exception as error:  # the user's own class raises anything
        raise ConfigError(
            f"task {name!r} cannot be made: {type(error).__name__}: {first_line(error)}. "
            f"{_EXPECTED} It takes no arguments."
        ) from error
    return UserTask(name, own, _identity(factory, own))


def _identity(factory: Any, own: Any) -> str:
    """Names a task by its class and the code of its file."""
    kind = type(own)
    try:
        code = inspect.getsource(inspect.getmodule(factory) or kind)
    except (OSError, TypeError):  # made at run time
        code = ""
    return f"{kind.__qualname__}:{hashlib.sha256(code.encode()).hexdigest()[:16]}"
