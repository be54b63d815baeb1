"""Why the compiler has to be asked, in recorded figures: latency over channels is a staircase, and fewer operations are not less time.

Called for the page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cprune_rl.agents.looks import Looks
from cprune_rl.agents.sampling import random_direction, towards
from cprune_rl.agents.searcher import Budget
from cprune_rl.envs.recordings import open_recorded, read_recording
from cprune_rl.intervals import Interval, rank_correlation
from cprune_rl.table import Network

__all__ = ["Inversion", "Staircase", "inversion", "one_each", "staircase"]

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
    """Plans that are predicted to lose as much, by their operations and by their latency once compiled.

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
        if workload.operator.name == "conv2d" and cost.error is None and math.isfinite(cost.latency_s):
            found.setdefault((workload.family, workload.operator, workload.channels_in), {})[workload.channels_out] = cost.latency_s
    layers = _layers(recording.network)
    known = {kind: points for kind, points in found.items() if len(points) >= 3 and kind in layers}
    if not known:
        return None
    kind = max(known, key=lambda k: (len(known[k]), sum(known[k].values())))
    return Staircase(problem, layers[kind], int(str(kind[2])), tuple(sorted(known[kind].items())))


def _layers(network: Network) -> dict[tuple[object, ...], str]:
    """A layer of each kind of task, at the channels that it reads in the dense network."""
    return {(w.family, w.operator, w.channels_in): s.name for s, w in reversed(list(zip(network.subgraphs, network.workloads(network.dense), strict=True)))}


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
    seconds = np.array([math.fsum(c.latency_s for c in opened.latency.measure(p)) for p in ordered]) / looks.dense_s
    return Inversion(problem, tuple(zip(macs.tolist(), seconds.tolist(), strict=True)), rank_correlation(macs, seconds))


def one_each(problems: Sequence[str]) -> list[str]:
    """One recording of each network, the first named: a picture for each would be too many."""
    first: dict[str, str] = {}
    for name in problems:
        first.setdefault(name.partition("@")[0], name)
    return list(first.values())
