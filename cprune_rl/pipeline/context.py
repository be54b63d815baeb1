"""What a run works with: the parts that every run has, and the lab, where its latencies come from.

A lab is a compiler with a device behind it (`job.compiled`) or a recording (`job.recorded`); put
together by
`job.assemble`. Nothing here loads tvm, so a run on a recording never does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import nn

from cprune_rl.accuracy.calibration import CalibrationPoint, Calibrations
from cprune_rl.accuracy.data import ImageData
from cprune_rl.accuracy.oracle import PlanOracle
from cprune_rl.accuracy.training import TrainSettings
from cprune_rl.core.device_descriptor import DeviceDescriptor
from cprune_rl.core.intervals import Interval
from cprune_rl.core.loss_model import LossCurves
from cprune_rl.core.network import Network, Plan, Workload
from cprune_rl.core.protocols import LatencySource, TaskCost
from cprune_rl.envs.problem import Problem, resolve_floor
from cprune_rl.errors import FloorError
from cprune_rl.latency.interpolation import CostModel
from cprune_rl.pipeline.config import RunConfig
from cprune_rl.pipeline.progress import Reporter
from cprune_rl.pipeline.trained_model import Subject
from cprune_rl.pruning.groups import CoupledGroups

__all__ = ["Comparison", "FinishedNetwork", "Lab", "Workbench", "full_settings"]


@dataclass(frozen=True)
class FinishedNetwork:
    """A network to compare: what it keeps, and its trained weights."""

    plan: Plan
    model: nn.Module


@dataclass(frozen=True)
class Comparison:
    """How fast finished networks are, side by side.

    Attributes:
        estimate_ms: of each network the sum of its tasks.
        speedup: of each but "dense", dense over its latency: measured where `latency_ms` is, else
            of the estimates.
        latency_ms: of each network as a whole, measured; empty where there was no device.
        noise_floor: see `intervals.noise_floor`; None where nothing was timed.
        libraries: of each network, compiled; empty where there was no compiler.
    """

    estimate_ms: Mapping[str, float]
    speedup: Mapping[str, Interval]
    latency_ms: Mapping[str, Interval] = field(default_factory=dict)
    noise_floor: float | None = None
    libraries: Mapping[str, Path] = field(default_factory=dict)


class Lab(Protocol):
    """Where latencies come from. Opened with its dense network's tasks known; not thread-safe."""

    @property
    def device_name(self) -> str:
        """In full: it opens the same device again."""

    @property
    def network(self) -> Network:
        """The description that tables, plans and searches speak of."""

    @property
    def descriptor(self) -> DeviceDescriptor:
        """What an agent knows of the device."""

    @property
    def cost_model(self) -> CostModel:
        """What an agent may train on."""

    @property
    def spent(self) -> Mapping[str, float]:
        """Trials and seconds that went into `cost_model`."""

    @property
    def spent_on_schemes(self) -> Mapping[str, float]:
        """The same of what was measured of layers that are pruned by schemes."""

    @property
    def latency_source(self) -> str:
        """`result.MEASURED`, or whose recording the latencies are out of."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What was timed where, when and with which versions: for a recording of this run."""

    def source(self) -> LatencySource:
        """Latencies for one search, with counters of its own.

        Raises:
            DeviceError: the device is gone.
        """

    def known(self, plans: Collection[Plan]) -> list[tuple[Workload, TaskCost]]:
        """Every task that was timed, those of some plans included:

        what a recording of this run holds.
        """

    def compare(
        self, networks: Mapping[str, FinishedNetwork], folder: Path, reporter: Reporter
    ) -> Comparison:
        """Compares finished networks on equal terms; the first is "dense".

        Args:
            networks: by name.
            folder: of the run; what is built for it is kept there.
            reporter: told what is going on.

        Raises:
            DeviceError: the device is gone.
        """


def full_settings(config: RunConfig) -> TrainSettings:
    """Of the full fine-tune."""
    return TrainSettings(
        config.budgets.finetune_steps,
        learning_rate=0.05,
        warmup=0.1,
        seed=config.seed,
        distillation=config.distillation,
    )


@dataclass
class Workbench:
    """Everything a run works with, whatever its latencies come from.

    Attributes:
        config: its options.
        subject: the trained network, its groups and its images.
        lab: where latencies come from.
        oracle: of accuracy, not calibrated.
        dense_accuracy: on the search images.
        calibrations: from the oracle's losses to those after the full fine-tune.
        calibration_points: what they were fitted on.
        curves: predicted loss of each group, from the plans of the calibration.
        model_cost: trials and seconds that went into the cost model: only an agent that plans in it
            needs it, so its
            search is charged with them.
        scheme_cost: the same of what was measured of schemes, for those who prune by them.
    """

    config: RunConfig
    subject: Subject
    lab: Lab
    oracle: PlanOracle
    dense_accuracy: float
    calibrations: Calibrations = field(default_factory=Calibrations)
    calibration_points: list[CalibrationPoint] = field(default_factory=list)
    curves: LossCurves = field(default_factory=lambda: LossCurves(np.empty(0), np.empty(0)))
    model_cost: dict[str, float] = field(default_factory=dict)
    scheme_cost: dict[str, float] = field(default_factory=dict)

    @property
    def network(self) -> Network:
        """Its subgraphs."""
        return self.lab.network

    @property
    def data(self) -> ImageData:
        """Images."""
        return self.subject.data

    @property
    def model(self) -> nn.Module:
        """The trained dense network."""
        return self.subject.model

    @property
    def coupled(self) -> CoupledGroups:
        """Its groups, importance and ranking."""
        return self.subject.coupled

    @property
    def finetune_settings(self) -> TrainSettings:
        """Of the full fine-tune."""
        return full_settings(self.config)

    def refit(self, plan: Plan, accuracy: float) -> None:
        """Fits the calibrations anew with one more plan that was fine-tuned in full.

        Args:
            plan: that was fine-tuned.
            accuracy: that it has on the search images.
        """
        point = CalibrationPoint(plan, self.oracle.loss(plan), self.dense_accuracy - accuracy)
        if point not in self.calibration_points:
            self.calibration_points.append(point)
            self.calibrations = Calibrations.fit(self.calibration_points, self.network.dense.widths)

    def problem(self) -> Problem:
        """The problem with counters of its own, for one search.

        Raises:
            FloorError: the floor, or the margin above it, is above the dense network's accuracy.
        """
        floor = resolve_floor(self.config.floor, self.dense_accuracy)
        if floor + self.config.margin > self.dense_accuracy:
            raise FloorError(
                f"the margin {self.config.margin:g} leaves nothing to lose between the dense network's accuracy {self.dense_accuracy:.4f} and the floor {floor:.4f}: give less"
            )
        floor += self.config.margin
        name = f"{self.network.name}/{self.data.name}@{self.lab.device_name}"
        oracle = self.oracle.view(self.calibrations)
        return Problem(
            name,
            self.network,
            self.lab.source(),
            oracle,
            self.curves,
            self.dense_accuracy,
            floor,
            self.lab.descriptor,
        )
