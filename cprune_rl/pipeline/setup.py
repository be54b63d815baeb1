"""Puts the parts of a run together: the one file in which they meet.

The compiler is loaded only where latencies come from a device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from torch import nn

from cprune_rl.accuracy.data import ImageData, loop_name, parse_data
from cprune_rl.accuracy.pixel_scale import describe_scale
from cprune_rl.accuracy.task import load_task
from cprune_rl.accuracy.trainer import ImageTrainer
from cprune_rl.accuracy.training import train_device
from cprune_rl.agents.policies import find_policy
from cprune_rl.agents.registry import METHODS, check_run_methods
from cprune_rl.compiler.devices.open import open_device
from cprune_rl.compiler.devices.spec import RecordedSpec, parse_device
from cprune_rl.core.floor import resolve_floor
from cprune_rl.core.folders import cache_folder, use_cache_folder
from cprune_rl.cost_cache import CostStore, default_url, open_store
from cprune_rl.envs.problem import Problem
from cprune_rl.errors import ConfigError, DataError, UnknownNameError
from cprune_rl.models.export_formats import check_formats
from cprune_rl.models.registry import check_model_name, has_own_weights, is_object
from cprune_rl.pipeline.backends.base import LatencyBackend
from cprune_rl.pipeline.backends.recorded import RecordedBackend, check_recorded_model
from cprune_rl.pipeline.calibration_stage import calibrate
from cprune_rl.pipeline.config import RunConfig, load_config
from cprune_rl.pipeline.context import RunContext
from cprune_rl.pipeline.dense_networks import finetune_dense
from cprune_rl.pipeline.efforts import EFFORTS
from cprune_rl.pipeline.full_finetune import full_finetune
from cprune_rl.pipeline.given import Given
from cprune_rl.pipeline.oracle_setup import open_oracle
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.run_settings import (
    calibration_settings,
    load_settings,
    oracle_settings,
)
from cprune_rl.pipeline.trained_model import (
    TrainedModel,
    load_trained_model,
    load_untrained_model,
)
from cprune_rl.pipeline.whole_paths import DATA_FROM_PATHS
from cprune_rl.pruning.importance import IMPORTANCES

__all__ = ["check_names", "open_context", "open_live", "open_untrained_backend"]

_NEAR_CHANCE = 2.0  # times the accuracy of guessing
OpenBackend = Callable[[TrainedModel], LatencyBackend]


def check_names(config: RunConfig, given: Given | None = None) -> None:
    """Refuse options that fit nothing: names, files that are not there, and contradictions.

    Args:
        config: the options.
        given: objects beside them.

    Raises:
        UnknownNameError: of a model, a data set, a device, a policy or a method.
        ConfigError: an option of the device or of the data set is wrong, options contradict each
            other, torch does not see the device to train on, or a recording is of another network.
        DataError: a recording is damaged, or weights or images are not there.
    """
    _check_registered(config)
    _check_policies(config)
    train_device(config.train_device)
    check_model_name(config.model)
    check_formats(config.export)
    _check_given(config, given or Given())
    _check_files(config)
    _check_labels(config)
    spec = parse_device(config.device)
    _check_schemes(config, isinstance(spec, RecordedSpec))
    if isinstance(spec, RecordedSpec):
        if not config.measures_tasks:
            raise ConfigError(
                "--predict always reads the cost cache of a device; "
                "a recording measures nothing anyway: leave it out"
            )
        check_recorded_model(spec, config.network_name)


def _check_given(config: RunConfig, given: Given) -> None:
    """Refuse names of objects that are not there."""
    loop = loop_name(config.data)
    if loop and (given.model is None or given.loop is None):
        raise ConfigError(
            f"functions that were given in Python train and judge here (the loop {loop!r}): give "
            "them and the module by cprune_rl.Pruner(model, ...).prune(...)"
        )
    if given.loop is not None and not loop:
        raise ConfigError("this run trains on labelled images: go on with it by cprune_rl.prune")
    if is_object(config.model) and given.model is None:
        raise ConfigError(
            f"{config.model} stands for a module that was given in Python: give it by "
            "cprune_rl.prune(model, ...), or name a network"
        )


def _check_registered(config: RunConfig) -> None:
    registered: dict[str, tuple[str, Collection[str]]] = {
        "effort": (config.effort, EFFORTS),
        "importance": (config.importance, IMPORTANCES),
    }
    for kind, (name, names) in registered.items():
        if name not in names:
            raise UnknownNameError(kind, name, names)
    check_run_methods([config.own_method, *config.rivals], config.has_schemes)


def _check_policies(config: RunConfig) -> None:
    if config.policy is not None and config.init is not None:
        raise ConfigError(
            "--policy takes a policy as it is, --init trains one further: give one of them"
        )
    if not config.measures_tasks and config.policy is None:
        raise ConfigError(
            "--predict always is for a policy that was trained before: give --policy, or "
            "`cprune-rl prune`; what was never measured cannot be trained on"
        )
    for policy in (config.policy, config.init, config.scheme_policy):
        if policy is not None:
            find_policy(policy)


def _check_files(config: RunConfig) -> None:
    if config.weights is not None and has_own_weights(config.model):
        raise ConfigError(f"{config.model} has its weights in it: leave --weights out")
    data = parse_data(config.data)
    paths = [config.weights]
    if has_own_weights(config.model):
        paths.append(Path(config.model))
    if data.kind in DATA_FROM_PATHS:
        paths.append(data.path("file or folder"))
    for path in paths:
        if path is not None and not path.exists():
            raise DataError(f"{path} is not there{_how_to_get(data.kind)}")


def _how_to_get(kind: str) -> str:
    if kind != "fashion-mnist":
        return ""
    return (
        ". Install Debian's package (apt-get install dataset-fashion-mnist), or name the folder "
        "with the published files: fashion-mnist:DIR"
    )


def _check_schemes(config: RunConfig, is_recorded: bool) -> None:
    if not config.has_schemes:
        return
    if not METHODS[config.own_method].has_schemes:
        raise ConfigError(
            f"--methods {config.own_method} prunes channels alone, and --change asks for schemes: "
            f"begin with {config.method_of_change}"
        )
    if config.predict or is_recorded:
        raise ConfigError(
            "--change schemes measures blocks of every size on a device: give one, and leave "
            "--predict out"
        )


def _check_labels(config: RunConfig) -> None:
    has_weights = config.weights is not None or has_own_weights(config.model)
    if config.labels == "teacher" and not has_weights:
        raise ConfigError(
            "--labels teacher takes the dense network's answers for labels: give its trained "
            "weights, --weights FILE"
        )
    if config.task is None:
        return
    if config.top > 1:
        raise ConfigError(
            "--top is of classes, and --task says by itself what is right: leave one of them out"
        )
    task = load_task(config.task)
    if config.labels == "teacher":
        task.check_teaches()


@contextlib.contextmanager
def open_context(
    config: RunConfig, progress: ProgressLog, since: float, given: Given | None = None
) -> Iterator[RunContext]:
    """Load the network, fine-tune it, tune its tasks, and calibrate the oracle of its accuracy.

    Args:
        config: as `check_names` has passed it.
        progress: told what is going on.
        since: when the run began, in seconds since the epoch. What the caches got later counts as
            fresh.
        given: objects in the place of names.

    Raises:
        CPruneError: the network, the machine's tools, the device, the recording or the cost cache
            is at fault.
    """
    with _open_resources(config, progress, since) as (store, open_backend):
        trained_model = load_trained_model(load_settings(config), progress, given)
        _say_what_to_expect(config, trained_model, progress)
        is_from_given = config.floor_from == "given"
        dense = finetune_dense(trained_model, full_finetune(config), is_from_given, since, progress)
        for floor in config.floor:
            resolve_floor(floor, dense.reference_accuracy)
        backend = open_backend(trained_model)
        oracle = open_oracle(
            oracle_settings(config),
            trained_model,
            backend,
            store=store,
            since=since,
            progress=progress,
        ).counted_from(dense.accuracy)
        calibration = calibrate(
            calibration_settings(config), trained_model, dense, oracle, backend.network, progress
        )
        yield RunContext(
            trained_model=trained_model,
            dense=dense,
            backend=backend,
            oracle=oracle,
            calibration=calibration,
        )


@contextlib.contextmanager
def open_untrained_backend(
    config: RunConfig, progress: ProgressLog, since: float
) -> Iterator[LatencyBackend]:
    """Tune the tasks of a network with random weights: latencies do not depend on them.

    Args:
        config: see `open_context`.
        since: see `open_context`.

    Raises:
        CPruneError: see `open_context`.
    """
    with _open_resources(config, progress, since) as (_, open_backend):
        yield open_backend(load_untrained_model(load_settings(config), progress))


@contextlib.contextmanager
def open_live(progress: ProgressLog | None = None, **options: object) -> Iterator[Problem]:
    """Prepare a live problem for an environment; its device is open until the context ends.

    Args:
        progress: told what is going on.
        options: of `RunConfig`: `model=`, `data=`, `device=`, `floor=`, `storage=`...

    Raises:
        CPruneError: an option is wrong, or see `open_context`.
    """
    config = load_config(None, options)
    check_names(config)
    with open_context(config, progress or ProgressLog(), time.time()) as context:
        yield context.problem(config.floor[0], config.margin or 0.0)


@contextlib.contextmanager
def _open_resources(
    config: RunConfig, progress: ProgressLog, since: float
) -> Iterator[tuple[CostStore, OpenBackend]]:
    """Open the cost cache and the device, and close them in the end.

    The device is opened before the network is trained, so that one at fault is told at once.
    """
    if config.cache is not None:
        use_cache_folder(config.cache)
    cache_folder()  # one that cannot be written is told at once
    with contextlib.ExitStack() as stack:
        store = open_store(config.storage or default_url())
        stack.callback(store.close)
        spec = parse_device(config.device)
        if isinstance(spec, RecordedSpec):

            def open_recorded(trained_model: TrainedModel) -> LatencyBackend:
                return RecordedBackend.open(config.device, spec, trained_model, progress)

            yield store, open_recorded
            return
        from cprune_rl.pipeline.backends.tvm import TvmBackend, TvmSettings

        device = stack.enter_context(open_device(config.device))
        effort = config.work
        settings = TvmSettings(
            tuning=dataclasses.replace(effort.tuning, seed=config.seed),
            sweep=effort.sweep if config.measures_tasks else (),
            scheme_sweep=effort.scheme_sweep if config.has_schemes else (),
            widest_interval=config.widest_interval,
            timing_rounds=effort.timing_rounds,
            seed=config.seed,
            is_plain=config.layouts == "plain",
        )

        def open_tvm(trained_model: TrainedModel) -> LatencyBackend:
            return TvmBackend.open(
                settings, trained_model, device, store=store, since=since, progress=progress
            )

        yield store, open_tvm


def _is_trained(model: str) -> bool:
    """Whether a network comes with its weights."""
    return has_own_weights(model) or is_object(model)


def _say_what_to_expect(
    config: RunConfig, trained_model: TrainedModel, progress: ProgressLog
) -> None:
    """Print the dense accuracy, and warn where the weights or the floors do not fit the data."""
    trainer = trained_model.trainer
    accuracy = trained_model.dense_accuracy
    if trainer.is_agreement:
        progress.print(
            "    The labels are the dense network's own answers (--labels teacher): every accuracy "
            "of this run is agreement with it, and its own is 100 %"
        )
    else:
        n_images = trainer.n_images["search"]
        progress.print(f"    The dense network's accuracy is {accuracy:.2%} on {n_images:,} images")
    if isinstance(trainer, ImageTrainer):
        _warn_of_chance(config, trained_model.model, trainer.data, accuracy, progress)
    for warning in trainer.warnings(config.floor, 1 - config.confidence):
        progress.print(f"    {warning}")


def _warn_of_chance(
    config: RunConfig, model: nn.Module, data: ImageData, accuracy: float, progress: ProgressLog
) -> None:
    """Say where trained weights guess, and what may be the reason."""
    is_class = config.task is None and not data.is_agreement
    is_near_chance = is_class and accuracy < _NEAR_CHANCE * config.top / data.n_classes
    source = Path(config.model) if _is_trained(config.model) else config.weights
    if source is None or not is_near_chance:
        return
    pixels = data.train.normalisation
    scale = describe_scale(model, data).message or (
        f"{source.name} may have been trained "
        f"on pixels of another scale (here mean {pixels.mean}, std {pixels.std}): "
        "--data '...?normalise=NAME' or '...?mean=...&std=...' says which; or on other labels"
    )
    progress.print(f"    That is hardly better than chance. {scale}.")
