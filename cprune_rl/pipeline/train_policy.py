"""Trains one policy for many problems of a device class.

Nothing is compiled or timed for it, and no network is trained: problems are recordings and variants
of their networks.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cprune_rl.agents.policies import find_policy
from cprune_rl.agents.rl.learners import find_learner
from cprune_rl.agents.rl.policy import load_policy, save_policy
from cprune_rl.agents.rl.training import Trained, TrainingMonitor, TrainingSettings, train_policy
from cprune_rl.core.atomic_files import write_text
from cprune_rl.core.json_text import dump_json
from cprune_rl.core.system_info import command_line, describe_system, now_utc
from cprune_rl.core.untrusted import DAMAGED, damage, read_json
from cprune_rl.envs.actions.base import ActionSet
from cprune_rl.envs.actions.channel_actions import ChannelActions
from cprune_rl.envs.actions.scheme_actions import START_RATIOS, SchemeActions
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.generated import GeneratedProblems, GeneratorSettings
from cprune_rl.envs.problems.registry import (
    full_name,
    has_schemes,
    open_recorded,
    read_recording,
    recorded_names,
    split_floor,
)
from cprune_rl.envs.problems.replay import open_replay
from cprune_rl.errors import ConfigError
from cprune_rl.pipeline.live_problems import is_live
from cprune_rl.pipeline.old_options import translate
from cprune_rl.pipeline.policy_config import PolicyConfig
from cprune_rl.pipeline.policy_evaluation import (
    ReplayResult,
    evaluate_searchers,
    means_by_method,
    means_table,
    n_evaluations,
    searchers_for,
)
from cprune_rl.pipeline.progress import ProgressLog

__all__ = ["train_on_problems"]

_N_CASES = 24  # problems and draws of their losses that a policy is tried on: a minute or two
_MOST_SEEDS = 3


def train_on_problems(config: PolicyConfig, progress: ProgressLog) -> Path:
    """Train a policy, try it on what it was not trained on, and write it down.

    A training that was stopped goes on from its folder. A long training steps its problems in other
    processes, so a program that calls this guards its `__main__`, or sets `workers` to 0.

    Returns:
        The policy's folder.

    Raises:
        ConfigError: no problem is left to train on, or the folder holds another training.
        CPruneError: a problem or a policy is not there, or damaged.
    """
    held_out, apart = _held_out(config)
    names = _sources(config, apart)
    find_learner(config.learner)
    if config.init is not None:
        find_policy(config.init)
    folder = _open_folder(config)
    tried = f"; tried on {', '.join(held_out)}" if held_out else ""
    progress.print(f"Training on {', '.join(names)}{tried}")
    trained = _train(config, names, held_out, folder, progress)
    results = _evaluate(config, trained, held_out or names, progress)
    progress.console.print(
        means_table(results, is_held_out=bool(held_out)).for_terminal(
            note="Replays: latencies recorded, losses drawn. "
            "The geometric mean is over problems, floors and draws."
        )
    )
    card = _card(config, trained, results)
    card |= {"trained_on": list(names), "held_out": list(held_out)}
    save_policy(trained.policy, folder, card, _action_set(config))
    evaluations = [vars(evaluation) for evaluation in trained.held_out]
    write_text(folder / "evaluations.json", dump_json(evaluations))
    rows = [asdict(result) for result in results]
    write_text(folder / "results.json", dump_json(rows))
    use = f"--policy {folder}"
    if config.has_schemes:
        use = f"--change schemes --scheme-policy {folder}"
    progress.print(
        f"Policy: {folder}. Prune with it: cprune-rl prune {use} --model ... --device ..."
    )
    return folder


def _action_set(config: PolicyConfig) -> ActionSet:
    return SchemeActions() if config.has_schemes else ChannelActions()


def _train(
    config: PolicyConfig,
    names: Sequence[str],
    held_out: Sequence[str],
    folder: Path,
    progress: ProgressLog,
) -> Trained:
    subgraphs = [len(read_recording(name).network.subgraphs) for name in (*names, *held_out)]
    settings = TrainingSettings(
        total_timesteps=config.timesteps,
        learner=config.learner,
        n_workers=config.workers,
        seed=config.seed,
        max_rows=max(TrainingSettings.max_rows, *subgraphs),
    )
    action_set = _action_set(config)
    start = None
    if config.init is not None:
        start = load_policy(find_policy(config.init), settings.max_rows, action_set)
    with progress.track("Reading the problems", None):
        problems = _problems(config, names)
    with progress.track(f"Training the policy by {config.learner}", config.timesteps) as advance:
        monitor = TrainingMonitor(
            log_folder=folder / "tensorboard",
            on_steps=advance,
            held_out=[_opener(name) for name in held_out],
            checkpoint=folder / "checkpoint.pt",
        )
        return train_policy(problems, settings, monitor=monitor, start=start, action_set=action_set)


def _opener(name: str) -> Callable[[], Problem]:
    return lambda: open_replay(name).problem


def _problems(config: PolicyConfig, names: Sequence[str]) -> GeneratedProblems:
    """Give the recordings, and variants of their networks."""
    settings = GeneratorSettings(
        n_variants=config.variants,
        recorded_share=0.25 if config.variants else 1.0,
        floors=_floors(names),
        start_ratios=START_RATIOS if config.has_schemes else (),
        seed=config.seed,
    )
    return GeneratedProblems.from_recordings(names, settings)


def _floors(names: Sequence[str]) -> tuple[float, ...]:
    """Give the floors that the names end in, or the usual ones where a name has none.

    With floors of every problem one policy serves all.
    """
    with_floor = [open_recorded(name) for name in names if split_floor(name)[1] is not None]
    if len(with_floor) < len(names):
        return GeneratorSettings.floors
    drops = {round(problem.dense_accuracy - problem.floor, 6) for problem in with_floor}
    return tuple(sorted(drops))


def _evaluate(
    config: PolicyConfig, trained: Trained, names: Sequence[str], progress: ProgressLog
) -> list[ReplayResult]:
    with_schemes = config.has_schemes
    searchers = searchers_for(trained.policy, with_schemes)
    seeds = range(max(1, min(_MOST_SEEDS, _N_CASES // len(names))))
    total = n_evaluations(names, len(seeds), len(searchers))
    with progress.track("Trying it beside greedy searches", total) as advance:
        return evaluate_searchers(
            searchers, names, seeds, with_schemes=with_schemes, on_search=advance
        )


def _card(
    config: PolicyConfig, trained: Trained, results: Sequence[ReplayResult]
) -> dict[str, Any]:
    """Say in a policy's folder how it was trained, and what it is worth."""
    return {
        "options": {
            "timesteps": trained.algorithm.num_timesteps,
            "learner": config.learner,
            "variants": config.variants,
            "seed": config.seed,
            "init": config.init,
        },
        "train_s": round(trained.seconds, 1),
        "results": [asdict(means) for means in means_by_method(results)],
        "command": command_line(),
        "when": now_utc(),
        "packages": describe_system()["packages"],
    }


