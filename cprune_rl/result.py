"""`result.json`: what a finished run states, so that `cprune-rl validate` can check each claim."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cprune_rl.errors import ConfigError
from cprune_rl.plain import dump_json

__all__ = ["Figures", "MethodResult", "Result"]


@dataclass(frozen=True)
class Figures:
    """What is said of one network.

    Attributes:
        latency_ms: measured, median over interleaved rounds.
        latency_ci_ms: its 95 % bootstrap interval.
        estimate_ms: sum of its tasks' measured latencies.
        accuracy_test: on test images, in [0, 1].
        n_params: trained values.
        macs: multiply-accumulates of one image.
    """

    latency_ms: float
    latency_ci_ms: tuple[float, float]
    estimate_ms: float
    accuracy_test: float
    n_params: int
    macs: int

    @property
    def estimate_error_ratio(self) -> float:
        """How far the estimate is from the measured latency, as a share of it; signed."""
        return self.estimate_ms / self.latency_ms - 1


@dataclass(frozen=True)
class MethodResult:
    """What one method reached.

    Attributes:
        method: its name.
        pruned: its network.
        speedup: dense over pruned latency, measured in the same rounds.
        speedup_ci: its 95 % bootstrap interval.
        gate: accuracy, lower_bound, floor, passed; on the gate images.
        cost: fresh_trials, cached_trials, accuracy_evaluations, measure_s, train_s, wall_s; of the search alone.
        history: every candidate the search tried.
    """

    method: str
    pruned: Figures
    speedup: float
    speedup_ci: tuple[float, float]
    gate: dict[str, Any]
    cost: dict[str, float]
    history: list[dict[str, Any]] = field(default_factory=list, repr=False)


@dataclass(frozen=True)
class Result:
    """A finished run. The file's top level is the run's own method; the others are under `rivals`.

    Attributes:
        model: name of the network.
        data: name of the data set.
        device: where it was timed.
        method: the run's own method.
        seed: of everything.
        floor: as asked for.
        dense: the dense network.
        main: what the run's own method reached.
        rivals: what the others reached.
        fast: whether it was a `--fast` run.
    """

    model: str
    data: str
    device: str
    method: str
    seed: int
    floor: float
    dense: Figures
    main: MethodResult
    rivals: tuple[MethodResult, ...] = ()
    fast: bool = False

    def write(self, path: Path) -> None:
        """Writes the file."""
        value = asdict(self)
        main = value.pop("main")
        value |= {**main, "estimate_error_ratio": self.main.pruned.estimate_error_ratio, "dense_estimate_error_ratio": self.dense.estimate_error_ratio}
        path.write_text(dump_json(value))

    @staticmethod
    def read(path: Path) -> Result:
        """Reads the file.

        Raises:
            ConfigError: it is missing or no result.
        """
        try:
            value = json.loads(path.read_text())
            return Result(
                **{name: value[name] for name in ("model", "data", "device", "method", "seed", "floor", "fast")},
                dense=_figures(value["dense"]),
                main=_method(value),
                rivals=tuple(_method(r) for r in value["rivals"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is no result of a finished run: {error}. A run that ended early goes on with --resume.") from error


def _figures(value: dict[str, Any]) -> Figures:
    return Figures(**{**value, "latency_ci_ms": tuple(value["latency_ci_ms"])})


def _method(value: dict[str, Any]) -> MethodResult:
    names = ("method", "speedup", "gate", "cost", "history")
    return MethodResult(pruned=_figures(value["pruned"]), speedup_ci=tuple(value["speedup_ci"]), **{n: value[n] for n in names})
