"""Puts a live problem together: base network, groups, latencies, oracle, loss model.

The one place where the worlds of pruning, accuracy and, behind a backend, the compiler meet. Used by
the run and, for
`gymnasium.make("cprune_rl/CPrune-v0")`, by `envs.problems`. The compiler is loaded where the device
is one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import torch
from torch import nn

from cprune_rl.accuracy.data import ImageData, load_data, parse_data
from cprune_rl.accuracy.final_gate import undetectable_loss
from cprune_rl.accuracy.training import TrainSettings, accumulate_gradients, evaluate, train_device
from cprune_rl.agents.policies import find_policy
from cprune_rl.agents.registry import check_rivals, main_methods
from cprune_rl.compiler.devices.open import open_device
from cprune_rl.compiler.devices.spec import RecordedSpec, parse_device
from cprune_rl.cost_cache import CostStore, default_url, open_store
from cprune_rl.envs.problem import Problem, resolve_floor
from cprune_rl.errors import ConfigError, DataError, UnknownNameError
from cprune_rl.models.registry import build_model, check_model_name, check_output
from cprune_rl.models.weights import load_weights, network_hash
from cprune_rl.pipeline.backends.base import LatencyBackend
from cprune_rl.pipeline.config import (
    DATA_FROM_PATHS,
    EFFORTS,
    SCHEMES,
    RunConfig,
    load_config,
)
from cprune_rl.pipeline.context import RunContext
from cprune_rl.pipeline.oracle_setup import calibrate, open_oracle
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.trained_cache import is_cached, train_or_load
from cprune_rl.pipeline.trained_model import TrainedModel
from cprune_rl.pruning.groups import CoupledGroups, GroupSettings, find_groups
from cprune_rl.pruning.importance import IMPORTANCES

__all__ = [
    "check_names",
    "load_trained_model",
    "open_context",
    "open_live",
    "open_untrained_backend",
]

_NEAR_CHANCE = 2.0  # times the accuracy of guessing
_OpenBackend = Callable[[nn.Module, torch.Tensor, CoupledGroups], LatencyBackend]


def check_names(config: RunConfig) -> None:
    """Fails early on a name that nothing is registered under, and on a file that is not there.

    Raises:
        UnknownNameError: of a model, a data set, a device or a method.
        ConfigError: an option of the device or of the data set is wrong, torch does not see the
            device to train on, or a recording is of another network.
        DataError: a recording is damaged, or weights or images are not there.
    """

    known: dict[str, tuple[str, Collection[str]]] = {
        "method": (config.method, main_methods()),
        "effort": (config.effort, EFFORTS),
        "choice of schemes": (config.schemes, SCHEMES),
        "mapping": (config.mapping, SCHEMES["block"]),
        "importance": (config.importance, IMPORTANCES),
    }
    for kind, (name, names) in known.items():
        if name not in names:
            raise UnknownNameError(kind, name, names)
    check_rivals(config.rivals, config.has_schemes)
    if config.policy is not None and config.init is not None:
        raise ConfigError(
            "--policy takes a policy as it is, --init trains one further: give one of them"
        )
    if config.no_measure and config.policy is None:
        raise ConfigError(
            "--no-measure is for a policy that was trained before: give --policy, or `cprune-rl prune`; what was never measured cannot be trained on"
        )
    for policy in (config.policy, config.init, config.mapping_policy):
        if policy is not None:
            find_policy(policy)
    train_device(config.train_device)
    check_model_name(config.model)
    data = parse_data(config.data)
    for path in (
        config.weights,
        Path(data.argument).expanduser() if data.kind in DATA_FROM_PATHS else None,
    ):
        if path is not None and not path.exists():
            raise DataError(f"{path} is not there")
    spec = parse_device(config.device)
    if config.has_schemes and config.method != "agent":
        raise ConfigError(
            f"--schemes {config.schemes} is not for --method {config.method}: its channels are the agent's; --rival runs CPrune beside it"
        )
    if config.has_schemes and (
        config.no_measure or config.predict or isinstance(spec, RecordedSpec)
    ):
        raise ConfigError(
            f"--schemes {config.schemes} measures blocks of every size on a device: give one, and leave --predict and --no-measure out"
        )
    if isinstance(spec, RecordedSpec):
        if config.no_measure:
            raise ConfigError(
                "--no-measure predicts from the cost cache of a device; a recording measures nothing anyway: leave it out"
            )
        from cprune_rl.pipeline.backends.recorded import check_recorded_model

        check_recorded_model(spec, config.network_name)


@contextlib.contextmanager
def open_context(config: RunConfig, progress: ProgressLog, since: float) -> Iterator[RunContext]:
    """Trains the base network, finds its groups, opens the backend and calibrates the oracle.

    Args:
        config: options of the run.
        progress: told what is going on.
        since: when the run began, in seconds since the epoch.

    Raises:
        CPruneError: an option, the network, the machine's tools, the device, the recording or the
            cost cache is at fault.
    """
    with _store_and_backend(config, progress, since) as (store, open_backend):
        trained_model = load_trained_model(config, progress)
        dense_accuracy = evaluate(trained_model.model, trained_model.data.search)
        resolve_floor(config.floor, dense_accuracy)
        _say_what_to_expect(config, trained_model.data, dense_accuracy, progress)
        backend = open_backend(trained_model.model, trained_model.example, trained_model.coupled)
        oracle = open_oracle(
            config,
            trained_model,
            backend.network,
            backend.interpolator,
            store,
            dense_accuracy,
            since,
            progress,
        )
        context = RunContext(
            config,
            trained_model,
            backend,
            oracle,
            dense_accuracy,
            model_cost=dict(backend.spent),
            scheme_cost=dict(backend.spent_on_schemes),
        )
        calibrate(context, progress)
        yield context


def load_trained_model(config: RunConfig, progress: ProgressLog) -> TrainedModel:
    """Reads the images, trains the network or reads its weights, and finds its groups.

    Args:
        config: options of the run.
        progress: told what is going on.

    Raises:
        CPruneError: an option, the images, the network or its weights are at fault.
    """
    data, model = _base_network(config, progress)
    example = torch.zeros(data.input_shape)
    with progress.track("Finding groups", None):
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stub lacks this form
        coupled = find_groups(
            model,
            example,
            group_settings(config),
            functools.partial(accumulate_gradients, data=data),
        )
    return TrainedModel(data, model, example, coupled)


@contextlib.contextmanager
def open_untrained_backend(
    config: RunConfig, progress: ProgressLog, since: float
) -> Iterator[LatencyBackend]:
    """The backend of a network with random weights: latencies do not depend on them.

    Args:
        config: options of the run.
        progress: told what is going on.
        since: when the run began, in seconds since the epoch.

    Raises:
        CPruneError: see `open_context`.
    """
    with _store_and_backend(config, progress, since) as (_, open_backend):
        data, model, example = _fresh_network(config, progress)
        yield open_backend(
            model,
            example,
            find_groups(
                model,
                example,
                group_settings(config),
                functools.partial(accumulate_gradients, data=data),
            ),
        )


def open_live(progress: ProgressLog | None = None, **options: object) -> Problem:
    """A live problem for `cprune_rl/CPrune-v0`; its device closes with the process.

    Args:
        progress: told what is going on.
        options: of `RunConfig`: `model=`, `data=`, `device=`, `floor=`, `storage=`, `fast=`...
    """
    import atexit

    context = open_context(load_config(None, options), progress or ProgressLog(), time.time())
    problem = context.__enter__().problem()
    atexit.register(context.__exit__, None, None, None)
    return problem


def _say_what_to_expect(
    config: RunConfig, data: ImageData, dense_accuracy: float, progress: ProgressLog
) -> None:
    """The dense network's accuracy, and what is wrong where weights or the floor do not fit the
    data.
    """
    progress.print(
        f"    The dense network's accuracy is {dense_accuracy:.2%} on {len(data.search):,} images"
    )
    if config.weights is not None and dense_accuracy < _NEAR_CHANCE * config.top / data.n_classes:
        seen = data.train.normalisation
        progress.print(
            f"    That is hardly better than chance. {config.weights.name} may have been trained on pixels of another scale (here mean {seen.mean}, std {seen.std}): "
            "--data '...?normalise=NAME' or '...?mean=...&std=...' says which; or on other labels."
        )
    least = undetectable_loss(len(data.gate), 1 - config.confidence)
    if -least < config.floor <= 0:
        progress.print(
            f"    The gate has {len(data.gate):,} images: on so few, even a network that answers as the dense one does may lose {least:.2%}, "
            f"so none can be shown to hold the floor {config.floor:+.2%}. Give more images, a lower --floor or less --confidence."
        )


def group_settings(config: RunConfig) -> GroupSettings:
    """What may be pruned, and in which order."""
    return GroupSettings(
        importance=config.importance,
        freeze=config.freeze,
        keep=config.kept_shares,
        seed=config.seed,
    )


def base_settings(config: RunConfig) -> TrainSettings:
    """Training of the base network."""
    return TrainSettings(n_steps=config.budgets.base_steps, seed=config.seed)


@contextlib.contextmanager
def _store_and_backend(
    config: RunConfig, progress: ProgressLog, since: float
) -> Iterator[tuple[CostStore, _OpenBackend]]:
    """The cost cache, and what opens the backend once the network is there;

    both are closed in the end.
    """
    check_names(config)
    with contextlib.ExitStack() as stack:
        store = open_store(config.storage or default_url())
        stack.callback(store.close)
        yield store, _backend_opener(config, progress, store, since, stack)


def _backend_opener(
    config: RunConfig,
    progress: ProgressLog,
    store: CostStore,
    since: float,
    stack: contextlib.ExitStack,
) -> _OpenBackend:
    """What opens the backend once the network is there;

    a device is opened now, so that one at fault is told at once.
    """
    spec = parse_device(config.device)
    if isinstance(spec, RecordedSpec):
        from cprune_rl.pipeline.backends.recorded import RecordedBackend

        return lambda model, _, coupled: RecordedBackend.open(
            config.device, spec, progress, model, coupled
        )
    from cprune_rl.pipeline.backends.tvm import TvmBackend

    device = stack.enter_context(open_device(config.device))
    return functools.partial(TvmBackend.open, config, progress, device, store, since)


def _fresh_network(
    config: RunConfig, progress: ProgressLog
) -> tuple[ImageData, nn.Module, torch.Tensor]:
    """The images, the network with its starting weights, and one blank image."""
    with progress.track(f"Reading the images of {config.data}", None):
        data = load_data(config.data, config.fast).to(train_device(config.train_device))
    if config.top > 1:
        data = data.with_top(config.top)
    model, example = (
        build_model(config.network_name, data.n_classes, config.seed),
        torch.zeros(data.input_shape),
    )
    check_output(model, example, data.n_classes, config.network_name)
    return data, model, example


def _base_network(config: RunConfig, progress: ProgressLog) -> tuple[ImageData, nn.Module]:
    """The network to prune, trained: with the user's weights, or by ourselves."""
    data, model, example = _fresh_network(config, progress)
    if config.weights is not None:
        load_weights(model, config.weights)
        return data, model.eval()
    settings, identity = (
        base_settings(config),
        f"base:{config.network_name}:{config.seed}:{network_hash(model)}",
    )
    is_known = is_cached(identity, data, settings)
    # an option that fits no layer, or a network that cannot be pruned, is told before it is trained
    if not is_known:
        find_groups(model, example, dataclasses.replace(group_settings(config), importance="l2"))
    verb = "Reading" if is_known else "Training"
    with progress.track(f"{verb} the base network", settings.n_steps) as advance:
        train_or_load(model, identity, data, settings, lambda step, _: advance(step))
    return data, model
