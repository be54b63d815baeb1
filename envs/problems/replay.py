"""Replays: recorded problems as a search meets them on a device, with nothing known for free.

A recording has the latency of every task, and its loss model is its oracle: opened as it is, it
tells a search the truth at once. In a replay a task is interpolated until it is measured. The true
losses deviate from the predicted ones, and the oracle's answers from the true ones (`LossNoise`).
Where a number of gate images is given, a final gate decides by them as in a run, a search may ask
it, and a calibration on a few full fine-tunes comes before the search; else the truth decides.

What a live run measures before it searches is charged to the search. The calibration is not: every
search uses it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.device_descriptor import UNKNOWN_DEVICE
from cprune_rl.core.diverse_plans import diverse_plans
from cprune_rl.core.gate_model import GateModel
from cprune_rl.core.loss_model import KnownLoss, LossModel, kept_ratios
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import LatencySource
from cprune_rl.envs.actions.scheme_actions import scheme_plans
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.loss_model_oracle import LossModelOracle
from cprune_rl.envs.problems.registry import Recording, read_recording, split_floor
from cprune_rl.envs.problems.replay_gate import DrawnFinetunes, DrawnGate
from cprune_rl.errors import DataError
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.latency.recorded import RecordedLatency
from cprune_rl.latency.sources import InterpolatedLatency

__all__ = [
    "EVALUATION_S",
    "FINETUNE_S",
    "TRIALS_PER_SCHEME_TASK",
    "TRIALS_PER_TASK",
    "TRIAL_S",
    "LossNoise",
    "Losses",
    "Replay",
    "ReplaySettings",
    "open_replay",
    "uniform_loss_model",
]

# Fresh trials that one task took in live runs with full effort: 16 by greedy CPrune, 20 by the
# agent (docs/results/resnet8-v0.2.json).
TRIALS_PER_TASK = 16
# The same of a task of the table of schemes, in a live run with light effort: it is tuned hard
# where it promises anything (docs/results/schemes/resnet8-1t.json).
TRIALS_PER_SCHEME_TASK = 25
# Seconds that live runs took on the recordings' device class (docs/results/resnet8-v0.2.json).
TRIAL_S = 0.32
EVALUATION_S = 2.4
FINETUNE_S = 48.0
# Kept ratio of the uniform plan that a live run measures before it searches. Its loss sets the
# level of the predicted losses.
_WARM_START_RATIO = 0.5
# Densities at which a live run measures every kind of scheme before it prunes layers by them.
_WARM_START_DENSITIES = (0.25, 0.0625)
# Kept ratios of the plans that are fine-tuned in full before a search with a gate, and the images
# that their losses are found on, as runs on drawn images have them (`pipeline.efforts`).
_CALIBRATION_RATIOS = (0.8, 0.65, 0.5, 0.35)
_N_SEARCH_IMAGES = 10_000
_N_LOOKS = 3  # that the margin of the floor is for: those of a search that backs off

Losses = Literal["drawn", "recorded"]


@dataclass(frozen=True, kw_only=True)
class LossNoise:
    """How far true losses deviate from predicted ones, and an oracle's answers from true ones.

    Fitted to plans of three networks that were fine-tuned (`benchmarks/loss_model.py`); the
    oracle's values are of 50-step fine-tunes, calibrated on plans of half the latency. Three values
    are assumed. `level`: two trainings of one network differed by less. `power`: it keeps the truth
    out of the family of models that a search believes in. `standard_error`: live runs had 0.003 to
    0.009.

    Attributes:
        level: log deviation of a network's total loss.
        group: log deviation of a group's loss, beside that of the level.
        power: log deviation of a group's curvature.
        oracle_level: log deviation of the oracle's answers, one factor for all plans.
        oracle_group: log deviation of a group's part in the answers: the oracle misjudges plans
            alike that are much alike.
        noise: standard deviation of the rest of the oracle's error, in accuracy.
        standard_error: stated by the oracle, in accuracy.
    """

    level: float = 0.2
    group: float = 0.4
    power: float = 0.2
    oracle_level: float = 0.2
    oracle_group: float = 0.4
    noise: float = 0.0013
    standard_error: float = 0.0025

    def draw(self, predicted: LossModel, rng: np.random.Generator) -> LossModel:
        """Draw true losses around predicted ones."""
        n_groups = len(predicted.scale)
        level = _log_normal(self.level, 1, rng)
        factors = level * _log_normal(self.group, n_groups, rng)
        powers = _log_normal(self.power, n_groups, rng)
        of_layers = _layer_factors(predicted, (self.level, self.group), rng)
        drawn = predicted.scaled(np.concatenate([factors, of_layers]))
        return replace(drawn, power=predicted.power * powers)

    def oracle(
        self,
        network: Network,
        true_losses: LossModel,
        dense_accuracy: float,
        rng: np.random.Generator,
    ) -> LossModelOracle:
        """Draw an oracle that errs as a real one does."""
        level = _log_normal(self.oracle_level, 1, rng)
        factors = level * _log_normal(self.oracle_group, len(true_losses.scale), rng)
        of_layers = _layer_factors(true_losses, (self.oracle_level, self.oracle_group), rng)
        return LossModelOracle(
            network,
            true_losses.scaled(np.concatenate([factors, of_layers])),
            dense_accuracy,
            noise=self.noise,
            seed=int(rng.integers(2**31)),
            standard_error=self.standard_error,
        )


def _log_normal(sigma: float, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw `n` factors of mean 1."""
    return np.exp(rng.normal(0.0, sigma, n) - sigma**2 / 2)


