"""Wrappers that go through a set of problems, one for each episode, as CompilerGym's do.

They work by the reset option `problem`, so that they wrap whatever `gymnasium.make` gives. A
problem that is given to `reset` itself comes first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from cprune_rl.envs.cprune_env import ProblemChoice
from cprune_rl.envs.problems.registry import model_of, recorded_names
from cprune_rl.errors import ConfigError

__all__ = ["CycleOverProblems", "IterateOverProblems", "RandomOrderProblems", "split_held_out"]

_Env = gymnasium.Env[NDArray[np.float32], np.int64]
_Wrapper = gymnasium.Wrapper[NDArray[np.float32], np.int64, NDArray[np.float32], np.int64]


class IterateOverProblems(_Wrapper):
    """Solve each problem of an iterable once, in order.

    >>> import gymnasium as gym
    >>> import cprune_rl  # registers the environments
    >>> env = gym.make("cprune_rl/CPruneRecorded-v0")
    >>> env = IterateOverProblems(env, ["resnet8", "vgg-small:-0.02"])
    >>> env.reset()[1]["accuracy"], env.reset()[1]["accuracy"]
    (0.99275, 0.99325)


    Args:
        env: takes the reset option `problem`.
        problems: names or paths of recordings, `Problem` values, or samplers.

    Raises:
        StopIteration: `reset` was called once more than there are problems.
    """

    def __init__(self, env: _Env, problems: Iterable[ProblemChoice]) -> None:
        super().__init__(env)
        self._problems: Iterator[ProblemChoice] = iter(problems)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode on the next problem."""
        options = dict(options or {})
        if options.get("problem") is None:
            options["problem"] = self._next_problem(seed)
        return self.env.reset(seed=seed, options=options)

    def _next_problem(self, seed: int | None) -> ProblemChoice:
        return next(self._problems)


class CycleOverProblems(IterateOverProblems):
    """Solve each problem in order, again and again.

    Args:
        env: takes the reset option `problem`.
        problems: names or paths of recordings, `Problem` values, or samplers.
    """

    def __init__(self, env: _Env, problems: Iterable[ProblemChoice]) -> None:
        super().__init__(env, itertools.cycle(_at_least_one(problems)))


class RandomOrderProblems(IterateOverProblems):
    """Draw the problem of each episode, all equally often in the long run.

    Args:
        env: takes the reset option `problem`.
        problems: names or paths of recordings, `Problem` values, or samplers.
        seed: of the order; a seed that is given to `reset` begins it anew.
    """

    def __init__(
        self, env: _Env, problems: Iterable[ProblemChoice], seed: int | None = None
    ) -> None:
        super().__init__(env, ())
        self._choices = _at_least_one(problems)
        self._rng = np.random.default_rng(seed)

    def _next_problem(self, seed: int | None) -> ProblemChoice:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        return self._choices[int(self._rng.integers(len(self._choices)))]


def split_held_out(
    held_out: Sequence[str], names: Iterable[str] | None = None
) -> tuple[list[str], list[str]]:
    """Split recordings into those to train on and those to hold out.

    >>> train, test = split_held_out(["vgg-small"])
    >>> test[0]
    'vgg-small@znver4-1t'

    Args:
        held_out: models, `vgg-small` for its recordings on every device; device classes,
            `@haswell-1t` for all recordings on it; or full names.
        names: of the recordings; None are the packaged ones.

    Returns:
        Names to train on, and names that are held out.

    Raises:
        ConfigError: an entry of `held_out` matches no name, or nothing is left to train on.
    """
    names = recorded_names() if names is None else list(names)
    test = [name for name in names if any(_matches(name, entry) for entry in held_out)]
    for entry in held_out:
        if not any(_matches(name, entry) for name in names):
            raise ConfigError(
                f"{entry!r} holds nothing out: it is no model, @class or name of {', '.join(names)}"
            )
    train = [name for name in names if name not in test]
    if not train:
        raise ConfigError("no problem is left to train on: hold fewer out")
    return train, test


def _matches(name: str, entry: str) -> bool:
    if entry.startswith("@"):
        return name.endswith(entry)
    return entry in (name, model_of(name))


def _at_least_one(problems: Iterable[ProblemChoice]) -> list[ProblemChoice]:
    choices = list(problems)
    if not choices:
        raise ConfigError("there is no problem to go through: give at least one")
    return choices
