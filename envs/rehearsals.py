"""Recorded problems as a search would meet them on a device: nothing is known that was not paid for.

A recording answers any look at once, and its loss curves are its oracle: opened as it is, a problem tells a search the
truth beforehand. In a rehearsal a task that was not looked at is interpolated from those that were, and the true losses
deviate from the curves shown, by a seed and by a spread that is assumed (`LossSpread`), not fitted to real networks. What a
live run spends before it searches is counted. Policies are judged on rehearsals.
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

__all__ = ["LossSpread", "Rehearsal", "rehearse"]

_SWEEP = (0.8, 0.6, 0.4)  # kept ratios of the uniform plans that a live run measures before it searches
_EVALUATIONS_A_GROUP = 2  # that a live run asks for to know each group's loss curve


@dataclass(frozen=True)
class LossSpread:
    """How far true losses are from the curves that are shown: an assumption, that of the simulator study behind the environment.

    Attributes:
        level: log deviation of a whole network's loss.
        group: log deviation of a group's loss from that.
        power: deviation of a curve's power.
    """

    level: float = 0.5
    group: float = 0.5
    power: float = 0.3

    def draw(self, shown: LossCurves, rng: np.random.Generator) -> LossCurves:
        """A truth for the curves shown."""
        n = len(shown.scale)
        scale = shown.scale * np.exp(rng.normal(0.0, self.level) + rng.normal(0.0, self.group, n))
        return LossCurves(scale, np.clip(shown.power + rng.normal(0.0, self.power, n), 0.8, 4.0))


@dataclass(frozen=True)
class Rehearsal:
    """A problem and what it cost to know what is known of it from the start.

    Attributes:
        problem: to be searched.
        tasks: looked at before: those of the dense network, and of the uniform plans.
        accuracy_evaluations: asked for before: none where no loss curve is shown.
    """

    problem: Problem
    tasks: int
    accuracy_evaluations: int


def rehearse(name: str, floor: float | None = None, seed: int = 0, is_prepared: bool = True, is_known: bool = False, is_device_hidden: bool = False) -> Rehearsal:
    """Opens a recorded problem as a search would meet it.

    Args:
        name: of the recording (see `recordings.open_recorded`).
        floor: replaces the recorded floor, and that of the name.
        seed: of the true losses.
        is_prepared: whether uniform plans were measured and groups evaluated before, as an agent needs it; a search that
            reads neither cheap looks nor loss curves is charged with neither.
        is_known: whether everything is known from the start: for a reference that no search can be expected to reach.
        is_device_hidden: whether nothing is said of the device.

    Raises:
        CPruneError: see `recordings.open_recorded`.
    """
    bare, asked = without_floor(name)
    recording, tasks = _opened(bare)
    network = recording.network
    absolute = resolve_floor(next(f for f in (floor, asked, recording.floor) if f is not None), recording.dense_accuracy)
    truth = LossSpread().draw(recording.curves, np.random.default_rng([seed, zlib.crc32(recording.name.encode())]))
    recorded = RecordedCosts(network, tasks)
    costs = recorded if is_known else EstimatedCosts(network, recorded, CostModel())
    for plan in (network.dense, *((network.uniform(r) for r in _SWEEP) if is_prepared else ())):
        costs.measure(plan)
    oracle = CurveOracle(network, truth, recording.dense_accuracy)
    device = UNKNOWN_DEVICE if is_device_hidden else recording.descriptor
    problem = Problem(recording.name, network, costs, oracle, truth if is_known else recording.curves, recording.dense_accuracy, absolute, device)
    evaluations = _EVALUATIONS_A_GROUP * len(network.groups) if is_prepared else 0
    return Rehearsal(problem, recorded.spending.cached_trials, evaluations)


@lru_cache(maxsize=32)
def _opened(name: str) -> tuple[Recording, RecordedTasks]:
    recording = read_recording(name)
    return recording, RecordedTasks(recording.costs)
