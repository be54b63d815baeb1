"""Puts problems together: recorded ones from a file, varied ones for training.

A recorded problem needs neither compiler nor device nor images: its file holds the network's groups and
subgraphs, the measured tasks, and the loss curves fitted to an oracle. The live problem of
`cprune_rl/CPrune-v0` is put together by `cprune_rl.job.assemble`, imported when it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from cprune_rl.contracts import Accuracy, LatencySource, LossCurves, Spending, TaskCost
from cprune_rl.cost_cache.predictor import CostModel, ModelledCosts, NoisyCosts
from cprune_rl.envs.cprune_env import CPruneEnv
from cprune_rl.envs.problem import Problem, resolve_floor
from cprune_rl.errors import DataError, UnknownNameError
from cprune_rl.plain import dump_json
from cprune_rl.table import Network, OperatorKind, Plan, Workload

__all__ = ["CurveOracle", "TrainingProblems", "make_live_env", "open_recorded", "recorded_names", "save_recorded"]

_FORMAT = 1
_PACKAGED = "cprune_rl.envs.recorded"


class CurveOracle:
    """An accuracy oracle that reads fitted loss curves (see `contracts.AccuracyOracle`).

    Args:
        network: whose plans are judged.
        curves: loss of each group.
        dense_accuracy: of the dense network.
        standard_error: to state with each answer.
    """

    def __init__(self, network: Network, curves: LossCurves, dense_accuracy: float, standard_error: float = 0.0) -> None:
        self._dense = np.array(network.dense.widths, float)
        self._curves, self._accuracy, self._standard_error = curves, dense_accuracy, standard_error
        self.spending = Spending()

    def accuracy(self, plan: Plan) -> Accuracy:
        """Dense accuracy less the loss of every group."""
        loss = float(self._curves.loss(np.array(plan.widths) / self._dense).sum())
        return Accuracy(max(0.0, self._accuracy - loss), self._standard_error)


@dataclass(frozen=True)
class TrainingProblems:
    """Draws variations of one problem, so that a policy meets floors, losses and latencies it was not told of.

    Attributes:
        network: what is pruned.
        model: interpolated latencies.
        curves: fitted loss curves: what the agent is shown.
        dense_accuracy: of the dense network.
        descriptor: of the device.
        floors: drops in accuracy to draw from.
        loss_sigma: log deviation of each group's true loss from the curve shown.
        latency_sigma: log deviation of each task's true latency from the one predicted.
    """

    network: Network
    model: CostModel
    curves: LossCurves
    dense_accuracy: float
    descriptor: tuple[float, ...]
    floors: Sequence[float] = (0.005, 0.01, 0.02, 0.03)
    loss_sigma: float = 0.5
    latency_sigma: float = 0.06

    def __call__(self, rng: np.random.Generator) -> Problem:
        """One variation."""
        n_groups = len(self.network.groups)
        level = np.exp(rng.normal(0, self.loss_sigma))  # the whole network may be easier or harder than the curves say
        scale = self.curves.scale * level * np.exp(rng.normal(0, self.loss_sigma, n_groups))
        power = np.clip(self.curves.power + rng.normal(0, 0.3, n_groups), 0.8, 4.0)
        base: LatencySource = ModelledCosts(self.network, self.model)
        latency = NoisyCosts(self.network, base, int(rng.integers(2**31)), self.latency_sigma)
        oracle = CurveOracle(self.network, LossCurves(scale, power), self.dense_accuracy)
        floor = self.dense_accuracy - float(rng.choice(np.asarray(self.floors)))
        return Problem(f"{self.network.name} (varied)", self.network, latency, oracle, self.curves, self.dense_accuracy, max(floor, 0.0), self.descriptor)


def save_recorded(path: Path, problem: Problem, costs: Sequence[tuple[Workload, TaskCost]], curves: LossCurves, provenance: dict[str, Any]) -> None:
    """Writes a recorded problem.

    Args:
        path: file to write.
        problem: the problem that was recorded.
        costs: measured tasks.
        curves: loss curves fitted to the oracle's answers.
        provenance: what was recorded where: machine, versions, command.
    """
    value = {
        "format": _FORMAT,
        "name": problem.name,
        "network": problem.network.to_json(),
        "tasks": [{"workload": _workload_to_json(w), "latency_s": c.latency_s, "tile_factors": list(c.tile_factors)} for w, c in costs],
        "curves": {"scale": curves.scale.tolist(), "power": curves.power.tolist()},
        "dense_accuracy": problem.dense_accuracy,
        "floor": problem.floor - problem.dense_accuracy,
        "descriptor": list(problem.descriptor),
        "provenance": provenance,
    }
    path.write_text(dump_json(value))


def open_recorded(name: str | None = None, floor: float | None = None) -> Problem:
    """Opens a recorded problem.

    Args:
        name: a packaged one, or the path of a file; None is the packaged `resnet8`.
        floor: replaces the recorded floor (see `resolve_floor`).

    Raises:
        UnknownNameError: no packaged recording of that name, and no such file.
        DataError: the file is no recorded problem, or of another format.
    """
    name = name or "resnet8"
    packaged = resources.files(_PACKAGED) / f"{name}.json"
    if Path(name).is_file():
        text = Path(name).read_text()
    elif packaged.is_file():
        text = packaged.read_text()
    else:
        raise UnknownNameError("recorded problem", name, recorded_names())
    try:
        value = json.loads(text)
        if value["format"] != _FORMAT:
            raise DataError(f"recorded problem {name!r} has format {value['format']}, this version reads {_FORMAT}")
        return _from_json(value, floor)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name!r} is no recorded problem: {type(error).__name__}: {error}") from error


def recorded_names() -> list[str]:
    """Names of the packaged recordings."""
    return sorted(f.name.removesuffix(".json") for f in resources.files(_PACKAGED).iterdir() if f.name.endswith(".json"))


def make_live_env(max_rows: int = 32, max_steps: int = 200, max_rejections: int = 8, reward: str = "gated", render_mode: str | None = None, **options: Any) -> CPruneEnv:
    """Entry point of `cprune_rl/CPrune-v0`.

    Args:
        max_rows: see `CPruneEnv`.
        max_steps: see `CPruneEnv`.
        max_rejections: see `CPruneEnv`.
        reward: see `CPruneEnv`.
        render_mode: see `CPruneEnv`.
        options: `problem=` a problem put together before, or options of a run: `model=`, `data=`, `device=`, `floor=`, `storage=`...
    """
    problem = options.pop("problem", None)
    if problem is None:
        from cprune_rl.job.assemble import open_live

        problem = open_live(**options)
    elif options:
        raise TypeError(f"problem= is put together already; it takes no {sorted(options)[0]}=")
    return CPruneEnv(problem, max_rows, max_steps, max_rejections, reward, render_mode)


def _workload_to_json(workload: Workload) -> dict[str, Any]:
    return {**vars(workload), "operator": vars(workload.operator)}


def _workload_from_json(value: dict[str, Any]) -> Workload:
    return Workload(**{**value, "operator": OperatorKind(**value["operator"])})


def _from_json(value: dict[str, Any], floor: float | None) -> Problem:
    network = Network.from_json(value["network"])
    model = CostModel((_workload_from_json(t["workload"]), TaskCost(float(t["latency_s"]), tuple(t["tile_factors"]))) for t in value["tasks"])
    curves = LossCurves(np.array(value["curves"]["scale"]), np.array(value["curves"]["power"]))
    accuracy = float(value["dense_accuracy"])
    return Problem(
        value["name"],
        network,
        ModelledCosts(network, model),
        CurveOracle(network, curves, accuracy),
        curves,
        accuracy,
        resolve_floor(value["floor"] if floor is None else floor, accuracy),
        tuple(value["descriptor"]),
    )
