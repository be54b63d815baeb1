"""`result.json`: what a finished run states, so that `cprune-rl validate` can check each claim."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cprune_rl.core.json_text import dump_json
from cprune_rl.core.search_result import current_method
from cprune_rl.errors import ConfigError

__all__ = ["MEASURED", "Figures", "MethodResult", "Result"]

MEASURED = "measured"  # on a device, as opposed to read out of a recording


@dataclass(frozen=True)
class Figures:
    """What is said of one network.

    Attributes:
        latency_ms: measured, median over interleaved rounds; None where there was no device.
        latency_ci_ms: its 95 % bootstrap interval; None likewise.
        estimate_ms: sum of its tasks' latencies.
        accuracy_test: on test images, in [0, 1].
        accuracy_test_ci: its 95 % interval, Wilson's.
        n_params: trained values.
        macs: multiply-accumulates of one image.
    """

    latency_ms: float | None
    latency_ci_ms: tuple[float, float] | None
    estimate_ms: float
    accuracy_test: float
    accuracy_test_ci: tuple[float, float]
    n_params: int
    macs: int

    def __post_init__(self) -> None:
        if (self.latency_ms is None) != (self.latency_ci_ms is None):
            raise ValueError(
                "a measured latency has an interval, and none is measured where there is none"
            )

    @property
    def shown_ms(self) -> float:
        """The measured latency, else the estimate: `Result.is_estimate` says which."""
        return self.estimate_ms if self.latency_ms is None else self.latency_ms

    @property
    def estimate_error_ratio(self) -> float | None:
        """How far the estimate is from the measured latency, as a share of it;

        signed. None where none was measured.
        """
        return None if self.latency_ms is None else self.estimate_ms / self.latency_ms - 1


@dataclass(frozen=True)
class MethodResult:
    """What one method reached.

    Attributes:
        method: its name.
        pruned: its network.
        speedup: dense over pruned latency, measured in the same rounds, or of the estimates where
            nothing was measured.
        speedup_ci: its 95 % interval: by bootstrap over the rounds, or by the uncertainty that the
            recording states.
        gate: accuracy, lower_bound, floor, passed; on the gate images.
        cost: fresh_trials, cached_trials, accuracy_evaluations, measure_s, train_s, wall_s; of the
            search alone.
        history: every candidate the search tried.
    """

    method: str
    pruned: Figures
    speedup: float
    speedup_ci: tuple[float, float]
    gate: dict[str, Any]
    cost: dict[str, float]
    history: list[dict[str, Any]] = field(default_factory=list, repr=False)

    @property
    def predicted_share(self) -> float:
        """Of the seconds that its candidates were estimated at, what was predicted, not measured;

        the mean over candidates.
        """
        shares = [float(step.get("predicted_share", 0.0)) for step in self.history]
        return sum(shares) / len(shares) if shares else 0.0


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
        noise_floor: how far two timings of the dense network differed in the final rounds, as a
            share; None where that was not timed.
        top: an image counts as right where its label is among so many most likely classes.
        latency_source: `MEASURED`, or what recording the latencies are estimates from.
        stages_s: seconds by the clock of each part of the run, as it was told; after `--resume`, of
            those done since.
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
    noise_floor: float | None = None
    latency_source: str = MEASURED
    top: int = 1
    stages_s: dict[str, float] = field(default_factory=dict, repr=False)

    @property
    def is_estimate(self) -> bool:
        """Whether latencies and speed-ups are sums of recorded tasks, and nothing was built or
        timed.
        """
        return self.latency_source != MEASURED

    def __post_init__(self) -> None:
        if any(
            (f.latency_ms is None) != self.is_estimate
            for f in (self.dense, self.main.pruned, *(r.pruned for r in self.rivals))
        ):
            raise ValueError(
                f"latency source {self.latency_source!r} does not fit the latencies: they are measured or all estimates"
            )
        if self.noise_floor is not None and not 0 <= self.noise_floor < math.inf:
            raise ValueError(f"noise floor {self.noise_floor} is no share of a latency")

    def has_gain(self, method: MethodResult) -> bool:
        """Whether a method's speed-up is beyond the noise floor, with its whole interval above 1."""
        return method.speedup - 1 > (self.noise_floor or 0.0) and method.speedup_ci[0] > 1.0

    def write(self, path: Path) -> None:
        """Writes the file."""
        value = asdict(self)
        main = value.pop("main")
        value |= {
            **main,
            "estimate_error_ratio": self.main.pruned.estimate_error_ratio,
            "dense_estimate_error_ratio": self.dense.estimate_error_ratio,
        }
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
                **{
                    name: value[name]
                    for name in ("model", "data", "device", "seed", "floor", "fast")
                },
                method=current_method(value["method"]),
                dense=_figures(value["dense"]),
                main=_method(value),
                rivals=tuple(_method(r) for r in value["rivals"]),
                noise_floor=value.get("noise_floor"),
                latency_source=value.get("latency_source", MEASURED),
                top=int(value.get("top", 1)),
                stages_s=value.get("stages_s", {}),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path} is no result of a finished run: {error}. A run that ended early goes on with --resume."
            ) from error


def _figures(value: dict[str, Any]) -> Figures:
    interval = value["latency_ci_ms"]
    return Figures(
        **{
            **value,
            "latency_ci_ms": None if interval is None else tuple(interval),
            "accuracy_test_ci": tuple(value["accuracy_test_ci"]),
        }
    )


def _method(value: dict[str, Any]) -> MethodResult:
    names = ("speedup", "gate", "cost", "history")
    return MethodResult(
        method=current_method(value["method"]),
        pruned=_figures(value["pruned"]),
        speedup_ci=tuple(value["speedup_ci"]),
        **{n: value[n] for n in names},
    )
