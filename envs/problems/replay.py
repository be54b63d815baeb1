"""Recorded problems as a search would meet them on a device:

nothing is known that was not paid for.

A recording answers any look at once, and its loss model is its oracle: opened as it is, a problem
tells a search the
truth beforehand. In a replay a task that was not looked at is interpolated from those that were,
and the true losses
deviate from the predicted losses, by a seed and by a spread (`LossNoise`), and the oracle's answers
are biased and noisy. What a live run
measures before it searches is counted; the calibration, which every search uses, is not. Policies
are judged on replays.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.device_descriptor import UNKNOWN_DEVICE
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Network, Plan
from cprune_rl.envs.actions.layer_schemes import scheme_plans
from cprune_rl.envs.problem import Problem, resolve_floor
from cprune_rl.envs.problems.loss_model_oracle import LossModelOracle
from cprune_rl.envs.problems.registry import Recording, read_recording, without_floor
from cprune_rl.errors import DataError
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.latency.recorded import RecordedLatency
from cprune_rl.latency.sources import InterpolatedLatency

__all__ = [
    "TRIALS_PER_SCHEME_TASK",
    "TRIALS_PER_TASK",
    "LossNoise",
    "Replay",
    "open_replay",
    "uniform_loss_model",
]

# fresh trials that a look at a task took in live runs with full effort: 16 by greedy CPrune, 20 by
# the agent (docs/results/resnet8.json)
TRIALS_PER_TASK = 16
# the same of a task of the table of schemes, which is tuned hard where it promises anything, in a
# live run with light effort (docs/results/schemes/resnet8-1t.json)
TRIALS_PER_SCHEME_TASK = 25
_HALF = 0.5  # kept ratio of the uniform plan whose loss is taken
_SWEEP = (0.5,)  # kept ratios of the uniform plans that a live run measures before it searches
_SCHEME_SWEEP = (
    0.25,
    0.0625,
)  # densities at which it measures every kind of scheme, where layers are to be pruned so


@dataclass(frozen=True)
class LossNoise:
    """How far true losses are from those that are predicted, and an oracle's answers from them.

    As fitted to plans of three networks that were fine-tuned (`benchmarks/loss_model.py`), but for
    three that are assumed: the level's
    deviation, which was less between two trainings of a network; that of each group's power, which
    keeps the truth out
    of the family of models that a search believes in; and the error that an oracle states, 0.3 to
    0.9 points in live runs.
    The oracle's are those of 50-step fine-tunes, calibrated on plans of half the latency, where a
    run has uniform plans.

    Attributes:
        level: log deviation of a whole network's loss.
        group: log deviation of a group's loss from that.
        power: log deviation of a group's curvature.
        oracle_level: log deviation of what an oracle says of all losses.
        oracle_group: log deviation of what it says of a group's: plans that are much alike are
            misjudged alike.
        noise: standard deviation of what is left of an oracle's error, in accuracy.
        standard_error: that an oracle states, in accuracy.
    """

    level: float = 0.2
    group: float = 0.4
    power: float = 0.2
    oracle_level: float = 0.2
    oracle_group: float = 0.4
    noise: float = 0.0013
    standard_error: float = 0.0025

    def draw(self, shown: LossModel, rng: np.random.Generator) -> LossModel:
        """A truth for the predicted losses."""
        n = len(shown.scale)
        factors = _log_normal(self.level, 1, rng) * _log_normal(self.group, n, rng)
        powers = _log_normal(self.power, n, rng)
        of_layers = self._of_layers(shown, self.level, self.group, rng)
        return replace(
            shown.scaled(np.concatenate([factors, of_layers])), power=shown.power * powers
        )

    def oracle(
        self, network: Network, truth: LossModel, dense_accuracy: float, rng: np.random.Generator
    ) -> LossModelOracle:
        """An oracle that is off as a real one is."""
        factors = _log_normal(self.oracle_level, 1, rng) * _log_normal(
            self.oracle_group, len(truth.scale), rng
        )
        told = truth.scaled(
            np.concatenate(
                [factors, self._of_layers(truth, self.oracle_level, self.oracle_group, rng)]
            )
        )
        return LossModelOracle(
            network, told, dense_accuracy, self.noise, int(rng.integers(2**31)), self.standard_error
        )

    def _of_layers(
        self, loss_model: LossModel, level: float, each: float, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Factors of the layers that schemes may prune, by a generator of their own:

        channels are drawn alike whether there are any or not.
        """
        own = rng.spawn(1)[0]
        return _log_normal(level, 1, own) * _log_normal(each, len(loss_model.layer_scale), own)


