"""What a finished run states, in `result.json` or `front.json`.

`cprune-rl validate` can check each claim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter

from cprune_rl.core.atomic_files import write_text
from cprune_rl.core.json_text import dump_json
from cprune_rl.core.output_agreement import OutputAgreement
from cprune_rl.core.own_loop import OwnLoop
from cprune_rl.core.search_result import current_method
from cprune_rl.core.untrusted import DAMAGED, damage, number, read_json, whole
from cprune_rl.errors import ConfigError

__all__ = [
    "MEASURED",
    "SPLITS",
    "DenseFigures",
    "Figures",
    "FrontPoint",
    "MethodResult",
    "Result",
    "Which",
    "accuracy_word",
    "read_front",
    "read_front_dense",
    "read_front_splits",
    "write_front",
]

SPLITS = 2
"""How this version splits a user's images: each class in its proportion."""
MEASURED = "measured"
"""Says that latencies were measured on a device, not read out of a recording."""

Which = Literal["given", "finetuned"]
"""A dense network: as it was given, or after the full fine-tune."""


def _check_gate(gate: dict[str, Any]) -> dict[str, Any]:
    """Refuse a verdict that no gate gives, in a file."""
    for name in ("accuracy", "lower_bound", "floor"):
        number(gate.get(name, 0), f"gate: {name}", -1.0, 1.0)
    whole(gate.get("n_looks", 1), "gate: n_looks", 1)
    number(gate.get("risk", 0.05), "gate: risk", 1e-9, 1.0)
    if not isinstance(gate.get("passed", True), bool):
        raise ValueError("gate: passed is to be true or false")
    return gate


