"""One finished run of one method on one problem, as a comparison keeps it:

the runner writes these files, statistics and the page read them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from cprune_rl.core.json_text import dump_json
from cprune_rl.errors import ConfigError

__all__ = ["BUDGETS", "COSTS", "Case", "RunRecord", "read_record", "read_records"]

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
_N_SHOWN = 3  # mistakes in a message

Positive = Annotated[float, Field(gt=0)]
Cost = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1)]


class Case(NamedTuple):
    """What several methods are tried on;

    sorts so that seeds of one problem and floor stand together.
    """

    problem: str
    floor: float
    losses: str
    seed: int


@dataclass(frozen=True)
class RunRecord:
    """One finished run.

    Attributes:
        problem: name of the recording, "resnet8@znver4-2t".
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
        losses: where the true losses are from: drawn around the predicted losses, or the recording's
            own.
        commit: of this package.
        versions: of packages, by name.
        schemes: scheme of each layer that is pruned by one.
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
    losses: Literal["drawn", "recorded"]
    commit: str
    versions: dict[str, str]
    schemes: dict[str, str] = field(default_factory=dict)

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False
    )

    def __post_init__(self) -> None:
        for name, value, allowed in (("cost", self.cost, COSTS), ("budget", self.budget, BUDGETS)):
            if set(value) != set(allowed):
                raise ValueError(
                    f"{name} names {', '.join(sorted(value)) or 'nothing'}; it must name {', '.join(allowed)}"
                )
        if (self.ended == "error") != (self.error is not None):
            raise ValueError(
                f"a run ended by an error says which, and no other does: ended {self.ended!r}, error {self.error!r}"
            )
        if self.error is not None and self.latency_s != self.dense_s:
            raise ValueError("a run that failed keeps the dense network: latency_s must be dense_s")
        if any(
            now[at] < before[at]
            for before, now in zip(self.curve, self.curve[1:], strict=False)
            for at in (0, 1)
        ):
            raise ValueError("what was spent shrinks along the curve")

    @property
    def case(self) -> Case:
        """What it was tried on."""
        return Case(self.problem, self.floor, self.losses, self.seed)

    @property
    def speedup(self) -> float:
        """Dense over kept latency;

        1 where the plan does not hold the floor or the run failed, because then the dense network
        is kept.
        """
        return self.dense_s / self.latency_s if self.holds and self.error is None else 1.0

    @property
    def log_gain(self) -> float:
        """Natural logarithm of the speed-up."""
        return math.log(self.speedup)

    def to_json(self) -> str:
        """The file's text."""
        return dump_json(asdict(_File("cprune-rl comparison row 1", self)))

    @staticmethod
    def from_json(text: str, source: str = "this text") -> RunRecord:
        """Reads what `to_json` wrote.

        Args:
            text: of the file.
            source: its name, for a message.

        Raises:
            ConfigError: it is damaged, or of something else.
        """
        try:
            return _FILE.validate_json(text).row
        except ValidationError as error:
            mistakes = [
                f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}, found {e['input']!r:.60}"
                for e in error.errors()
            ]
            more = f" and {len(mistakes) - _N_SHOWN} more" if len(mistakes) > _N_SHOWN else ""
            raise ConfigError(
                f"{source} is no row of a comparison: {'; '.join(mistakes[:_N_SHOWN])}{more}. Remove it, and `cprune-rl compare` runs that method on that problem again."
            ) from None


@dataclass(frozen=True)
class _File:
    format: Literal["cprune-rl comparison row 1"]
    row: RunRecord

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)


_FILE = TypeAdapter(_File)


def read_record(path: Path) -> RunRecord:
    """Reads one file.

    Raises:
        ConfigError: it cannot be read, is damaged, or is of something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} is no row of a comparison: {error}. Remove it, and `cprune-rl compare` runs that method on that problem again."
        ) from error
    return RunRecord.from_json(text, str(path))


def read_records(folder: Path) -> list[RunRecord]:
    """Reads `rows/*.json` of a comparison's folder, sorted by name.

    Raises:
        ConfigError: there is none, one is no row, or two are of the same run.
    """
    paths = sorted((folder / "rows").glob("*.json"))
    if not paths:
        raise ConfigError(f"no rows/*.json in {folder}: `cprune-rl compare` writes them.")
    rows = [read_record(path) for path in paths]
    seen: dict[tuple[Case, str], Path] = {}
    for path, row in zip(paths, rows, strict=True):
        other = seen.setdefault((row.case, row.method), path)
        if other != path:
            raise ConfigError(
                f"{other.name} and {path.name} are both of {row.method} on {row.problem}, floor {row.floor:+g}, seed {row.seed}: remove one of them."
            )
    return rows
