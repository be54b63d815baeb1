"""Problems for training a policy: networks, floors, losses and latencies that differ each episode.

Nothing is compiled, timed or trained for a problem. Latencies are interpolated from tasks that were
timed. The true losses and latencies deviate from what the agent is told, by as much as fine-tuned
plans and interpolated tasks were found to. In a share of the episodes everything is as predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.device_descriptor import UNKNOWN_DEVICE, DeviceDescriptor
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Network
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.loss_model_oracle import LossModelOracle
from cprune_rl.envs.problems.network_variants import draw_variant
from cprune_rl.envs.problems.registry import read_recording
from cprune_rl.envs.problems.replay import LossNoise, uniform_loss_model
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.latency.sources import InterpolatedLatency, LatencyNoise

__all__ = ["GeneratedProblems", "GeneratorSettings", "ProblemSource"]


@dataclass(frozen=True, kw_only=True)
class GeneratorSettings:
    """How problems are drawn.

    Attributes:
        floors: drops in accuracy to draw from.
        start_ratios: kept ratios of the uniform plans that episodes start from, to draw from; empty
            starts from the dense network.
        model_share: share of episodes in which losses and latencies are as predicted, as they are
            in the model that the agent plans in.
        losses: how far true losses are from predicted ones.
        prediction_sigma: log deviation of a group's predicted loss, as evaluations change it during
            a search.
        level_sigma: log deviation of a network's predicted loss from the recording's.
        n_variants: number of networks that nobody recorded. They are drawn once: a network
            remembers its tasks, and a new one would have to learn them.
        recorded_share: share of episodes on a recorded network as it is.
        min_latency_sigma: log deviation of a task's latency from the interpolation, where the
            recording's own error is less.
        is_device_hidden: say nothing of the device, to see what its descriptor is worth.
        seed: of the variants.
    """

    floors: tuple[float, ...] = (0.005, 0.01, 0.02, 0.03)
    start_ratios: tuple[float, ...] = ()
    model_share: float = 0.5
    losses: LossNoise = field(default_factory=LossNoise)
    prediction_sigma: float = 0.4
    level_sigma: float = 0.5
    n_variants: int = 256
    recorded_share: float = 0.25
    min_latency_sigma: float = 0.03
    is_device_hidden: bool = False
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ProblemSource:
    """A network on a device, of which problems are drawn.

    Attributes:
        name: of the problems.
        network: what is pruned.
        interpolator: gives latencies.
        loss_model: predicts losses.
        dense_accuracy: of the dense network, in [0, 1].
        descriptor: of the device.
        latency_sigma: log deviation of a task's true latency from the interpolated one.
    """

    name: str
    network: Network
    interpolator: LatencyInterpolator
    loss_model: LossModel
    dense_accuracy: float
    descriptor: DeviceDescriptor
    latency_sigma: float = 0.06


class GeneratedProblems:
    """Draws a problem for each episode (a `cprune_env.ProblemSampler`).

    Args:
        draw_source: draws the network, its device and its predicted losses.
        settings: how the rest is drawn.
    """

    def __init__(
        self,
        draw_source: Callable[[np.random.Generator], ProblemSource],
        settings: GeneratorSettings,
    ) -> None:
        self._draw_source = draw_source
        self._settings = settings

    @classmethod
    def from_source(
        cls, source: ProblemSource, settings: GeneratorSettings | None = None
    ) -> GeneratedProblems:
        """Draw variations of one problem; its network and device stay.

        Of the settings, those of variants and recordings do not count.
        """
        settings = settings or GeneratorSettings()
        return cls(_OneNetwork(source, settings.prediction_sigma), settings)

    @classmethod
    def from_recordings(
        cls, names: Sequence[str], settings: GeneratorSettings | None = None
    ) -> GeneratedProblems:
        """Draw problems on recorded networks and on variants of them, each on its own device.

        Raises:
            CPruneError: a name opens no recording (see `open_recorded`).
        """
        settings = settings or GeneratorSettings()
        return cls(_RecordedNetworks(names, settings), settings)

    def __call__(self, rng: np.random.Generator) -> Problem:
        """Draw a problem."""
        settings = self._settings
        source = self._draw_source(rng)
        network = source.network
        noise = None
        if rng.random() < settings.model_share:
            oracle = LossModelOracle(network, source.loss_model, source.dense_accuracy)
        else:
            noise = LatencyNoise(int(rng.integers(2**31)), source.latency_sigma)
            true_losses = settings.losses.draw(source.loss_model, rng)
            oracle = settings.losses.oracle(network, true_losses, source.dense_accuracy, rng)
        floor = source.dense_accuracy - float(rng.choice(np.asarray(settings.floors)))
        start = None
        if settings.start_ratios:
            start = network.uniform(float(rng.choice(np.asarray(settings.start_ratios))))
            # The loss of channels that were pruned before counts for no floor.
            floor -= source.dense_accuracy - oracle.accuracy(start).value
        return Problem(
            name=f"{source.name} (varied)",
            network=network,
            latency=InterpolatedLatency(network, source.interpolator, noise=noise),
            oracle=oracle,
            loss_model=source.loss_model,
            dense_accuracy=source.dense_accuracy,
            floor=max(floor, 0.0),
            descriptor=source.descriptor,
            start=start,
        )


@dataclass(frozen=True)
class _OneNetwork:
    """Draws one network with other predicted losses."""

    source: ProblemSource
    prediction_sigma: float

    def __call__(self, rng: np.random.Generator) -> ProblemSource:
        loss_model = self.source.loss_model
        factors = np.exp(rng.normal(0.0, self.prediction_sigma, loss_model.n_units))
        return replace(self.source, loss_model=loss_model.scaled(factors))


class _RecordedNetworks:
    """Draws a recorded network or a variant of one, with other predicted losses."""

    def __init__(self, names: Sequence[str], settings: GeneratorSettings) -> None:
        self._settings = settings
        self._recorded = [_recorded_source(name, settings) for name in names]
        rng = np.random.default_rng(settings.seed)
        self._variants: list[ProblemSource] = []
        for number in range(settings.n_variants):
            recorded = self._recorded[number % len(self._recorded)]
            network = draw_variant(recorded.network, rng)
            self._variants.append(replace(recorded, network=network))

    def __call__(self, rng: np.random.Generator) -> ProblemSource:
        settings = self._settings
        is_recorded = rng.random() < settings.recorded_share
        sources = self._recorded if is_recorded else self._variants
        source = sources[int(rng.integers(len(sources)))]
        # The total is the recording's, for a variant of more groups as for one of fewer.
        uniform = source.loss_model
        n_groups = len(source.network.groups)
        total = float(uniform.scale.sum())
        level = total / n_groups * np.exp(rng.normal(0.0, settings.level_sigma))
        loss_model = LossModel(
            level * np.exp(rng.normal(0.0, settings.prediction_sigma, n_groups)),
            np.full(n_groups, uniform.power[0]),
            self._layer_scale(uniform, source.network, rng),
        )
        return replace(source, loss_model=loss_model)

    def _layer_scale(
        self, uniform: LossModel, network: Network, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Draw the predicted losses of layers, where the recording has any.

        A generator of their own draws them: those of groups are the same with layers and without.
        """
        own = rng.spawn(1)[0]
        n_layers = len(network.scheme_layers) if len(uniform.layer_scale) else 0
        mean = float(uniform.layer_scale.mean()) if n_layers else 0.0
        level = own.normal(0.0, self._settings.level_sigma)
        deviations = own.normal(0.0, self._settings.prediction_sigma, n_layers)
        return mean * np.exp(level + deviations)


def _recorded_source(name: str, settings: GeneratorSettings) -> ProblemSource:
    recording = read_recording(name)
    interpolator = LatencyInterpolator(recording.costs)
    return ProblemSource(
        name=recording.name,
        network=recording.network,
        interpolator=interpolator,
        loss_model=uniform_loss_model(recording),
        dense_accuracy=recording.dense_accuracy,
        descriptor=UNKNOWN_DEVICE if settings.is_device_hidden else recording.descriptor,
        latency_sigma=max(interpolator.leave_one_out_error, settings.min_latency_sigma),
    )
