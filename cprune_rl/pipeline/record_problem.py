"""Records a problem: measures the shapes that searches of a network can reach, and keeps them.

The file is a problem for `cprune_rl/CPruneRecorded-v0`, which needs no compiler, device or images.
Plans are visited as searches would: uniform ones, every kind of scheme at every density where that
is asked for, those of CPrune at several floors, and random walks until the time is up. Every trial
is in the cost cache as well, so a recording that was stopped goes on.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cprune_rl.agents.baselines.cprune import CPrune
from cprune_rl.agents.core.searcher import Budget
from cprune_rl.compiler.devices.spec import RecordedSpec, parse_device
from cprune_rl.core.network import Plan
from cprune_rl.envs.actions.base import ActionSet
from cprune_rl.envs.actions.channel_actions import ChannelActions
from cprune_rl.envs.actions.scheme_actions import DENSITIES, SchemeActions, scheme_plans
from cprune_rl.envs.cprune_env import CPruneEnv
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.loss_model_oracle import LossModelOracle
from cprune_rl.envs.problems.registry import open_recorded, read_recording, save_recorded
from cprune_rl.errors import ConfigError
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.latency.sources import InterpolatedLatency
from cprune_rl.pipeline.backends.base import LatencyBackend
from cprune_rl.pipeline.config import RunConfig
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.setup import open_context, open_untrained_backend

__all__ = ["record"]

_UNIFORM_RATIOS = (0.75, 0.5, 0.3)
_FLOORS = (-0.005, -0.01, -0.02, -0.04)
_WALK_FLOOR = -0.06  # where random walks turn back


def record(
    config: RunConfig, minutes: float, path: Path, progress: ProgressLog, losses_of: str | None
) -> int:
    """Measure what searches can reach, and write a recorded problem.

    Args:
        config: network, device, data and storage.
        minutes: for visiting plans, after tuning and calibration.
        losses_of: a recording of the same network on another device, whose loss model is taken, so
            that nothing is trained. Accuracy does not depend on the device.

    Returns:
        Tasks recorded.

    Raises:
        ConfigError: the device is a recording itself, `losses_of` is of another network, or `path`
            is in no folder.
        CPruneError: see `open_context`. What was measured stays in the cost cache.
    """
    if isinstance(parse_device(config.device), RecordedSpec):
        raise ConfigError(
            f"{config.device!r} is a recording already: give the device that is to be recorded, "
            "local or rpc://host:port/key"
        )
    _check_writable(path)
    with _open_live(config, progress, losses_of) as live:
        known = LatencyInterpolator(live.backend.interpolator.measured_tasks())
        latency = InterpolatedLatency(live.backend.network, known, live.backend.source())
        problem = replace(live.problem, latency=latency)
        n_plans = _visit_plans(problem, 60 * minutes, progress)
        tasks = known.measured_tasks()
        provenance = {
            **live.backend.provenance,
            "data": live.data,
            "dense": live.dense,
            "curves_of": losses_of,
            "n_plans": n_plans,
        }
        save_recorded(path, problem, tasks, provenance)
    n_trials = latency.spending.fresh_trials
    progress.print(f"{path}: {len(tasks)} tasks of {n_plans} plans; {n_trials} fresh trials")
    return len(tasks)


def _check_writable(path: Path) -> None:
    """Refuse a path now, and not after hours of measuring."""
    problem = None
    if path.is_dir():
        problem = "it is a folder"
    elif not path.absolute().parent.is_dir():
        problem = f"there is no folder {path.parent}"
    if problem is not None:
        raise ConfigError(f"{path} cannot be written: {problem}. Name a file in one that is there.")


@dataclass(frozen=True, kw_only=True)
class _LiveProblem:
    """A problem with measured latencies and a loss model's accuracies.

    A recording is about latency: no plan that is visited is fine-tuned.

    Attributes:
        data: name of the images.
        dense: whose accuracy is stated, of the network as given or after the full fine-tune.
    """

    problem: Problem
    backend: LatencyBackend
    data: str
    dense: str


@contextlib.contextmanager
def _open_live(
    config: RunConfig, progress: ProgressLog, losses_of: str | None
) -> Iterator[_LiveProblem]:
    if losses_of is None:
        with open_context(config, progress, time.time()) as context:
            problem = context.problem(config.floor[0], config.margin or 0.0)
            problem = replace(problem, oracle=_oracle(problem))
            yield _LiveProblem(
                problem=problem,
                backend=context.backend,
                data=context.trained_model.trainer.name,
                dense=context.dense.better,
            )
        return
    known = open_recorded(losses_of)
    with open_untrained_backend(config, progress, time.time()) as backend:
        if backend.network.groups != known.network.groups:
            raise ConfigError(
                f"{losses_of!r} is a recording of {known.network.name}, whose groups are not "
                f"those of {config.network_name}"
            )
        if config.has_schemes and not known.loss_model.has_layers:
            raise ConfigError(
                f"{losses_of!r} was recorded without schemes, so it does not know what layers "
                "lose: leave --losses-of out, or schemes"
            )
        loss_model = known.loss_model
        if not config.has_schemes:
            loss_model = replace(loss_model, layer_scale=np.empty(0))
        problem = replace(
            known,
            name=f"{backend.network.name}/{config.data}@{backend.device_name}",
            network=backend.network,
            latency=backend.source(),
            loss_model=loss_model,
            descriptor=backend.descriptor,
        )
        problem = replace(problem, oracle=_oracle(problem))
        of_losses = read_recording(losses_of).provenance
        yield _LiveProblem(
            problem=problem,
            backend=backend,
            data=config.data,
            dense=str(of_losses.get("dense", "given")),
        )


def _oracle(problem: Problem) -> LossModelOracle:
    return LossModelOracle(problem.network, problem.loss_model, problem.dense_accuracy)


def _visit_plans(problem: Problem, seconds: float, progress: ProgressLog) -> int:
    """Measure plans until the time is up, and count them."""
    started = time.monotonic()
    n_plans = 0
    with progress.track("Visiting plans, % of the time", 100) as advance:
        for _ in _plans(problem, started + seconds):
            n_plans += 1
            advance(min(100, round(100 * (time.monotonic() - started) / seconds)))
    return n_plans


def _plans(problem: Problem, deadline: float) -> Iterator[Plan]:
    """Visit plans; the problem's latency source learns what is measured on the way."""
    has_schemes = problem.loss_model.has_layers
    yield from _fixed_plans(problem, deadline)
    for floor in _FLOORS:
        if time.monotonic() < deadline:
            search = CPrune().search(_at_floor(problem, floor), Budget())
            yield from (step.plan for step in search.history)
    for seed in itertools.count():
        if time.monotonic() >= deadline:
            return
        walked = _at_floor(problem, _WALK_FLOOR)
        actions: ActionSet = ChannelActions()
        if has_schemes and seed % 2:
            # Schemes of single layers, in networks that have lost some of their channels.
            ratios = (1.0, *_UNIFORM_RATIOS)
            ratio = ratios[seed // 2 % len(ratios)]
            walked = replace(walked, start=problem.network.uniform(ratio))
            actions = SchemeActions()
        yield from _random_walk(walked, actions, seed, deadline)


def _fixed_plans(problem: Problem, deadline: float) -> Iterator[Plan]:
    """Measure uniform plans, and every kind of scheme where the problem has schemes."""
    network = problem.network
    for plan in (network.dense, *map(network.uniform, _UNIFORM_RATIOS)):
        problem.latency.measure(plan)
        yield plan
    densities = DENSITIES if problem.loss_model.has_layers else ()
    for density in densities:
        for plan in scheme_plans(network, density):
            if time.monotonic() < deadline:
                problem.latency.measure(plan)
                yield plan


def _at_floor(problem: Problem, drop: float) -> Problem:
    return replace(problem, floor=max(0.0, problem.dense_accuracy + drop))


def _random_walk(
    problem: Problem, action_set: ActionSet, seed: int, deadline: float
) -> Iterator[Plan]:
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
