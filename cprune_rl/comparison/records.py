"""Records of finished runs: one method on one problem, as a comparison keeps it in a file."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from cprune_rl.core.json_text import dump_json
from cprune_rl.core.untrusted import DAMAGED, damage, printable, read_json
from cprune_rl.errors import ConfigError

__all__ = [
    "BUDGETS",
    "COSTS",
    "Case",
    "Losses",
    "RunRecord",
    "file_name",
    "read_record",
    "read_records",
    "read_sessions",
    "read_terms",
    "record_path",
]

COSTS = (
    "fresh_trials",
    "tasks",
    "accuracy_evaluations",
    "full_finetunes",
    "measure_s",
    "train_s",
    "policy_s",
    "think_s",
    "wall_s",
)
BUDGETS = ("trials", "evaluations", "minutes")
_OPTIONAL_BUDGETS = ("finetunes",)  # rows of 0.2 have none
_N_SHOWN = 3  # mistakes in a message
_REMEDY = "Remove it, and `cprune-rl compare` runs that method on that problem again."

Positive = Annotated[float, Field(gt=0)]
Cost = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1)]
Losses = Literal["drawn", "recorded"]


class Case(NamedTuple):
    """What several methods are tried on; seeds of one problem and floor sort next to each other."""

    problem: str
    floor: float
    losses: Losses
    seed: int
    gate_images: int | None = None


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One finished run.

    Attributes:
        problem: name of the recording, "resnet8@znver4-2t", or its path.
        floor: change of accuracy that is allowed, -0.01 for one point.
        seed: of the draw of the true losses, and of the method.
        method: its name.
        dense_s: latency of the dense network.
        latency_s: of the network that is kept; `dense_s` of a run that failed.
        accuracy: of that network, in [0, 1].
        dense_accuracy: of the dense one.
        floor_accuracy: what had to hold.
        holds: whether it truly does.
        plan: channels of each group.
        cost: what was spent, by the names in `COSTS`; those that end in `_s` are seconds.
        curve: `(fresh trials, accuracy evaluations, log gain)` whenever the plan that would be kept
            changed, costs growing.
        ended: why: the method was done, a budget was used up, or it failed.
        error: what failed; None otherwise.
        budget: what was allowed, by the names in `BUDGETS`; None is no limit.
        losses: whether the true losses are drawn around the predicted ones, or the recording's own.
        commit: of this package.
        versions: of packages, by name.
        schemes: scheme of each layer that is pruned by one.
        gate_images: that the final gate judged on; None where the truth decided.
    """

    problem: Name
    floor: Annotated[float, Field(ge=-1, le=0)]
    seed: int
    method: Name
    dense_s: Positive
    latency_s: Positive
    accuracy: Share
    dense_accuracy: Share
    floor_accuracy: Share
    holds: bool
    plan: tuple[Annotated[int, Field(ge=1)], ...]
    cost: dict[str, Cost]
    curve: tuple[tuple[Cost, Cost, float], ...]
    ended: Literal["itself", "budget", "error"]
    error: str | None
    budget: dict[str, Cost | None]
    losses: Losses
    commit: str
    versions: dict[str, str]
    schemes: dict[str, str] = field(default_factory=dict)
    gate_images: Annotated[int, Field(ge=1)] | None = None

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False
    )

    def __post_init__(self) -> None:
        _check_names("cost", self.cost, COSTS)
        _check_names("budget", set(self.budget) - set(_OPTIONAL_BUDGETS), BUDGETS)
        if (self.ended == "error") != (self.error is not None):
            raise ValueError(
                "a run ended by an error says which, and no other does: "
                f"ended {self.ended!r}, error {self.error!r}"
            )
        if self.error is not None and self.latency_s != self.dense_s:
            raise ValueError("a run that failed keeps the dense network: latency_s must be dense_s")
        for before, after in pairwise(self.curve):
            if after[0] < before[0] or after[1] < before[1]:
                raise ValueError("what was spent shrinks along the curve")

    @property
    def case(self) -> Case:
        """What it was tried on."""
        return Case(
            problem=self.problem,
            floor=self.floor,
            losses=self.losses,
            seed=self.seed,
            gate_images=self.gate_images,
        )

    @property
    def speedup(self) -> float:
        """Dense over kept latency; 1 where the dense network is kept.

        That is so where the plan does not hold the floor, and where the run failed.
        """
        return self.dense_s / self.latency_s if self.holds and self.error is None else 1.0

    @property
    def log_gain(self) -> float:
        """Natural logarithm of the speed-up."""
        return math.log(self.speedup)

    def to_json(self) -> str:
        """Write the text of the file."""
        return dump_json(asdict(_File("cprune-rl comparison row 1", self)))

    @staticmethod
    def from_json(text: str, source: str = "this text") -> RunRecord:
        """Read what `to_json` wrote.

        Args:
            text: of the file.
            source: its name, for a message.

        Raises:
            ConfigError: it is damaged, or of something else.
        """
        try:
            return _FILE.validate_json(text).row
        except ValidationError as error:
            mistakes = "; ".join(_describe(details) for details in error.errors()[:_N_SHOWN])
            n_more = error.error_count() - _N_SHOWN
            more = f" and {n_more} more" if n_more > 0 else ""
            raise ConfigError(
                f"{source} is no row of a comparison: {mistakes}{more}. {_REMEDY}"
            ) from None