def _check_history(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for step in history:
        number(step.get("predicted_share", 0.0), "history: predicted_share", 0.0, 1.0)
    return history


# What values in a file may be.
Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Floor = Annotated[float, Field(ge=-1, le=1)]
Count = Annotated[int, Field(ge=0)]
Gate = Annotated[dict[str, Any], AfterValidator(_check_gate)]
History = Annotated[list[dict[str, Any]], AfterValidator(_check_history)]
Ends = tuple[Number, Number]
ValueAndEnds = tuple[Number, Number, Number]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What is said of one network.

    Attributes:
        latency_ms: measured, the median over interleaved rounds; None where there was no device.
        latency_ci_ms: 95 % bootstrap interval of that; None likewise.
        estimate_ms: sum of the latencies of its tasks.
        accuracy_test: on test images, in [0, 1].
        accuracy_test_ci: Wilson's 95 % interval of that.
        n_params: trained values.
        macs: multiply-accumulates of one image.
        compiled: how the compiled network's answers agree with torch's; None where nothing was
            compiled, or an earlier version wrote the file.
    """

    latency_ms: Positive | None
    latency_ci_ms: Ends | None
    estimate_ms: Positive
    accuracy_test: Share
    accuracy_test_ci: Ends
    n_params: Count
    macs: Count
    compiled: OutputAgreement | None = None

    def __post_init__(self) -> None:
        if (self.latency_ms is None) != (self.latency_ci_ms is None):
            raise ValueError(
                "a measured latency has an interval, and none is measured where there is none"
            )

    @property
    def shown_ms(self) -> float:
        """The measured latency, else the estimate. `Result.is_estimate` says which."""
        return self.estimate_ms if self.latency_ms is None else self.latency_ms

    @property
    def estimate_error_ratio(self) -> float | None:
        """Signed error of the estimate as a share of the measured latency; None without one."""
        return None if self.latency_ms is None else self.estimate_ms / self.latency_ms - 1


@dataclass(frozen=True, kw_only=True)
class DenseFigures:
    """What is said of the dense network as it was given, and after the full fine-tune.

    Attributes:
        given: latencies are those of `finetuned`: equal shapes are timed once.
        finetuned: None in what earlier versions wrote.
        floor_from: the one that a relative floor is counted from.
    """

    given: Figures
    finetuned: Figures | None = None
    floor_from: Which = "given"

    def __post_init__(self) -> None:
        if self.floor_from not in ("given", "finetuned"):
            raise ValueError(f"floor_from is {self.floor_from!r}, not given or finetuned")
        if self.floor_from == "finetuned" and self.finetuned is None:
            raise ValueError("the floor is counted from a dense network of which nothing is said")

    @property
    def reference(self) -> Figures:
        """The one that the floor is counted from."""
        if self.floor_from == "finetuned" and self.finetuned is not None:
            return self.finetuned
        return self.given

    def to_json(self) -> dict[str, Any]:
        """Give the fields of a file."""
        finetuned = None if self.finetuned is None else asdict(self.finetuned)
        return {
            "dense": asdict(self.given),
            "dense_finetuned": finetuned,
            "floor_from": self.floor_from,
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> DenseFigures:
        """Read the fields of a file; in those of earlier versions there is one network."""
        return _DENSE.validate_python(
            {
                "given": value["dense"],
                "finetuned": value.get("dense_finetuned"),
                "floor_from": value.get("floor_from", "given"),
            }
        )


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """What one method reached.

    Attributes:
        speedup: dense over pruned latency, measured in the same rounds, or of the estimates where
            nothing was measured.
        speedup_ci: 95 % interval of that, by bootstrap over the rounds, or by the uncertainty that
            the recording states.
        gate: the final gate's verdict: accuracy, lower_bound, floor, n_looks, risk and passed.
        cost: fresh_trials, cached_trials, accuracy_evaluations, full_finetunes, measure_s and
            train_s; full fine-tunes count be they asked for within the search or after it. wall_s
            is of the search alone.
        history: every candidate that the search tried.
    """

    method: str
    pruned: Figures
    speedup: Positive
    speedup_ci: Ends
    gate: Gate
    cost: dict[str, Number]
    history: History = field(default_factory=list, repr=False)

    @property
    def predicted_share(self) -> float:
        """Share of the candidates' estimates that was predicted, not measured; the mean."""
        shares = [float(step.get("predicted_share", 0.0)) for step in self.history]
        return sum(shares) / len(shares) if shares else 0.0


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished run. The file's top level is the run's own method; `rivals` has the others.

    Attributes:
        device: name of where it was timed.
        method: the run's own method.
        floor: as asked for.
        dense: network as it was given.
        dense_finetuned: the same after the full fine-tune; None in what earlier versions wrote.
        floor_from: which of both a relative floor is counted from.
        main: what the run's own method reached.
        rivals: what the others reached.
        fast: whether it was a run of `--effort fast`.
        noise_floor: how far two timings of the dense network differed in the final rounds, as a
            share; None where that was not timed.
        latency_source: `MEASURED`, or the recording that the estimates rest on.
        top: an image counts as right where its label is among so many most likely classes.
        labels: "given", or "teacher" where they are the dense network's answers.
        task: name of the user's loss and metric; empty where each image has a class.
        own_loop: how functions of the user's judged; None where labelled images were given.
        splits: 1 where a user's images were split without regard to classes, as 0.2 did; else 2.
        stages_s: seconds by the clock of each part of the run; after `--resume`, of those done
            since.
        compiled_note: which layouts the networks were compiled without, as they computed something
            else; empty where none.
        exported: files of the run folder that hold the network in other formats.
        not_exported: why a format could not be written, by the format.
    """

    model: str
    data: str
    device: str
    method: str
    seed: Count
    floor: Floor
    dense: Figures
    main: MethodResult
    dense_finetuned: Figures | None = None
    floor_from: Which = "given"
    rivals: tuple[MethodResult, ...] = ()
    fast: bool = False
    noise_floor: float | None = None
    latency_source: str = MEASURED
    top: Annotated[int, Field(ge=1)] = 1
    labels: str = "given"
    task: str = ""
    own_loop: OwnLoop | None = None
    splits: Annotated[int, Field(ge=1, le=2)] = 1
    stages_s: dict[str, Number] = field(default_factory=dict, repr=False)
    compiled_note: str = ""
    exported: tuple[str, ...] = ()
    not_exported: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        figures = [self.dense, self.reference, *(method.pruned for method in self.methods)]
        if any((f.latency_ms is None) != self.is_estimate for f in figures):
            raise ValueError(
                f"latency source {self.latency_source!r} does not fit the latencies: "
                "they are measured or all estimates"
            )
        if self.noise_floor is not None and not 0 <= self.noise_floor < math.inf:
            raise ValueError(f"noise floor {self.noise_floor} is no share of a latency")

    @property
    def dense_figures(self) -> DenseFigures:
        """Both dense networks."""
        return DenseFigures(
            given=self.dense, finetuned=self.dense_finetuned, floor_from=self.floor_from
        )

    @property
    def reference(self) -> Figures:
        """The dense network that the floor is counted from."""
        return self.dense_figures.reference

    @property
    def methods(self) -> tuple[MethodResult, ...]:
        """All methods, the run's own last."""
        return (*self.rivals, self.main)

    @property
    def accuracy_word(self) -> str:
        """What an accuracy of this run is."""
        return accuracy_word(self.labels)

    @property
    def shown_on(self) -> str:
        """Images that `accuracy_test` is about."""
        return "test images" if self.own_loop is None else self.own_loop.shown_on

    @property
    def is_estimate(self) -> bool:
        """Whether latencies are sums of recorded tasks, and nothing was built or timed."""
        return self.latency_source != MEASURED

    def has_gain(self, method: MethodResult) -> bool:
        """Whether a speed-up is beyond the noise floor, with its whole interval above 1."""
        return method.speedup - 1 > (self.noise_floor or 0.0) and method.speedup_ci[0] > 1.0

    def write(self, path: Path) -> None:
        """Write the file."""
        value = asdict(self)
        value |= value.pop("main")
        value["estimate_error_ratio"] = self.main.pruned.estimate_error_ratio
        value["dense_estimate_error_ratio"] = self.dense.estimate_error_ratio
        write_text(path, dump_json(value))

    @staticmethod
    def read(path: Path) -> Result:
        """Read the file.

        Raises:
            ConfigError: it is missing or no result.
        """
        try:
            value = read_json(path)
            rivals = [_own_fields(rival, MethodResult) for rival in value["rivals"]]
            main = _own_fields(value, MethodResult)
            return _RESULT.validate_python(
                {**_own_fields(value, Result), "main": main, "rivals": rivals}
            )
        except DAMAGED as error:  # pydantic's errors are ValueErrors
            raise ConfigError(
                f"{path} is no result of a finished run: {damage(error)}. "
                "A run that ended early goes on with --resume."
            ) from error


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """One finished network of a front: what `front.json` says of it.

    Attributes:
        method: that found it; "dense" of the dense network.
        floor: as asked for; None of the dense network.
        folder: of the network, within the front's.
        shown_ms: latency of the whole network, or the estimate where there was no device.
        latency_ci_ms: 95 % interval of that; None of an estimate.
        speedup: dense over its latency, with a 95 % interval.
        accuracy_test: on test images, with Wilson's 95 % interval.
        gained_test: accuracy above the dense network's on the same test images, negative where it
            lost, with a 95 % interval.
        gate: the final gate's verdict; empty of the dense network.
        cost: of the search.
        compiled: see `Figures`.
    """

    method: str
    floor: Floor | None
    folder: str
    shown_ms: Positive
    latency_ci_ms: Ends | None
    speedup: ValueAndEnds
    accuracy_test: ValueAndEnds
    gained_test: ValueAndEnds
    n_params: Count
    gate: Gate
    cost: dict[str, Number]
    compiled: OutputAgreement | None = None


def accuracy_word(labels: str) -> str:
    """Say what an accuracy is, by whose labels it is counted."""
    return "agreement with the dense network" if labels == "teacher" else "accuracy"


def write_front(
    path: Path,
    points: Sequence[FrontPoint],
    dense: DenseFigures,
    latency_source: str,
    labels: str = "given",
    own_loop: OwnLoop | None = None,
) -> None:
    """Write `front.json`.

    Args:
        path: file to write.
        points: the dense network's first, the one that floors are counted from.
        dense: that network, and the other one.
        latency_source: see `Result`.
        labels: see `Result`.
        own_loop: see `Result`.
    """
    value = {
        "latency_source": latency_source,
        **dense.to_json(),
        "labels": labels,
        "own_loop": None if own_loop is None else asdict(own_loop),
        "splits": SPLITS,
        "points": [asdict(point) for point in points],
    }
    write_text(path, dump_json(value))


def read_front(path: Path) -> list[FrontPoint]:
    """Read `front.json`: the dense network's point first.

    Raises:
        ConfigError: it is missing or no front.
    """
    try:
        points = [
            _POINT.validate_python(_own_fields(point, FrontPoint))
            for point in read_json(path)["points"]
        ]
        if [point.floor is None for point in points] != [True, *[False] * (len(points) - 1)]:
            raise ValueError("its first network is to be the dense one, and no other")
    except DAMAGED as error:
        raise ConfigError(f"{path} is no finished front: {damage(error)}") from error
    return points


def read_front_splits(path: Path) -> int:
    """Read how the images of a front were split, see `Result`.

    Raises:
        ConfigError: it is missing or no front.
    """
    try:
        return whole(read_json(path).get("splits", 1), "splits", 1, 2)
    except DAMAGED as error:
        raise ConfigError(f"{path} is no finished front: {damage(error)}") from error


def read_front_dense(path: Path) -> DenseFigures | None:
    """Read what `front.json` says of both dense networks; None in what earlier versions wrote.

    Raises:
        ConfigError: it is missing or no front.
    """
    try:
        value = read_json(path)
        return DenseFigures.from_json(value) if "dense" in value else None
    except DAMAGED as error:
        raise ConfigError(f"{path} is no finished front: {damage(error)}") from error


def _own_fields(value: Any, kind: type) -> dict[str, Any]:
    """Those values of a JSON object that a record has, in today's spelling."""
    if not isinstance(value, dict):
        raise ValueError(f"it holds {type(value).__name__} in the place of an object")
    names = [own_field.name for own_field in fields(kind)]
    own = {name: value[name] for name in names if name in value}
    if "method" in own:
        own["method"] = current_method(str(own["method"]))
    return own


_RESULT = TypeAdapter(Result)
_DENSE = TypeAdapter(DenseFigures)
_POINT = TypeAdapter(FrontPoint)
