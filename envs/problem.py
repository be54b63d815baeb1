"""A problem: everything an environment or a searcher needs to know, behind protocols."""

from __future__ import annotations

from dataclasses import dataclass

from cprune_rl.core.device_descriptor import UNKNOWN_DEVICE, DeviceDescriptor
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import AccuracyOracle, LatencySource
from cprune_rl.errors import FloorError

__all__ = ["Problem", "resolve_floor"]


@dataclass(frozen=True)
class Problem:
    """Prune `network` until it is fast on a device, without falling below `floor`.

    Attributes:
        name: for logs and reports.
        network: what can be pruned.
        latency: task latencies.
        oracle: accuracy of plans.
        loss_model: predicted loss of each group: what an agent knows before it asks the oracle.
        dense_accuracy: of the dense network, in [0, 1].
        floor: accuracy that must hold, in [0, dense_accuracy].
        descriptor: of the device; the default says nothing of it.
        start: plan that a search begins with; the dense one where not given.
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

    @property
    def beginning(self) -> Plan:
        """The plan that a search begins with."""
        return self.start or self.network.dense

    def __post_init__(self) -> None:
        if self.floor > self.dense_accuracy:
            raise FloorError(
                f"the floor {self.floor:.4f} is above the dense network's accuracy {self.dense_accuracy:.4f}: nothing can hold it"
            )


def resolve_floor(floor: float, dense_accuracy: float, may_exceed: bool = False) -> float:
    """The accuracy that must hold.

    Args:
        floor: relative to the dense network where it is 0 or less (-0.01: one point below it), else
            absolute.
        dense_accuracy: of the dense network, in [0, 1].
        may_exceed: whether an absolute floor may be above the dense network's accuracy: on images
            that were
            not looked at before the search, that is for the report to say.

    Raises:
        FloorError: it is outside [-1, 1], or above the dense network's accuracy.
    """
    if not -1.0 <= floor <= 1.0:
        raise FloorError(
            f"floor {floor} is no accuracy: give one in (0, 1], or -0.01 for one point below the dense network"
        )
    absolute = dense_accuracy + floor if floor <= 0 else floor
    if absolute > dense_accuracy and not may_exceed:
        raise FloorError(
            f"floor {absolute:.4f} is above the dense network's accuracy {dense_accuracy:.4f}: give a lower one, or train the network further"
        )
    return max(0.0, absolute)