def _layer_factors(
    losses: LossModel, sigmas: tuple[float, float], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw the factors of layers that a scheme may prune.

    A generator of their own draws them: those of groups are the same with layers and without.

    Args:
        losses: whose layers.
        sigmas: log deviations of all layers together, and of each.
        rng: spawns the generator.
    """
    own = rng.spawn(1)[0]
    level = _log_normal(sigmas[0], 1, own)
    return level * _log_normal(sigmas[1], len(losses.layer_scale), own)


@dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """What is known and what is true in a replay.

    Attributes:
        seed: of the true losses.
        losses: where the true losses come from. "drawn": around the predicted ones. "recorded": the
            recording's own, which an oracle gave for each group alone; only their level is drawn.
            They are far from the predicted ones.
        warm_start: measure one uniform plan first and charge it to the search. Methods that use
            latency predictions need it.
        with_schemes: measure every kind of scheme first and charge it to the search. Methods that
            prune layers by schemes need it.
        perfect_information: tell the search all latencies and the true losses: for a reference that
            no method can be expected to reach.
        is_device_hidden: say nothing of the device.
        gate_images: that the final gate judges on; None where the truth decides.
    """

    seed: int = 0
    losses: Losses = "drawn"
    warm_start: bool = True
    with_schemes: bool = False
    perfect_information: bool = False
    is_device_hidden: bool = False
    gate_images: int | None = None


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A problem, the truth behind it, and what was measured before the search.

    Attributes:
        problem: to be searched.
        true_losses: what plans lose; the oracle's answers are biased and noisy.
        n_tasks: tasks measured before: those of the dense network, of the uniform plan and of the
            table of schemes.
        n_charged_tasks: those without the dense network's: only some methods need them.
        charged_trials: fresh trials of the charged tasks.
        floor: accuracy that a network must truly have. Where there is a gate, the problem's own
            floor is above it by the margin that the gate will ask for.
        gate: decides about plans; None where the truth does.
    """

    problem: Problem
    true_losses: LossModel
    n_tasks: int
    n_charged_tasks: int
    charged_trials: int
    floor: float
    gate: DrawnGate | None = None

    def accuracy(self, plan: Plan) -> float:
        """Give the true accuracy of a plan."""
        problem = self.problem
        accuracy = problem.dense_accuracy - self.true_losses.plan_loss(problem.network, plan)
        return min(max(accuracy, 0.0), 1.0)

    def holds(self, plan: Plan) -> bool:
        """Say whether a plan truly holds the floor; the dense one does."""
        return self.accuracy(plan) >= self.floor

    def passes(self, plan: Plan, n_looks: int) -> bool:
        """Say whether a plan's network passes the final gate; without a gate the truth decides.

        Args:
            plan: not the dense one.
            n_looks: how often at most the search asks.
        """
        if self.gate is None:
            return self.holds(plan)
        loss = self.true_losses.plan_loss(self.problem.network, plan)
        return self.gate.passes(plan, loss, n_looks)


def open_replay(
    name: str, floor: float | None = None, settings: ReplaySettings | None = None
) -> Replay:
    """Open a recorded problem as a search meets it on a device.

    Args:
        name: of the recording (see `registry.open_recorded`).
        floor: replaces the recorded floor, and that of the name.
        settings: what is known and what is true.

    Raises:
        DataError: schemes are asked for, and the recording has none.
        CPruneError: the name opens no recording, or nothing can hold the floor.
    """
    settings = settings or ReplaySettings()
    bare_name, named_floor = split_floor(name)
    recording, recorded_tasks = _open(bare_name)
    if settings.with_schemes and not recording.has_schemes:
        raise DataError(
            f"{bare_name} was recorded without schemes: record it with --change channels,schemes, "
            "or take another (`cprune-rl problems list` says which have them)"
        )
    network = recording.network
    noise = LossNoise()
    rng = np.random.default_rng([settings.seed, zlib.crc32(recording.name.encode())])
    predicted_losses = uniform_loss_model(recording)
    if settings.losses == "drawn":
        true_losses = noise.draw(predicted_losses, rng)
    else:
        true_losses = replace(noise, group=0.0, power=0.0).draw(recording.loss_model, rng)
    latency: LatencySource = RecordedLatency(network, recorded_tasks, trials_each=TRIALS_PER_TASK)
    if settings.perfect_information:
        predicted_losses = true_losses
        oracle = LossModelOracle(network, true_losses, recording.dense_accuracy)
    else:
        latency = InterpolatedLatency(network, LatencyInterpolator(), latency)
        oracle = noise.oracle(network, true_losses, recording.dense_accuracy, rng)
    true_floor = recording.floor_or(floor, named_floor)
    problem = Problem(
        name=recording.name,
        network=network,
        latency=latency,
        oracle=oracle,
        loss_model=predicted_losses,
        dense_accuracy=recording.dense_accuracy,
        floor=true_floor,
        descriptor=UNKNOWN_DEVICE if settings.is_device_hidden else recording.descriptor,
    )
    gate = None
    if settings.gate_images is not None:
        problem, gate = _with_gate(problem, settings, true_losses, rng)
    n_dense, n_narrow, n_tasks = _measure_before(problem, settings)
    return Replay(
        problem=problem,
        true_losses=true_losses,
        n_tasks=n_tasks,
        n_charged_tasks=n_tasks - n_dense,
        charged_trials=TRIALS_PER_TASK * (n_narrow - n_dense)
        + TRIALS_PER_SCHEME_TASK * (n_tasks - n_narrow),
        floor=true_floor,
        gate=gate,
    )


def _with_gate(
    problem: Problem, settings: ReplaySettings, true_losses: LossModel, rng: np.random.Generator
) -> tuple[Problem, DrawnGate]:
    """Let a final gate decide, after a calibration; the search is for a floor above its margin."""
    assert settings.gate_images is not None
    model = GateModel(
        n_images=settings.gate_images,
        dense_accuracy=problem.dense_accuracy,
        floor=problem.floor,
    )
    gate = DrawnGate(model, int(rng.integers(2**31)))
    finetunes = DrawnFinetunes(
        problem.network, true_losses, gate, _N_SEARCH_IMAGES, int(rng.integers(2**31))
    )
    known = _calibrate(problem.network, finetunes, settings.seed)
    gated = replace(problem, full_finetunes=finetunes, known_losses=known)
    if settings.perfect_information:
        return gated, gate
    margin = min(model.margin(model.slack, _N_LOOKS), model.slack)
    fitted = _fitted(problem.network, known, problem.loss_model)
    return replace(gated, floor=problem.floor + margin, loss_model=fitted), gate


def _measure_before(problem: Problem, settings: ReplaySettings) -> tuple[int, int, int]:
    """Measure what a live run measures before it searches.

    Returns:
        Tasks measured after the dense network, after the uniform plan, and after the schemes.
    """
    network, latency = problem.network, problem.latency
    latency.measure(network.dense)
    n_dense = latency.spending.cached_trials
    if settings.warm_start:
        latency.measure(network.uniform(_WARM_START_RATIO))
    n_narrow = latency.spending.cached_trials
    for density in _WARM_START_DENSITIES if settings.with_schemes else ():
        for plan in scheme_plans(network, density):
            latency.measure(plan)
    return n_dense, n_narrow, latency.spending.cached_trials


def _calibrate(network: Network, finetunes: DrawnFinetunes, seed: int) -> tuple[KnownLoss, ...]:
    """Fine-tune a few plans in full, as a run does before it searches; these are no looks."""
    plans = diverse_plans(network, _CALIBRATION_RATIOS, seed)
    dense_accuracy = finetunes.gate.dense_accuracy
    answers = [finetunes.accuracy(plan) for plan in plans]
    return tuple(
        KnownLoss(plan, dense_accuracy - answer.value, answer.standard_error)
        for plan, answer in zip(plans, answers, strict=True)
    )


def _fitted(network: Network, known: Sequence[KnownLoss], predicted: LossModel) -> LossModel:
    """Fit the level of the groups' losses to what is known; that of layers stays."""
    kept = np.array([kept_ratios(network, plan) for plan, *_ in known])
    uniform = LossModel.fit_uniform(kept, np.array([loss for _, loss, _ in known]))
    return replace(uniform, layer_scale=predicted.layer_scale)


def uniform_loss_model(recording: Recording) -> LossModel:
    """Predict losses as a live run does: one plan's loss, shared evenly between the groups.

    The recording's own losses may have been measured group by group.
    """
    kept = np.full((1, len(recording.network.groups)), _WARM_START_RATIO)
    losses = recording.loss_model.group_losses(kept).sum(axis=1)
    uniform = LossModel.fit_uniform(kept, losses)
    return replace(uniform, layer_scale=recording.loss_model.layer_scale)


@lru_cache(maxsize=32)
def _open(name: str) -> tuple[Recording, LatencyInterpolator]:
    recording = read_recording(name)
    return recording, LatencyInterpolator(recording.costs)