def _check_names(what: str, values: Collection[str], allowed: Collection[str]) -> None:
    if set(values) != set(allowed):
        names = ", ".join(sorted(values)) or "nothing"
        raise ValueError(f"{what} names {names}; it must name {', '.join(allowed)}")


def _describe(details: ErrorDetails) -> str:
    place = ".".join(map(str, details["loc"])) or "file"
    return printable(f"{place}: {details['msg']}, found {details['input']!r:.60}")


@dataclass(frozen=True)
class _File:
    format: Literal["cprune-rl comparison row 1"]
    row: RunRecord

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)


_FILE = TypeAdapter(_File)


def file_name(text: str) -> str:
    """Turn a text into the name of a file."""
    return re.sub(r"[^\w.@+-]+", "_", text)


def record_path(folder: Path, case: Case, method: str) -> Path:
    """Name the file of a record.

    Args:
        folder: of the comparison.
        case: what the method was tried on.
        method: its name.
    """
    text = f"{case.problem}_{case.floor:g}_{case.losses}_{case.seed}_{method}"
    return folder / "rows" / f"{file_name(text)}.json"


def read_record(path: Path) -> RunRecord:
    """Read one file.

    Raises:
        ConfigError: it cannot be read, is damaged, or is of something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no row of a comparison: {error}. {_REMEDY}") from error
    return RunRecord.from_json(text, str(path))


def read_records(folder: Path) -> list[RunRecord]:
    """Read `rows/*.json` of a comparison's folder, sorted by name.

    Raises:
        ConfigError: there is none, one is no record, or two are of the same run.
    """
    paths = sorted((folder / "rows").glob("*.json"))
    if not paths:
        raise ConfigError(f"no rows/*.json in {folder}: `cprune-rl compare` writes them.")
    records = {path: read_record(path) for path in paths}
    runs: dict[tuple[Case, str], Path] = {}
    for path, record in records.items():
        other = runs.setdefault((record.case, record.method), path)
        if other != path:
            raise ConfigError(
                f"{other.name} and {path.name} are both of {record.method} on {record.problem}, "
                f"floor {record.floor:+g}, seed {record.seed}: remove one of them."
            )
    return list(records.values())


def read_sessions(folder: Path) -> list[dict[str, Any]]:
    """Read `sessions.json` of a comparison's folder: when it was worked on, by which command.

    Raises:
        ConfigError: it is damaged.
    """
    sessions = _read_if_there(folder / "sessions.json") or []
    is_list = isinstance(sessions, list) and all(isinstance(s, dict) for s in sessions)
    if not is_list or not all(isinstance(session.get("command"), str) for session in sessions):
        raise ConfigError(
            f"{folder / 'sessions.json'} has no list of sessions, each with its command: remove it"
        )
    return sessions


def read_terms(folder: Path) -> dict[str, Any]:
    """Read `comparison.json` of a comparison's folder: its budget and the like; {} without one.

    Raises:
        ConfigError: it is damaged.
    """
    terms = _read_if_there(folder / "comparison.json") or {}
    if not isinstance(terms, dict):
        raise ConfigError(f"{folder / 'comparison.json'} has no terms of a comparison: remove it")
    return terms


def _read_if_there(path: Path) -> Any:
    try:
        return read_json(path) if path.exists() else None
    except DAMAGED as error:
        raise ConfigError(f"{path} cannot be read: {damage(error)}. Remove it") from error
