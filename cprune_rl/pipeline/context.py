"""Holds what every search of a run needs to know."""

from __future__ import annotations

from dataclasses import dataclass

from cprune_rl.accuracy.oracle import PlanOracle
from cprune_rl.core.floor import resolve_floor
from cprune_rl.core.gate_model import GateModel
from cprune_rl.core.loss_model import KnownLoss
from cprune_rl.core.network import Network
from cprune_rl.core.protocols import FullFinetunes
from cprune_rl.envs.problem import Problem
from cprune_rl.errors import FloorError
from cprune_rl.pipeline.backends.base import LatencyBackend
from cprune_rl.pipeline.calibration_stage import OracleCalibration
from cprune_rl.pipeline.dense_networks import DenseNetworks
from cprune_rl.pipeline.trained_model import TrainedModel

__all__ = ["RunContext"]


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """A trained network, where its latencies come from, and how its plans are evaluated.

    Attributes:
        dense: the network as it was given and after the full fine-tune.
        oracle: not calibrated; `problem` applies `calibration`.
    """

    trained_model: TrainedModel
    dense: DenseNetworks
    backend: LatencyBackend
    oracle: PlanOracle
    calibration: OracleCalibration

    @property
    def network(self) -> Network:
        """Description of the dense network that plans refer to."""
        return self.backend.network

    def search_floor(self, floor: float, margin: float = 0.0) -> float:
        """Give the accuracy that a search has to keep on the search images.

        Args:
            floor: as asked for, see `resolve_floor`.
            margin: that the search keeps above it.

        Raises:
            FloorError: the floor, or the margin above it, is above the dense network's accuracy.
        """
        dense_accuracy = self.dense.accuracy
        absolute = resolve_floor(floor, self.dense.reference_accuracy)
        if absolute + margin > dense_accuracy:
            raise FloorError(
                f"the margin {margin:g} leaves nothing to lose between the dense network's "
                f"accuracy {dense_accuracy:.4f} and the floor {absolute:.4f}: give less"
            )
        return absolute + margin

    def problem(
        self, floor: float, margin: float = 0.0, finetunes: FullFinetunes | None = None
    ) -> Problem:
        """Open the problem for one search, with counters of its own.

        Args:
            floor: as asked for, see `resolve_floor`.
            margin: that the search keeps above it.
            finetunes: let the search ask the final gate.

        Raises:
            FloorError: see `search_floor`.
        """
        return Problem(
            name=f"{self.network.name}/{self.trained_model.trainer.name}@{self.backend.device_name}",
            network=self.network,
            latency=self.backend.source(),
            oracle=self.oracle.with_calibrations(self.calibration.maps),
            loss_model=self.calibration.loss_model,
            dense_accuracy=self.dense.accuracy,
            floor=self.search_floor(floor, margin),
            descriptor=self.backend.descriptor,
            full_finetunes=finetunes,
            known_losses=() if finetunes is None else self._known_losses(finetunes.gate),
        )

    def _known_losses(self, gate: GateModel) -> tuple[KnownLoss, ...]:
        """Give what the calibration's full fine-tunes lost, and how sure that is."""
        n_images = self.trained_model.trainer.n_images["search"]
        return tuple(
            KnownLoss(p.plan, p.full_loss, gate.loss_error(p.full_loss, n_images))
            for p in self.calibration.points
        )
