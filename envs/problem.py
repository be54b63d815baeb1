"""A problem: everything that an environment or a searcher needs to know, behind contracts."""

from __future__ import annotations

from dataclasses import dataclass

from cprune_rl.core.device_descriptor import UNKNOWN_DEVICE, DeviceDescriptor
from cprune_rl.core.loss_model import KnownLoss, LossModel
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import AccuracyOracle, FullFinetunes, LatencySource
from cprune_rl.errors import FloorError

__all__ = ["Problem"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Prune `network` until it is fast on a device, without falling below `floor`.

    Attributes:
        name: for logs and reports.
        network: what can be pruned.
        latency: of tasks, on the device.
        oracle: of the accuracy of plans.
        loss_model: what an agent knows of the loss of plans before it asks the oracle.
        dense_accuracy: of the dense network, in [0, 1].
        floor: accuracy that must hold, in [0, dense_accuracy].
        descriptor: of the device; the default says nothing of it.
        start: plan that a search starts from; None starts from the dense network.
        full_finetunes: lets a search fine-tune plans in full and ask the final gate; None where
            that comes after the search alone.
        known_losses: of plans that were fine-tuned in full before the search.

    Raises:
        FloorError: the floor is above the dense network's accuracy.
    """

    name: str
    network: Network
    latency: LatencySource
    oracle: AccuracyOracle
    loss_model: LossModel
    dense_accuracy: float
    floor: float
    descriptor: DeviceDescriptor = UNKNOWN_DEVICE
    start: Plan | None = None
    full_finetunes: FullFinetunes | None = None
    known_losses: tuple[KnownLoss, ...] = ()

    def __post_init__(self) -> None:
        if self.floor > self.dense_accuracy:
            raise FloorError(
                f"the floor {self.floor:.4f} is above the dense network's accuracy "
                f"{self.dense_accuracy:.4f}: nothing can hold it"
            )

    @property
    def start_plan(self) -> Plan:
        """The plan that a search starts from."""
        return self.start or self.network.dense

    @property
    def slack(self) -> float:
        """Accuracy that may be lost."""
        return self.dense_accuracy - self.floor

    def holds(self, accuracy: float) -> bool:
        """Whether an accuracy holds the floor: the gate that a step or a search's plan must pass.

        The finished network has a gate of its own (`accuracy.final_gate`).
        """
        return accuracy >= self.floor

    def measured_s(self, plan: Plan) -> float:
        """Measure a plan's estimate, the sum of its tasks; infinite where a task does not run.

        Raises:
            DeviceError: the device is gone.
        """
        return sum(cost.latency_s for cost in self.latency.measure(plan))

    def predicted_s(self, plan: Plan) -> float:
        """Predict a plan's estimate without a trial; infinite where a task cannot be predicted."""
        costs = self.latency.predict(self.network.workloads(plan))
        return sum(cost.latency_s for cost in costs)

    def predicted_loss(self, plan: Plan) -> float:
        """Predict the accuracy that a plan loses, without asking the oracle."""
        return self.loss_model.plan_loss(self.network, plan)
