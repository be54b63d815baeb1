"""The contract of a search method, and the budget it gets."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from cprune_rl.core.search_result import SearchResult, SearchStep
from cprune_rl.envs.problem import Problem
from cprune_rl.errors import ConfigError

__all__ = ["Budget", "OnStep", "Searcher", "parse_budget"]

_LIMITS = ("trials", "evaluations", "finetunes", "minutes")
OnStep = Callable[[SearchStep], None]


@dataclass(frozen=True)
class Budget:
    """What a search may spend; None is no limit.

    Attributes:
        fresh_trials: schedules built and timed.
        accuracy_evaluations: answers of the oracle.
        minutes: by the clock.
        full_finetunes: plans that are fine-tuned in full, each of which is a look of the final
            gate.
    """

    fresh_trials: int | None = None
    accuracy_evaluations: int | None = None
    minutes: float | None = None
    full_finetunes: int | None = None

    def share(self, share: float) -> Budget:
        """Give a share of it, in [0, 1]; whole trials and evaluations."""
        return Budget(
            _changed(self.fresh_trials, lambda limit: int(share * limit)),
            _changed(self.accuracy_evaluations, lambda limit: int(share * limit)),
            None if self.minutes is None else share * self.minutes,
            _changed(self.full_finetunes, lambda limit: int(share * limit)),
        )

    def less(self, cost: Mapping[str, float]) -> Budget:
        """Take a cost off it.

        Args:
            cost: fresh_trials, accuracy_evaluations, full_finetunes and wall_s.

        Returns:
            What is left, at least 0.
        """
        evaluations = cost["accuracy_evaluations"]
        finetunes = cost["full_finetunes"]
        return Budget(
            _changed(self.fresh_trials, lambda limit: max(0, int(limit - cost["fresh_trials"]))),
            _changed(self.accuracy_evaluations, lambda limit: max(0, int(limit - evaluations))),
            None if self.minutes is None else max(0.0, self.minutes - cost["wall_s"] / 60),
            _changed(self.full_finetunes, lambda limit: max(0, int(limit - finetunes))),
        )


def _changed(limit: int | None, change: Callable[[int], int]) -> int | None:
    return None if limit is None else change(limit)


class Searcher(Protocol):
    """A search method.

    `search` ends by itself or when the budget is spent. The dense plan is always among the accepted
    ones, so there is always an answer.
    """

    @property
    def name(self) -> str:
        """Name the method, for tables and files."""

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """Look for a fast plan that holds the problem's floor.

        Args:
            problem: what to solve.
            budget: what may be spent.
            on_step: called with every candidate.

        Raises:
            DeviceError: the device is gone.
            BudgetSpentError: a source refuses what the budget does not pay for.
        """


def parse_budget(text: str) -> Budget:
    """Read `trials=500,evaluations=200,finetunes=3,minutes=10`; what is left out has no limit.

    Raises:
        ConfigError: it says something else.
    """
    limits: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        with contextlib.suppress(ValueError):
            limits[name] = float(value)
        if name not in _LIMITS or not 0 <= limits.get(name, math.inf) < math.inf:
            raise ConfigError(
                f"--budget {text!r}: give e.g. trials=500,evaluations=200,finetunes=3,minutes=10, "
                "each 0 or more"
            )
    return Budget(
        fresh_trials=int(limits["trials"]) if "trials" in limits else None,
        accuracy_evaluations=int(limits["evaluations"]) if "evaluations" in limits else None,
        minutes=limits.get("minutes"),
        full_finetunes=int(limits["finetunes"]) if "finetunes" in limits else None,
    )
