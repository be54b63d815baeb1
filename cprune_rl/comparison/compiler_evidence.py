"""Why the compiler has to be asked, in recorded figures:

latency over channels is a staircase, and fewer operations are not less time.

Called for the page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cprune_rl.agents.baselines.plan_sampling import random_direction, towards
from cprune_rl.agents.core.searcher import Budget
from cprune_rl.agents.core.session import Looks
from cprune_rl.core.intervals import Interval, rank_correlation
from cprune_rl.core.network import Network
from cprune_rl.core.protocols import TaskCost
from cprune_rl.envs.problems.registry import open_recorded, read_recording
from cprune_rl.envs.problems.replay import open_replay

__all__ = [
    "Inversion",
    "Proxies",
    "Staircase",
    "inversion",
    "one_per_network",
    "proxies",
    "staircase",
]

_N_PLANS = 300


@dataclass(frozen=True)
class Staircase:
    """Latency of one layer over the channels that it writes, the channels that it reads unchanged.

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
    """Plans that are predicted to lose as much, by their operations and by their latency once
    compiled.

    Attributes:
        problem: name of the recording.
        points: `(multiply-accumulates, seconds)`, each as a share of the dense network's.
        correlation: rank correlation of the two.
    """

    problem: str
    points: tuple[tuple[float, float], ...]
    correlation: Interval


def staircase(problem: str) -> Staircase | None:
    """The convolution with most channel counts timed; None where no recording has three.

    Args:
        problem: name of the recording.
    """
    recording = read_recording(problem)
    found: dict[tuple[object, ...], dict[int, float]] = {}
    for workload, cost in recording.costs:
        if (
            workload.operator.name == "conv2d"
            and cost.error is None
            and math.isfinite(cost.latency_s)
        ):
            found.setdefault((workload.family, workload.operator, workload.channels_in), {})[
                workload.channels_out
            ] = cost.latency_s
    layers = _layers(recording.network)
    known = {kind: points for kind, points in found.items() if len(points) >= 3 and kind in layers}
    if not known:
        return None
    kind = max(known, key=lambda k: (len(known[k]), sum(known[k].values())))
    return Staircase(problem, layers[kind], int(str(kind[2])), tuple(sorted(known[kind].items())))


def _layers(network: Network) -> dict[tuple[object, ...], str]:
    """A layer of each kind of task, at the channels that it reads in the dense network."""
    return {
        (w.family, w.operator, w.channels_in): s.name
        for s, w in reversed(
            list(zip(network.subgraphs, network.workloads(network.dense), strict=True))
        )
    }


def inversion(problem: str, loss: float = 0.01, seed: int = 0) -> Inversion:
    """Random plans that are predicted to lose the same.

    Args:
        problem: name of the recording.
        loss: predicted of each, in accuracy.
        seed: of the plans.
    """
    opened = open_recorded(problem)
    network, rng = opened.network, np.random.default_rng(seed)
    looks = Looks(opened, Budget())
    plans = {towards(looks, random_direction(looks, 0.6, rng), loss) for _ in range(_N_PLANS)}
    plans = {p for p in plans if 0.7 * loss <= looks.predicted_loss(p)}
    ordered = sorted(plans, key=lambda p: p.widths)
    macs = np.array([network.macs(p) for p in ordered]) / network.macs(network.dense)
    seconds = np.array([_sum(opened.latency.measure(p)) for p in ordered]) / looks.dense_s
    return Inversion(
        problem,
        tuple(zip(macs.tolist(), seconds.tolist(), strict=True)),
        rank_correlation(macs, seconds),
    )


@dataclass(frozen=True)
class Proxies:
    """How well what is free ranks random plans as the truth does: rank correlations.

    Attributes:
        problem: name of the recording.
        macs: multiply-accumulates with latency.
        latency: cheap looks, the dense network and a uniform plan known, with latency.
        loss: the curve shown with the true losses of seed 0.
    """

    problem: str
    macs: Interval
    latency: Interval
    loss: Interval


def proxies(problem: str, seed: int = 0) -> Proxies:
    """Random plans that are predicted to use a half to all of the slack.

    Args:
        problem: name of the recording.
        seed: of the plans.
    """
    replay, truth = open_replay(problem), open_recorded(problem)
    network, cheap, rng = truth.network, replay.problem.latency, np.random.default_rng(seed)
    looks = Looks(replay.problem, Budget())
    plans = list(
        {
            towards(
                looks, random_direction(looks, 0.6, rng), looks.slack * rng.uniform(0.5, 1.0)
            ): None
            for _ in range(_N_PLANS)
        }
    )
    macs, shown, lost = (
        np.array([look(p) for p in plans])
        for look in (network.macs, looks.predicted_loss, lambda p: -replay.accuracy(p))
    )
    predicted, latency = (
        np.array([_sum(look(p)) for p in plans])
        for look in (lambda p: cheap.predict(network.workloads(p)), truth.latency.measure)
    )
    return Proxies(
        problem,
        rank_correlation(macs, latency),
        rank_correlation(predicted, latency),
        rank_correlation(shown, lost),
    )


def _sum(costs: Sequence[TaskCost]) -> float:
    return math.fsum(c.latency_s for c in costs)


def one_per_network(problems: Sequence[str]) -> list[str]:
    """One recording of each network, the first named: a picture for each would be too many."""
    first: dict[str, str] = {}
    for name in problems:
        first.setdefault(name.partition("@")[0], name)
    return list(first.values())
