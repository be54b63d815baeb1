"""Problems for training one policy that serves many networks, floors and devices of a class.

Each is a variant of a recorded network on the device it was recorded on: latencies interpolated
from what was timed, off
by as much as the interpolation is (tasks left out in turn); losses drawn around those that oracles
gave, and off from what
the agent is shown, by as much as fine-tuned plans were found to be (`replay.LossNoise`). In a
share of the episodes
all is as shown. Nothing is compiled, timed or trained for a problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.device_descriptor import UNKNOWN_DEVICE
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Network
from cprune_rl.core.protocols import LatencySource
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.loss_model_oracle import LossModelOracle
from cprune_rl.envs.problems.network_variants import Variant, vary
from cprune_rl.envs.problems.registry import Recording, read_recording
from cprune_rl.envs.problems.replay import LossNoise, uniform_loss_model
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.latency.sources import InterpolatedLatency, LatencyNoise

__all__ = ["GeneratedProblems", "GeneratorSettings"]


@dataclass(frozen=True)
class GeneratorSettings:
    """What is drawn.

    Attributes:
        n_variants: networks; drawn once, because a network remembers its tasks and a new one would
            have to learn them.
        floors: drops in accuracy.
        recorded_share: of the episodes that are on a recorded network as it is.
        model_share: of the episodes in which all is as it is shown, as in the model that the
            agent has a policy plan in.
        losses: how far they are from what is shown.
        level_sigma: log deviation of the loss shown, of a whole network, from the recording's.
        prediction_sigma: log deviation of a group's loss shown from that: what evaluations taught of it
            beforehand.
        least_latency_sigma: log deviation of a task's latency from the interpolation, where the
            recording's own error is less.
        is_device_hidden: whether nothing is said of the device, to see what its descriptor is
            worth.
        start_ratios: shares of all channels with which episodes begin, drawn from; whole networks
            where there are none.
        seed: of the variants.
    """

    n_variants: int = 256
    floors: tuple[float, ...] = (0.005, 0.01, 0.02, 0.03)
    recorded_share: float = 0.25
    model_share: float = 0.5
    losses: LossNoise = field(default_factory=LossNoise)
    level_sigma: float = 0.5
    prediction_sigma: float = 0.4
    least_latency_sigma: float = 0.03
    is_device_hidden: bool = False
    start_ratios: tuple[float, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class _Source:
    """A recording to draw from, with its tasks interpolated."""

    recording: Recording
    model: LatencyInterpolator


@dataclass(frozen=True)
class GeneratedProblems:
    """Draws a problem for each episode (see `envs.cprune_env.ProblemSampler`).

    Attributes:
        names: recordings to draw from.
        settings: what is drawn.
    """

    names: Sequence[str]
    settings: GeneratorSettings = field(default_factory=GeneratorSettings)
    _sources: list[_Source] = field(init=False, repr=False, default_factory=list)
    _variants: list[tuple[_Source, Variant]] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        self._sources.extend(
            _Source(r, LatencyInterpolator(r.costs)) for r in map(read_recording, self.names)
        )
        rng = np.random.default_rng(self.settings.seed)
        for number in range(self.settings.n_variants):
            source = self._sources[number % len(self._sources)]
            self._variants.append((source, vary(source.recording.network, rng)))

    def __call__(self, rng: np.random.Generator) -> Problem:
        """One problem."""
        s = self.settings
        if rng.random() < s.recorded_share:
            source = self._sources[int(rng.integers(len(self._sources)))]
            variant = Variant(
                source.recording.network, tuple(range(len(source.recording.network.groups)))
            )
        else:
            source, variant = self._variants[int(rng.integers(len(self._variants)))]
        recording, n = source.recording, len(variant.network.groups)
        even = uniform_loss_model(
            recording
        )  # in total as much for a variant of more groups, or fewer
        level = float(even.scale.sum()) / n * np.exp(rng.normal(0.0, s.level_sigma))
        loss_model = LossModel(
            level * np.exp(rng.normal(0.0, s.prediction_sigma, n)),
            np.full(n, even.power[0]),
            self._of_layers(even, variant.network, rng),
        )
        latency: LatencySource = InterpolatedLatency(variant.network, source.model)
        if rng.random() < s.model_share:
            oracle = LossModelOracle(variant.network, loss_model, recording.dense_accuracy)
        else:
            latency = InterpolatedLatency(
                variant.network,
                source.model,
                noise=LatencyNoise(
                    int(rng.integers(2**31)),
                    max(source.model.leave_one_out_error, s.least_latency_sigma),
                ),
            )
            oracle = s.losses.oracle(
                variant.network, s.losses.draw(loss_model, rng), recording.dense_accuracy, rng
            )
        floor = recording.dense_accuracy - float(rng.choice(np.asarray(s.floors)))
        start = (
            variant.network.uniform(float(rng.choice(np.asarray(s.start_ratios))))
            if s.start_ratios
            else None
        )
        if start is not None:  # what the channels that are gone have cost is behind it
            floor -= recording.dense_accuracy - oracle.accuracy(start).value
        floor = max(0.0, floor)
        device = UNKNOWN_DEVICE if s.is_device_hidden else recording.descriptor
        return Problem(
            f"{recording.name} (varied)",
            variant.network,
            latency,
            oracle,
            loss_model,
            recording.dense_accuracy,
            floor,
            device,
            start,
        )

    def _of_layers(
        self, even: LossModel, network: Network, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Losses shown of the layers that schemes may prune, as far as the recording says;

        by a generator of their own.
        """
        own, s = rng.spawn(1)[0], self.settings
        n = len(network.scheme_layers) if len(even.layer_scale) else 0
        return float(even.layer_scale.mean() if n else 0.0) * np.exp(
            own.normal(0.0, s.level_sigma) + own.normal(0.0, s.prediction_sigma, n)
        )
