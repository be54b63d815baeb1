"""Recorded figures that show why a search has to ask the compiler.

Latency over channels is a staircase, and fewer operations are not less time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cprune_rl.agents.baselines.plan_sampling import plan_towards, random_direction
from cprune_rl.agents.core.searcher import Budget
from cprune_rl.agents.core.session import SearchSession
from cprune_rl.core.intervals import Interval, rank_correlation
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.workload import OperatorKind
from cprune_rl.envs.problems.registry import open_recorded, read_recording
from cprune_rl.envs.problems.replay import open_replay

__all__ = [
    "Inversion",
    "Proxies",
    "Staircase",
    "find_inversion",
    "find_staircase",
    "measure_proxies",
    "one_per_network",
]

_N_PLANS = 300
_SPREAD = 0.6  # log deviation of how strongly random plans narrow each group
_FEWEST_WIDTHS = 3  # of a staircase

# A task's family, its operator, and the channels that it reads.
_Kind = tuple[str, OperatorKind, int]


@dataclass(frozen=True, kw_only=True)
class Staircase:
    """Latency of one layer over the channels that it writes; the channels that it reads stay.

    Attributes:
        problem: name of the recording.
        layer: its name.
        channels_in: that it reads.
        points: `(channels written, seconds)`, all timed, ascending.
    """

    problem: str
    layer: str
    channels_in: int
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Inversion:
    """Plans of equal predicted loss, by their operations and by their latency once compiled.

    Attributes:
        problem: name of the recording.
        points: `(multiply-accumulates, seconds)`, each as a share of the dense network's.
        correlation: rank correlation of the two.
    """

    problem: str
    points: tuple[tuple[float, float], ...]
    correlation: Interval


@dataclass(frozen=True, kw_only=True)
class Proxies:
    """How well what is free ranks random plans as the truth does: rank correlations.

    Attributes:
        problem: name of the recording.
        macs: multiply-accumulates with latency.
        latency: predicted latency with latency, the dense network and a uniform plan measured.
        loss: predicted losses with the true losses of seed 0.
    """

    problem: str
    macs: Interval
    latency: Interval
    loss: Interval


def find_staircase(problem: str) -> Staircase | None:
    """Find the convolution with most channel counts timed; None where none has three.

    Args:
        problem: name of the recording.
    """
    recording = read_recording(problem)
    layers = _layers(recording.network)
    timed: dict[_Kind, dict[int, float]] = {}
    for workload, cost in recording.costs:
        kind = (workload.family, workload.operator, workload.channels_in)
        is_timed = cost.error is None and math.isfinite(cost.latency_s)
        if kind in layers and workload.operator.name == "conv2d" and is_timed:
            timed.setdefault(kind, {})[workload.channels_out] = cost.latency_s
    if not timed:
        return None
    kind, points = max(timed.items(), key=lambda item: (len(item[1]), sum(item[1].values())))
    if len(points) < _FEWEST_WIDTHS:
        return None
    return Staircase(
        problem=problem,
        layer=layers[kind],
        channels_in=kind[2],
        points=tuple(sorted(points.items())),
    )


def _layers(network: Network) -> dict[_Kind, str]:
    """Name the first layer of each kind, at the channels that it reads in the dense network."""
    layers: dict[_Kind, str] = {}
    workloads = network.workloads(network.dense)
    for subgraph, workload in zip(network.subgraphs, workloads, strict=True):
        kind = (workload.family, workload.operator, workload.channels_in)
        layers.setdefault(kind, subgraph.name)
    return layers


def find_inversion(problem: str, loss: float = 0.01, seed: int = 0) -> Inversion:
    """Draw random plans of the same predicted loss, and rank them by operations and by latency.

    Args:
        problem: name of the recording.
        loss: predicted of each, in accuracy.
        seed: of the plans.
    """
    opened = open_recorded(problem)
    network = opened.network
    session = SearchSession(opened, Budget())
    session.start()
    rng = np.random.default_rng(seed)
    drawn = {
        plan_towards(session, random_direction(session, _SPREAD, rng), loss)
        for _ in range(_N_PLANS)
    }
    plans = [plan for plan in drawn if opened.predicted_loss(plan) >= 0.7 * loss]
    plans.sort(key=lambda plan: plan.widths)
    macs = _values(network.macs, plans) / network.macs(network.dense)
    latency = _values(opened.measured_s, plans) / session.dense_s
    points = tuple(zip(macs.tolist(), latency.tolist(), strict=True))
    return Inversion(problem, points, rank_correlation(macs, latency))


def measure_proxies(problem: str, seed: int = 0) -> Proxies:
    """Draw random plans that are predicted to use a half to all of the slack, and rank them.

    Args:
        problem: name of the recording.
        seed: of the plans.
    """
    replay = open_replay(problem)
    truth = open_recorded(problem)
    network = truth.network
    session = SearchSession(replay.problem, Budget())
    session.start()
    rng = np.random.default_rng(seed)
    drawn: dict[Plan, None] = {}
    for _ in range(_N_PLANS):
        direction = random_direction(session, _SPREAD, rng)
        loss = replay.problem.slack * rng.uniform(0.5, 1.0)
        drawn[plan_towards(session, direction, loss)] = None
    plans = list(drawn)
    latency = _values(truth.measured_s, plans)
    predicted = _values(replay.problem.predicted_s, plans)
    lost = _values(lambda plan: -replay.accuracy(plan), plans)
    return Proxies(
        problem=problem,
        macs=rank_correlation(_values(network.macs, plans), latency),
        latency=rank_correlation(predicted, latency),
        loss=rank_correlation(_values(replay.problem.predicted_loss, plans), lost),
    )


def _values(value: Callable[[Plan], float], plans: Iterable[Plan]) -> NDArray[np.float64]:
    return np.array([value(plan) for plan in plans])


def one_per_network(problems: Sequence[str]) -> list[str]:
    """Choose one recording of each network, the first named."""
    first: dict[str, str] = {}
    for name in problems:
        first.setdefault(name.partition("@")[0], name)
    return list(first.values())
