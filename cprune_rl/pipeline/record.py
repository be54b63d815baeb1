"""Recording a problem: the shapes that searches of a network can reach, measured on a device and
kept in one file.

The file is a problem for `cprune_rl/CPruneRecorded-v0` that needs neither compiler nor device nor
images. Plans are
visited as searches would: evenly narrowed ones, where asked for every kind of scheme at every
density, those of greedy CPrune at
several floors, and random walks of legal steps until the time is up. Every trial is in the cost
cache as well, so a recording that was stopped goes on.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from cprune_rl.agents.baselines.cprune import CPrune
from cprune_rl.agents.core.searcher import Budget
from cprune_rl.compiler.devices.spec import RecordedSpec, parse_device
from cprune_rl.core.network import Plan
from cprune_rl.envs.actions.base import ActionSet
from cprune_rl.envs.actions.channel_steps import ChannelActions
from cprune_rl.envs.actions.layer_schemes import DENSITIES, SchemeActions, scheme_plans
from cprune_rl.envs.cprune_env import CPruneEnv
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.loss_model_oracle import LossModelOracle
from cprune_rl.envs.problems.registry import open_recorded, save_recorded
from cprune_rl.errors import ConfigError
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.latency.sources import InterpolatedLatency
from cprune_rl.pipeline.backends.base import LatencyBackend
from cprune_rl.pipeline.config import RunConfig
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.setup import open_context, open_untrained_backend

__all__ = ["record"]

_EVEN = (0.75, 0.5, 0.3)
_FLOORS = (-0.005, -0.01, -0.02, -0.04)
_WALK_FLOOR = -0.06  # where random walks turn back


def record(
    config: RunConfig,
    minutes: float,
    path: Path,
    progress: ProgressLog,
    curves_of: str | None = None,
) -> int:
    """Measures what searches can reach and writes a recorded problem.

    Args:
        config: network, device, data, storage.
        minutes: for visiting plans, after the dense network is tuned and the oracle calibrated.
        path: file to write.
        progress: told what is going on.
        curves_of: a recording of the same network on another device: accuracy does not depend on
            the device, so
            its loss model is taken and nothing is trained.

    Returns:
        Tasks recorded.

    Raises:
        ConfigError: the device is a recording itself, `curves_of` is of another network, or `path`
            is in no folder.
        CPruneError: see `open_context`; what was measured stays in the cost cache.
    """
    if isinstance(parse_device(config.device), RecordedSpec):
        raise ConfigError(
            f"{config.device!r} is a recording already: give the device that is to be recorded, local or rpc://host:port/key"
        )
    if (
        path.is_dir() or not path.absolute().parent.is_dir()
    ):  # said now and not after hours of measuring
        raise ConfigError(
            f"{path} cannot be written: {'it is a folder' if path.is_dir() else f'there is no folder {path.parent}'}. Name a file in one that is there."
        )
    with _measurable(config, progress, curves_of) as (problem, backend, data):
        recorded = LatencyInterpolator(backend.interpolator.measured_tasks())
        problem = replace(
            problem, latency=InterpolatedLatency(backend.network, recorded, backend.source())
        )
        started, n_plans = time.monotonic(), 0
        with progress.track("Visiting plans, % of the time", 100) as advance:
            for _ in _plans(problem, started + 60 * minutes):
                n_plans += 1
                advance(min(100, round(100 * (time.monotonic() - started) / (60 * minutes))))
        provenance = {
            **backend.provenance,
            "data": data,
            "curves_of": curves_of,
            "n_plans": n_plans,
        }
        save_recorded(path, problem, recorded.measured_tasks(), provenance)
        progress.print(
            f"{path}: {len(recorded.measured_tasks())} tasks of {n_plans} plans; {problem.latency.spending.fresh_trials} fresh trials"
        )
        return len(recorded.measured_tasks())


@contextlib.contextmanager
def _measurable(
    config: RunConfig, progress: ProgressLog, curves_of: str | None
) -> Iterator[tuple[Problem, LatencyBackend, str]]:
    """A problem whose latencies are measured and whose accuracies are those of a loss model, its
    backend, and its data set.

    A recording is about latency: nothing is fine-tuned for a plan that is visited.
    """
    if curves_of is None:
        with open_context(config, progress, time.time()) as context:
            oracle = LossModelOracle(context.network, context.loss_model, context.dense_accuracy)
            yield replace(context.problem(), oracle=oracle), context.backend, context.data.name
        return
    known = open_recorded(curves_of)
    with open_untrained_backend(config, progress, time.time()) as backend:
        if backend.network.groups != known.network.groups:
            raise ConfigError(
                f"{curves_of!r} is a recording of {known.network.name}, whose groups are not those of {config.network_name}"
            )
        name = f"{backend.network.name}/{config.data}@{backend.device_name}"
        if config.has_schemes and not known.loss_model.has_layers:
            raise ConfigError(
                f"{curves_of!r} was recorded without schemes, so it does not know what layers lose: leave --curves-of out, or --schemes"
            )
        loss_model = (
            known.loss_model
            if config.has_schemes
            else replace(known.loss_model, layer_scale=np.empty(0))
        )
        oracle = LossModelOracle(backend.network, loss_model, known.dense_accuracy)
        yield (
            Problem(
                name=name,
                network=backend.network,
                latency=backend.source(),
                oracle=oracle,
                loss_model=loss_model,
                dense_accuracy=known.dense_accuracy,
                floor=known.floor,
                descriptor=backend.descriptor,
            ),
            backend,
            config.data,
        )


def _plans(whole: Problem, deadline: float) -> Iterator[Plan]:
    """Visits plans; the problem's latency source learns what is measured on the way, accepted or
    not.
    """
    network = whole.network

    def problem(drop: float) -> Problem:
        return replace(whole, floor=max(0.0, whole.dense_accuracy + drop))

    for plan in (network.dense, *(network.uniform(ratio) for ratio in _EVEN)):
        whole.latency.measure(plan)
        yield plan
    has_schemes = whole.loss_model.has_layers
    for plan in (p for density in DENSITIES if has_schemes for p in scheme_plans(network, density)):
        if time.monotonic() < deadline:
            whole.latency.measure(plan)
            yield plan
    for floor in _FLOORS:
        if time.monotonic() < deadline:
            yield from (step.plan for step in CPrune().search(problem(floor), Budget()).history)
    for seed in itertools.count():
        if time.monotonic() >= deadline:
            return
        if (
            has_schemes and seed % 2
        ):  # schemes of single layers, within channels of which some are gone
            start = network.uniform((1.0, *_EVEN)[seed // 2 % (1 + len(_EVEN))])
            yield from _walk(
                replace(problem(_WALK_FLOOR), start=start), seed, deadline, SchemeActions()
            )
        else:
            yield from _walk(problem(_WALK_FLOOR), seed, deadline, ChannelActions())


def _walk(problem: Problem, seed: int, deadline: float, action_set: ActionSet) -> Iterator[Plan]:
    env = CPruneEnv(problem, action_set=action_set)
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    ended = False
    while not ended and time.monotonic() < deadline:
        legal = np.flatnonzero(env.action_masks()[:-1])
        if not len(legal):
            return
        _, _, terminated, truncated, info = env.step(int(rng.choice(legal)))
        ended = terminated or truncated
        yield info["plan"]