def _held_out(config: PolicyConfig) -> tuple[list[str], set[str]]:
    """Find the problems to try the policy on, and all that are kept apart for it.

    A network's name stands for its recordings, on the class of devices where it has any there.

    Raises:
        ConfigError: a problem is live.
    """
    for name in (*config.problems, *config.held_out):
        if is_live(name):
            raise ConfigError(
                f"{name} is live: training takes a hundred thousand evaluations. "
                "Record it (`cprune-rl record`), and train on the recording"
            )
    recorded = recorded_names(with_added=True)
    tried: list[str] = []
    apart: set[str] = set()
    for name in config.held_out:
        of_network = [full for full in recorded if full.partition("@")[0] == name]
        apart |= set(of_network) or {full_name(name)}
        tried += _of_class(of_network, config.device_class or "*") or of_network or [name]
    return list(dict.fromkeys(tried)), apart


def _of_class(names: Sequence[str], device_class: str) -> list[str]:
    return [n for n in names if fnmatch.fnmatchcase(n.partition("@")[2], device_class)]


def _sources(config: PolicyConfig, apart: Collection[str]) -> list[str]:
    """Find the problems to train on: those named and those of the class, without those held out."""
    names = list(config.problems)
    if config.device_class is not None:
        recorded = recorded_names(with_added=True)
        matching = _of_class(recorded, config.device_class)
        if not matching:
            classes = sorted({name.partition("@")[2] for name in recorded})
            raise ConfigError(
                f"no recording is of the device class {config.device_class!r}. "
                f"Known: {', '.join(classes)}; patterns such as 'znver4-*' match several."
            )
        names += [name for name in matching if name not in names]
    left = [name for name in names if full_name(name) not in apart]
    if config.has_schemes:
        for name in config.problems:
            if not has_schemes(name):
                raise ConfigError(
                    f"{name} was recorded without schemes: record it with --change "
                    "channels,schemes, or name others (`cprune-rl problems list` says which have "
                    "them)"
                )
        left = [name for name in left if has_schemes(name)]
    if not left:
        raise ConfigError(
            "no problem is left to train on: name some by --problems or --device-class, "
            "or hold fewer out"
        )
    return left


def _open_folder(config: PolicyConfig) -> Path:
    """Make the policy's folder, or go on with the training in it.

    Raises:
        ConfigError: it holds a training with other options, whose checkpoint does not fit.
    """
    folder = config.out or Path("policies") / _folder_name(config)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "options.json"
    options = _kept_options(config)
    if file.is_file() and _kept_options(_read_options(file)) != options:
        raise ConfigError(
            f"{folder} holds a training with other options: give another --out, "
            "or the same options to go on with it"
        )
    write_text(file, dump_json(options))
    return folder


def _kept_options(config: PolicyConfig) -> dict[str, Any]:
    """Give the options that a training may not change when it goes on."""
    return config.model_dump(mode="json", exclude={"out", "timesteps", "workers"})


def _read_options(file: Path) -> PolicyConfig:
    try:
        return PolicyConfig(**translate(read_json(file), is_quiet=True))
    except DAMAGED as error:
        raise ConfigError(
            f"{file} has no options of a training: {damage(error)}. Give another --out"
        ) from error


def _folder_name(config: PolicyConfig) -> str:
    if config.device_class:
        text = config.device_class.replace("*", "all")
    else:
        networks = [split_floor(name)[0].partition("@")[0] for name in config.problems]
        text = "-".join(dict.fromkeys(networks))
    return f"{Path(text).name[:60]}-{config.learner}-{config.seed}"
