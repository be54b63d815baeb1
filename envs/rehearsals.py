"""Recorded problems as a search would meet them on a device: nothing is known that was not paid for.

A recording answers any look at once, and its loss curves are its oracle: opened as it is, a problem tells a search the
truth beforehand. In a rehearsal a task that was not looked at is interpolated from those that were, and the true losses
deviate from the curves shown, by a seed and by a spread (`LossSpread`), and the oracle's answers are noisy. What a live run
measures before it searches is counted; the calibration, which every search uses, is not. Policies are judged on rehearsals.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cprune_rl.contracts import LossCurves
from cprune_rl.cost_cache.interpolation import CostModel, EstimatedCosts
from cprune_rl.cost_cache.recorded import RecordedCosts, RecordedTasks
from cprune_rl.descriptor import UNKNOWN_DEVICE
from cprune_rl.envs.curves import CurveOracle
from cprune_rl.envs.problem import Problem, resolve_floor
from cprune_rl.envs.recordings import Recording, read_recording, without_floor
from cprune_rl.table import Plan

__all__ = ["LossSpread", "Rehearsal", "even_curves", "rehearse"]

_HALF = 0.5  # kept ratio of the uniform plan whose loss is taken
_SWEEP = (0.5,)  # kept ratios of the uniform plans that a live run measures before it searches


@dataclass(frozen=True)
class LossSpread:
    """How far true losses are from the curves that are shown.

    The deviation of groups and the noise are as fitted to plans of three networks that were fine-tuned (`benchmarks/loss_model.py`);
    the level's is assumed: a run fits it to plans of the very network. The noise is that of full fine-tunes; a short one's
    calibrated answer was off by 0.3 points there.

    Attributes:
        level: log deviation of a whole network's loss.
        group: log deviation of a group's loss from that.
        noise: standard deviation of an oracle's answers, in accuracy.
    """

    level: float = 0.2
    group: float = 0.4
    noise: float = 0.0017

    def draw(self, shown: LossCurves, rng: np.random.Generator) -> LossCurves:
        """A truth for the curves shown."""
        factors = np.exp(rng.normal(0.0, self.level) + rng.normal(0.0, self.group, len(shown.scale)))
        return LossCurves(shown.scale * factors, shown.power)


@dataclass(frozen=True)
class Rehearsal:
    """A problem and what it cost to know what is known of it from the start.

    Attributes:
        problem: to be searched.
        tasks: looked at before: those of the dense network, and of the uniform plan.
        truth: of the losses; what the oracle says of them is noisy.
    """

    problem: Problem
    tasks: int
    truth: LossCurves

    def holds(self, plan: Plan) -> bool:
        """Whether a plan truly holds the floor; a final gate would also ask for a margin, for it has so many images only."""
        problem = self.problem
        return CurveOracle(problem.network, self.truth, problem.dense_accuracy).accuracy(plan).value >= problem.floor


def rehearse(name: str, floor: float | None = None, seed: int = 0, is_prepared: bool = True, is_known: bool = False, is_device_hidden: bool = False) -> Rehearsal:
    """Opens a recorded problem as a search would meet it.

    Args:
        name: of the recording (see `recordings.open_recorded`).
        floor: replaces the recorded floor, and that of the name.
        seed: of the true losses.
        is_prepared: whether a uniform plan was measured before, as a search needs it that reads cheap looks; the others are
            not charged with them.
        is_known: whether everything is known from the start: for a reference that no search can be expected to reach.
        is_device_hidden: whether nothing is said of the device.

    Raises:
        CPruneError: see `recordings.open_recorded`.
    """
    bare, asked = without_floor(name)
    recording, tasks = _opened(bare)
    network = recording.network
    absolute = resolve_floor(next(f for f in (floor, asked, recording.floor) if f is not None), recording.dense_accuracy)
    shown, spread, own_seed = even_curves(recording), LossSpread(), [seed, zlib.crc32(recording.name.encode())]
    truth = spread.draw(shown, np.random.default_rng(own_seed))
    recorded = RecordedCosts(network, tasks)
    costs = recorded if is_known else EstimatedCosts(network, recorded, CostModel())
    for plan in (network.dense, *((network.uniform(r) for r in _SWEEP) if is_prepared else ())):
        costs.measure(plan)
    oracle = CurveOracle(network, truth, recording.dense_accuracy, 0.0 if is_known else spread.noise, own_seed[1] + seed)
    device = UNKNOWN_DEVICE if is_device_hidden else recording.descriptor
    problem = Problem(recording.name, network, costs, oracle, truth if is_known else shown, recording.dense_accuracy, absolute, device)
    return Rehearsal(problem, recorded.spending.cached_trials, truth)


def even_curves(recording: Recording) -> LossCurves:
    """What a live run would show: the loss that a uniform plan has by the recording, evenly shared between the groups.

    Args:
        recording: its own curves may have been measured group by group.
    """
    half = np.full((1, len(recording.network.groups)), _HALF)
    return LossCurves.even(half, recording.curves.loss(half).sum(axis=1))


@lru_cache(maxsize=32)
def _opened(name: str) -> tuple[Recording, RecordedTasks]:
    recording = read_recording(name)
    return recording, RecordedTasks(recording.costs)