def _log_normal(sigma: float, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Factors of mean 1."""
    return np.exp(rng.normal(0.0, sigma, n) - sigma**2 / 2)


@dataclass(frozen=True)
class Replay:
    """A problem and what it cost to know what is known of it from the start.

    Attributes:
        problem: to be searched.
        n_tasks: looked at before: those of the dense network, of the uniform plan, and of the table
            of schemes.
        n_charged_tasks: the latter two alone: what only some searches need.
        charged_trials: that those are charged with.
        truth: of the losses; what the oracle says of them is biased and noisy.
    """

    problem: Problem
    n_tasks: int
    n_charged_tasks: int
    charged_trials: int
    truth: LossModel

    def holds(self, plan: Plan) -> bool:
        """Whether a plan truly holds the floor;

        a final gate would also ask for a margin, for it has so many images only.
        """
        return self.accuracy(plan) >= self.problem.floor

    def accuracy(self, plan: Plan) -> float:
        """What a plan truly has."""
        problem = self.problem
        return (
            LossModelOracle(problem.network, self.truth, problem.dense_accuracy)
            .accuracy(plan)
            .value
        )


def open_replay(
    name: str,
    floor: float | None = None,
    seed: int = 0,
    warm_start: bool = True,
    perfect_information: bool = False,
    is_device_hidden: bool = False,
    losses: Literal["drawn", "recorded"] = "drawn",
    with_schemes: bool = False,
) -> Replay:
    """Opens a recorded problem as a search would meet it.

    Args:
        name: of the recording (see `recordings.open_recorded`).
        floor: replaces the recorded floor, and that of the name.
        seed: of the true losses.
        warm_start: whether a uniform plan was measured before, as a search needs it that reads
            cheap looks; the others are
            not charged with them.
        perfect_information: whether everything is known from the start: for a reference that no search can be
            expected to reach.
        is_device_hidden: whether nothing is said of the device.
        losses: where the true ones come from: drawn around one curve for all groups, the one that
            is shown; or the recording's own,
            which an oracle gave for each group alone, and of which the level alone is drawn. The
            latter are far from what is shown.
        with_schemes: whether every kind of scheme was measured before, as a search needs it that
            prunes layers so.

    Raises:
        DataError: schemes are asked for, and the recording has none.
        CPruneError: see `recordings.open_recorded`.
    """
    bare, asked = without_floor(name)
    recording, tasks = _opened(bare)
    if with_schemes and not len(recording.loss_model.layer_scale):
        raise DataError(
            f"{bare} was recorded without schemes: record it with --schemes block, or take another (`cprune-rl problems list` says which have them)"
        )
    network = recording.network
    absolute = resolve_floor(
        next(f for f in (floor, asked, recording.floor) if f is not None), recording.dense_accuracy
    )
    shown, spread, rng = (
        uniform_loss_model(recording),
        LossNoise(),
        np.random.default_rng([seed, zlib.crc32(recording.name.encode())]),
    )
    truth = (
        spread.draw(shown, rng)
        if losses == "drawn"
        else replace(spread, group=0.0, power=0.0).draw(recording.loss_model, rng)
    )
    recorded = RecordedLatency(network, tasks, trials_each=TRIALS_PER_TASK)
    costs = (
        recorded
        if perfect_information
        else InterpolatedLatency(network, LatencyInterpolator(), recorded)
    )
    costs.measure(network.dense)
    n_dense = recorded.spending.cached_trials
    for ratio in _SWEEP if warm_start else ():
        costs.measure(network.uniform(ratio))
    n_narrow = recorded.spending.cached_trials
    for density in _SCHEME_SWEEP if with_schemes else ():
        for plan in scheme_plans(network, density):
            costs.measure(plan)
    n_known = recorded.spending.cached_trials
    oracle = (
        LossModelOracle(network, truth, recording.dense_accuracy)
        if perfect_information
        else spread.oracle(network, truth, recording.dense_accuracy, rng)
    )
    device = UNKNOWN_DEVICE if is_device_hidden else recording.descriptor
    problem = Problem(
        name=recording.name,
        network=network,
        latency=costs,
        oracle=oracle,
        loss_model=truth if perfect_information else shown,
        dense_accuracy=recording.dense_accuracy,
        floor=absolute,
        descriptor=device,
    )
    trials = TRIALS_PER_TASK * (n_narrow - n_dense) + TRIALS_PER_SCHEME_TASK * (n_known - n_narrow)
    return Replay(problem, n_known, n_known - n_dense, trials, truth)


def uniform_loss_model(recording: Recording) -> LossModel:
    """What a live run would show:

    the loss that a uniform plan has by the recording, evenly shared between the groups.

    Args:
        recording: its own losses may have been measured group by group.
    """
    half = np.full((1, len(recording.network.groups)), _HALF)
    return replace(
        LossModel.fit_uniform(half, recording.loss_model.group_losses(half).sum(axis=1)),
        layer_scale=recording.loss_model.layer_scale,
    )


@lru_cache(maxsize=32)
def _opened(name: str) -> tuple[Recording, LatencyInterpolator]:
    recording = read_recording(name)
    return recording, LatencyInterpolator(recording.costs)
