"""What a search tried, what it accepted and what it cost; one JSON file holds it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cprune_rl.core.network import Plan
from cprune_rl.core.scheme import Scheme
from cprune_rl.core.untrusted import DAMAGED, damage, number, read_json, whole
from cprune_rl.errors import ConfigError

__all__ = [
    "TABLE_PREFIX",
    "AcceptedPlan",
    "SearchResult",
    "SearchStep",
    "current_method",
    "log_gain",
]

TABLE_PREFIX = "table: "
"""Begins the `what` of a step that was measured to know something, and is no candidate."""


def log_gain(before_s: float, after_s: float) -> float | None:
    """Log latency ratio; None where a latency is infinite."""
    if math.isfinite(before_s) and math.isfinite(after_s):
        return math.log(before_s / after_s)
    return None


_SHORTEST_S = 1e-12
_LARGEST = 1e12
_MAX_WIDTH = 1 << 20
_MAX_LOOKS = 10**6
_OLD_METHODS = {"greedy": "cprune"}  # names of 0.2


def current_method(name: str, *, warns: bool = False) -> str:
    """Translate a name that a method had in 0.2; every other name stays.

    Args:
        name: of a method.
        warns: whether a user gave the name, who is told the new one.
    """
    current = _OLD_METHODS.get(name, name)
    if warns and current != name:
        message = f"method {name!r} is now called {current!r}: the old name goes with 0.4"
        warnings.warn(message, FutureWarning, stacklevel=2)
    return current


@dataclass(frozen=True, kw_only=True)
class SearchStep:
    """One candidate that a search tried.

    Attributes:
        plan: the candidate.
        what: the task that was narrowed, or the part of the search that tried the plan.
        latency_s: estimate; infinite where it could not be measured.
        accuracy: by the oracle; None where it was not asked.
        accepted: whether it held the floor in the loop, and was kept.
        predicted_share: share of the estimate that is predicted, not measured; filled in by
            `SearchSession.record`.
        expected_gain: log latency ratio to the plan it was tried from, as predicted; None where
            nothing was.
        gain: the same as measured.
        why: what spoke for it.
        standard_error: of the accuracy, as the oracle states it.
        n_looks: of a full fine-tune that the final gate judged, how often the search may ask it;
            its accuracy is that of the finished network, and it is accepted where it passed. 0 of
            other steps.
    """

    plan: Plan
    what: str
    latency_s: float
    accuracy: float | None = None
    accepted: bool = False
    predicted_share: float = 0.0
    expected_gain: float | None = None
    gain: float | None = None
    why: str = ""
    standard_error: float = 0.0
    n_looks: int = 0


@dataclass(frozen=True)
class AcceptedPlan:
    """A plan that held the floor in the loop.

    Attributes:
        plan: what is kept.
        latency_s: estimate.
        accuracy: by the oracle.
    """

    plan: Plan
    latency_s: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found and what it cost.

    Attributes:
        method: name of the searcher.
        accepted: plans that held the floor in the loop, the dense one first, in the order they were
            found.
        history: every candidate.
        cost: fresh_trials, cached_trials, accuracy_evaluations, full_finetunes, measure_s, train_s,
            wall_s.
    """

    method: str
    accepted: tuple[AcceptedPlan, ...]
    history: tuple[SearchStep, ...]
    cost: dict[str, float]

    @property
    def best(self) -> AcceptedPlan:
        """The accepted plan of lowest latency."""
        return min(self.accepted, key=lambda a: a.latency_s)

    @property
    def looks(self) -> tuple[SearchStep, ...]:
        """The plans that the search had fine-tuned in full, and judged by the final gate."""
        return tuple(step for step in self.history if step.n_looks)

    def to_json(self) -> dict[str, Any]:
        """Write it as plain values."""
        return {
            "method": self.method,
            "accepted": [
                _plan_to_json(a.plan) | {"latency_s": a.latency_s, "accuracy": a.accuracy}
                for a in self.accepted
            ],
            "history": [_step_to_json(step) for step in self.history],
            "cost": self.cost,
        }

    @staticmethod
    def read(path: Path) -> SearchResult:
        """Read a file of what `to_json` gave.

        Raises:
            ConfigError: it is missing, damaged, or holds something else.
        """
        try:
            result = SearchResult.from_json(read_json(path))
            if not result.accepted:
                raise ValueError("it accepted no plan, not even the dense one")
            return result
        except DAMAGED as error:
            raise ConfigError(
                f"{path} is no search that was finished: {damage(error)}. "
                "Remove it, and --resume searches again."
            ) from error

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> SearchResult:
        """Read what `to_json` wrote.

        Raises:
            ValueError: a value is not what a search gives.
            KeyError, TypeError, AttributeError: a value is missing, or of another kind.
        """
        accepted = [
            AcceptedPlan(
                _plan_from_json(plan),
                number(plan["latency_s"], "latency_s", _SHORTEST_S),
                number(plan["accuracy"], "accuracy", -1.0, 2.0),
            )
            for plan in value["accepted"]
        ]
        cost = {
            str(name): number(spent, f"cost {name}", 0.0) for name, spent in value["cost"].items()
        }
        return SearchResult(
            method=current_method(str(value["method"])),
            accepted=tuple(accepted),
            history=tuple(_step_from_json(step) for step in value["history"]),
            cost=cost,
        )


def _plan_from_json(value: Mapping[str, Any]) -> Plan:
    """Read the plan of a candidate as `SearchResult.to_json` writes it."""
    widths = tuple(whole(width, "width", 1, _MAX_WIDTH) for width in value["plan"])
    schemes = tuple(value.get("schemes", {}).items())
    for _, text in schemes:
        Scheme.parse(text)
    return Plan(widths, schemes)


def _plan_to_json(plan: Plan) -> dict[str, Any]:
    value: dict[str, Any] = {"plan": list(plan.widths)}
    if plan.schemes:
        value["schemes"] = dict(plan.schemes)
    return value


def _step_to_json(step: SearchStep) -> dict[str, Any]:
    latency_s = step.latency_s if math.isfinite(step.latency_s) else None
    return asdict(step) | _plan_to_json(step.plan) | {"latency_s": latency_s}


def _step_from_json(value: Mapping[str, Any]) -> SearchStep:
    fields = {name: field for name, field in value.items() if name not in ("plan", "schemes")}
    for name in ("latency_s", "accuracy", "expected_gain", "gain"):
        if fields.get(name) is not None:
            number(fields[name], name, -_LARGEST)
    for name in ("predicted_share", "standard_error"):
        number(fields.get(name, 0.0), name, 0.0)
    fields["n_looks"] = whole(fields.get("n_looks", 0), "n_looks", 0, _MAX_LOOKS)
    if not isinstance(fields["what"], str) or not isinstance(fields.get("why", ""), str):
        raise ValueError("what was tried, and why, are to be texts")
    if fields["latency_s"] is None:
        fields["latency_s"] = math.inf
    return SearchStep(plan=_plan_from_json(value), **fields)
