"""Draws variations of one problem, to train a policy on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cprune_rl.core.device_descriptor import DeviceDescriptor
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Network
from cprune_rl.core.protocols import LatencySource
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.loss_model_oracle import LossModelOracle
from cprune_rl.envs.problems.replay import LossNoise
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.latency.sources import InterpolatedLatency, LatencyNoise

__all__ = ["TrainingProblems"]


@dataclass(frozen=True)
class TrainingProblems:
    """Draws variations of one problem, so that a policy meets floors, losses and latencies it was
    not told of.

    Attributes:
        network: what is pruned.
        model: interpolated latencies.
        loss_model: fitted loss model, around which those are drawn that the agent is shown.
        dense_accuracy: of the dense network.
        descriptor: of the device.
        floors: drops in accuracy to draw from.
        losses: how far true losses are from the predicted losses.
        prediction_sigma: log deviation of a group's loss shown from the fitted curve: what evaluations
            teach of it in a search.
        latency_sigma: log deviation of each task's true latency from the one predicted.
        model_share: of the episodes in which all is as it is shown, as in the model that the
            agent has a policy plan in.
        start_ratios: shares of all channels with which episodes begin, drawn from; whole networks
            where there are none.
    """

    network: Network
    model: LatencyInterpolator
    loss_model: LossModel
    dense_accuracy: float
    descriptor: DeviceDescriptor
    floors: Sequence[float] = (0.005, 0.01, 0.02, 0.03)
    losses: LossNoise = field(default_factory=LossNoise)
    prediction_sigma: float = 0.4
    latency_sigma: float = 0.06
    model_share: float = 0.5
    start_ratios: Sequence[float] = ()

    def __call__(self, rng: np.random.Generator) -> Problem:
        """One variation."""
        shown = self.loss_model.scaled(
            np.exp(rng.normal(0.0, self.prediction_sigma, self.loss_model.n_units))
        )
        latency: LatencySource = InterpolatedLatency(self.network, self.model)
        if rng.random() < self.model_share:
            oracle = LossModelOracle(self.network, shown, self.dense_accuracy)
        else:
            latency = InterpolatedLatency(
                self.network,
                self.model,
                noise=LatencyNoise(int(rng.integers(2**31)), self.latency_sigma),
            )
            oracle = self.losses.oracle(
                self.network, self.losses.draw(shown, rng), self.dense_accuracy, rng
            )
        floor = self.dense_accuracy - float(rng.choice(np.asarray(self.floors)))
        start = (
            self.network.uniform(float(rng.choice(np.asarray(self.start_ratios))))
            if self.start_ratios
            else None
        )
        if start is not None:  # what the channels that are gone have cost is behind it
            floor -= self.dense_accuracy - oracle.accuracy(start).value
        return Problem(
            f"{self.network.name} (varied)",
            self.network,
            latency,
            oracle,
            shown,
            self.dense_accuracy,
            max(floor, 0.0),
            self.descriptor,
            start,
        )
