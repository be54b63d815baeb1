"""What a run works with: the parts that every run has, and the backend, where its latencies come from.

A backend is a compiler with a device behind it (`job.compiled`) or a recording (`job.recorded`); put
together by
`job.assemble`. Nothing here loads tvm, so a run on a recording never does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import nn

from cprune_rl.accuracy.calibration import CalibrationPoint, Calibrations
from cprune_rl.accuracy.data import ImageData
from cprune_rl.accuracy.oracle import PlanOracle
from cprune_rl.accuracy.training import TrainSettings
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Network, Plan
from cprune_rl.envs.problem import Problem, resolve_floor
from cprune_rl.errors import FloorError
from cprune_rl.pipeline.backends.base import LatencyBackend
from cprune_rl.pipeline.config import RunConfig
from cprune_rl.pipeline.trained_model import TrainedModel
from cprune_rl.pruning.groups import CoupledGroups

__all__ = ["RunContext", "full_settings"]


def full_settings(config: RunConfig) -> TrainSettings:
    """Of the full fine-tune."""
    return TrainSettings(
        n_steps=config.budgets.finetune_steps,
        learning_rate=0.05,
        warmup=0.1,
        seed=config.seed,
        distillation=config.distillation,
    )


@dataclass
class RunContext:
    """Everything a run works with, whatever its latencies come from.

    Attributes:
        config: its options.
        trained_model: the trained network, its groups and its images.
        backend: where latencies come from.
        oracle: of accuracy, not calibrated.
        dense_accuracy: on the search images.
        calibrations: from the oracle's losses to those after the full fine-tune.
        calibration_points: what they were fitted on.
        loss_model: predicted loss of each group, from the plans of the calibration.
        model_cost: trials and seconds that went into the cost model: only an agent that plans in it
            needs it, so its
            search is charged with them.
        scheme_cost: the same of what was measured of schemes, for those who prune by them.
    """

    config: RunConfig
    trained_model: TrainedModel
    backend: LatencyBackend
    oracle: PlanOracle
    dense_accuracy: float
    calibrations: Calibrations = field(default_factory=Calibrations)
    calibration_points: list[CalibrationPoint] = field(default_factory=list)
    loss_model: LossModel = field(default_factory=lambda: LossModel(np.empty(0), np.empty(0)))
    model_cost: dict[str, float] = field(default_factory=dict)
    scheme_cost: dict[str, float] = field(default_factory=dict)

    @property
    def network(self) -> Network:
        """Its subgraphs."""
        return self.backend.network

    @property
    def data(self) -> ImageData:
        """Images."""
        return self.trained_model.data

    @property
    def model(self) -> nn.Module:
        """The trained dense network."""
        return self.trained_model.model

    @property
    def coupled(self) -> CoupledGroups:
        """Its groups, importance and ranking."""
        return self.trained_model.coupled

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
        name = f"{self.network.name}/{self.data.name}@{self.backend.device_name}"
        oracle = self.oracle.with_calibrations(self.calibrations)
        return Problem(
            name=name,
            network=self.network,
            latency=self.backend.source(),
            oracle=oracle,
            loss_model=self.loss_model,
            dense_accuracy=self.dense_accuracy,
            floor=floor,
            descriptor=self.backend.descriptor,
        )
