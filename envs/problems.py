"""Puts problems together: varied ones for training, and the live one.

Recorded ones are in `envs.recordings` and open from here as well. The live problem of
`cprune_rl/CPrune-v0` is put
together by `cprune_rl.job.assemble`, imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cprune_rl.contracts import LatencySource
from cprune_rl.cost_cache.interpolation import CostModel, ModelledCosts, NoisyCosts
from cprune_rl.descriptor import DeviceDescriptor
from cprune_rl.envs.cprune_env import CPruneEnv, ProblemSampler
from cprune_rl.envs.curves import CurveOracle
from cprune_rl.envs.menu import Menu
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.recordings import (
    describe_recorded,
    open_recorded,
    recorded_names,
    save_recorded,
)
from cprune_rl.envs.rehearsals import LossSpread
from cprune_rl.envs.scheme_menu import SchemeMenu
from cprune_rl.losses import LossCurves
from cprune_rl.network import Network

__all__ = [
    "CurveOracle",
    "TrainingProblems",
    "describe_recorded",
    "make_live_env",
    "make_live_mapping_env",
    "make_recorded_mapping_env",
    "open_recorded",
    "recorded_names",
    "save_recorded",
]


@dataclass(frozen=True)
class TrainingProblems:
    """Draws variations of one problem, so that a policy meets floors, losses and latencies it was
    not told of.

    Attributes:
        network: what is pruned.
        model: interpolated latencies.
        curves: fitted loss curves, around which those are drawn that the agent is shown.
        dense_accuracy: of the dense network.
        descriptor: of the device.
        floors: drops in accuracy to draw from.
        losses: how far true losses are from the curves shown.
        shown_sigma: log deviation of a group's loss shown from the fitted curve: what evaluations
            teach of it in a search.
        latency_sigma: log deviation of each task's true latency from the one predicted.
        imagined_share: of the episodes in which all is as it is shown, as in the model that the
            agent has a policy plan in.
        start_ratios: shares of all channels with which episodes begin, drawn from; whole networks
            where there are none.
    """

    network: Network
    model: CostModel
    curves: LossCurves
    dense_accuracy: float
    descriptor: DeviceDescriptor
    floors: Sequence[float] = (0.005, 0.01, 0.02, 0.03)
    losses: LossSpread = field(default_factory=LossSpread)
    shown_sigma: float = 0.4
    latency_sigma: float = 0.06
    imagined_share: float = 0.5
    start_ratios: Sequence[float] = ()

    def __call__(self, rng: np.random.Generator) -> Problem:
        """One variation."""
        shown = self.curves.scaled(np.exp(rng.normal(0.0, self.shown_sigma, self.curves.n_units)))
        latency: LatencySource = ModelledCosts(self.network, self.model)
        if rng.random() < self.imagined_share:
            oracle = CurveOracle(self.network, shown, self.dense_accuracy)
        else:
            latency = NoisyCosts(
                self.network, latency, int(rng.integers(2**31)), self.latency_sigma
            )
            oracle = self.losses.oracle(
                self.network, self.losses.draw(shown, rng), self.dense_accuracy, rng
            )
        floor = self.dense_accuracy - float(rng.choice(np.asarray(self.floors)))
        start = (
            self.network.uniform(float(rng.choice(np.asarray(self.start_ratios))))
            if self.start_ratios
            else None
        )
        if start is not None:  # what the channels that are gone have cost is behind it
            floor -= self.dense_accuracy - oracle.accuracy(start).value
        return Problem(
            f"{self.network.name} (varied)",
            self.network,
            latency,
            oracle,
            shown,
            self.dense_accuracy,
            max(floor, 0.0),
            self.descriptor,
            start,
        )


def make_live_env(
    max_rows: int = 32,
    max_steps: int = 200,
    max_rejections: int = 8,
    reward: str = "gated",
    render_mode: str | None = None,
    menu: Menu | None = None,
    **options: Any,
) -> CPruneEnv:
    """Entry point of `cprune_rl/CPrune-v0`.

    Args:
        max_rows: see `CPruneEnv`.
        max_steps: see `CPruneEnv`.
        max_rejections: see `CPruneEnv`.
        reward: see `CPruneEnv`.
        render_mode: see `CPruneEnv`.
        menu: see `CPruneEnv`.
        options: `problem=` a problem put together before, or the name of a live one; options of a
            run: `model=`, `data=`, `device=`, `floor=`, `storage=`...
    """
    problem = options.pop("problem", None)
    if isinstance(problem, str):
        from cprune_rl.job.live_problems import live_options

        options = {**live_options(problem), **options}
        problem = None
    if problem is None:
        from cprune_rl.job.assemble import open_live

        problem = open_live(**options)
    elif options:
        raise TypeError(f"problem= is put together already; it takes no {sorted(options)[0]}=")
    return CPruneEnv(problem, max_rows, max_steps, max_rejections, reward, render_mode, menu)


def make_live_mapping_env(**options: Any) -> CPruneEnv:
    """Entry point of `cprune_rl/SchemeMapping-v0`; arguments are those of `make_live_env`."""
    if "problem" not in options:
        options = {"schemes": "block", **options}
    return make_live_env(menu=SchemeMenu(), **options)


def make_recorded_mapping_env(
    problem: Problem | ProblemSampler | str | None = None, **options: Any
) -> CPruneEnv:
    """Entry point of `cprune_rl/SchemeMappingRecorded-v0`:

    a recording that has tasks of layers pruned by schemes.

    Args:
        problem: see `CPruneEnv`.
        options: see `CPruneEnv`.
    """
    return CPruneEnv(problem, menu=SchemeMenu(), **options)
