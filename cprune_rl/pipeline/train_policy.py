"""Training of one policy for many problems of a device class:

which problems, how long, and what it is then worth.

Nothing is compiled, timed or trained for it but the policy: problems are recordings and variants of
their networks.
"""

from __future__ import annotations

import fnmatch
import itertools
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from cprune_rl.agents.baselines.cprune import CPrune
from cprune_rl.agents.baselines.proxy_greedy import ProxyGreedy
from cprune_rl.agents.core.pareto import fastest_holding
from cprune_rl.agents.core.searcher import Budget, Searcher
from cprune_rl.agents.planner.agent import PruningAgent
from cprune_rl.agents.policies import find_policy
from cprune_rl.agents.rl.learners import find_learner
from cprune_rl.agents.rl.policy import RowPolicy, load_policy, save_policy
from cprune_rl.agents.rl.rollout import PolicyRollOut
from cprune_rl.agents.rl.training import Trained, TrainingMonitor, TrainingSettings, train_policy
from cprune_rl.agents.schemes.rule import MappingRule
from cprune_rl.agents.schemes.search import MappingSearch
from cprune_rl.core.json_text import dump_json
from cprune_rl.core.system_info import command_line, describe_system, now_utc
from cprune_rl.envs.actions.channel_steps import ChannelActions
from cprune_rl.envs.actions.layer_schemes import START_RATIOS, SchemeActions
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
from cprune_rl.envs.problems.replay import ReplaySettings, open_replay
from cprune_rl.errors import ConfigError
from cprune_rl.pipeline.live_problems import is_live
from cprune_rl.pipeline.policy_config import PolicyConfig
from cprune_rl.pipeline.progress import ProgressLog

__all__ = ["evaluate_searchers", "train_on_problems"]

_CASES = 24  # problems and draws of their losses that a policy is tried on: a minute or two


def train_on_problems(config: PolicyConfig, progress: ProgressLog) -> Path:
    """Trains a policy, tries it on what it was not trained on, and writes it down.

    A folder in which a training was stopped is gone on with. A long training steps its problems in
    other processes, so a
    program that calls this guards its `__main__`, or sets `workers` to 0.

    Args:
        config: options.
        progress: told what is going on.

    Returns:
        The policy's folder.

    Raises:
        ConfigError: no problem is left to train on, or the folder holds another training.
        CPruneError: a problem or a policy is not there, or damaged.
    """
    if live := [name for name in (*config.problems, *config.held_out) if is_live(name)]:
        raise ConfigError(
            f"{live[0]} is live: training takes a hundred thousand looks. Record it (`cprune-rl record`), and train on the recording"
        )
    held_out, apart = _held_out(config)
    names = _sources(config, apart)
    find_learner(config.learner)
    if config.init is not None:
        find_policy(config.init)
    folder = config.out or Path("policies") / _folder_name(config)
    folder.mkdir(parents=True, exist_ok=True)
    _check_folder(folder, config)
    progress.print(
        f"Training on {', '.join(names)}"
        + (f"; tried on {', '.join(held_out)}" if held_out else "")
    )
    n_rows = max(len(read_recording(n).network.subgraphs) for n in (*names, *held_out))
    settings = TrainingSettings(
        total_timesteps=config.timesteps,
        learner=config.learner,
        n_workers=config.workers,
        seed=config.seed,
        max_rows=max(TrainingSettings.max_rows, n_rows),
    )
    action_set = SchemeActions() if config.has_schemes else ChannelActions()
    start = (
        None
        if config.init is None
        else load_policy(find_policy(config.init), settings.max_rows, action_set)
    )
    with progress.track("Reading the problems", None):
        problems = _problems(config, names)
    with progress.track(f"Training the policy by {config.learner}", config.timesteps) as advance:
        monitor = TrainingMonitor(
            log_folder=folder / "tensorboard",
            on_steps=advance,
            held_out=[_opener(name) for name in held_out],
            checkpoint=folder / "checkpoint.pt",
        )
        trained = train_policy(
            problems, settings, monitor=monitor, start=start, action_set=action_set
        )
    with progress.track("Trying it beside greedy searches", None):
        results = evaluate_searchers(
            _searchers(config, trained.policy),
            held_out or names,
            seeds=range(max(1, min(3, _CASES // len(held_out or names)))),
            with_schemes=config.has_schemes,
        )
    progress.console.print(_table(results, is_held_out=bool(held_out)))
    card = _card(config, names, held_out, trained, results)
    save_policy(trained.policy, folder, card, action_set)
    (folder / "evaluations.json").write_text(
        dump_json([vars(result) for result in trained.held_out])
    )
    (folder / "results.json").write_text(dump_json(results))
    use = (
        f"--change schemes --scheme-policy {folder}" if config.has_schemes else f"--policy {folder}"
    )
    progress.print(
        f"Policy: {folder}. Prune with it: cprune-rl prune {use} --model ... --device ..."
    )
    return folder


def _problems(config: PolicyConfig, names: Sequence[str]) -> GeneratedProblems:
    """The recordings, and variants of their networks."""
    drawn = GeneratorSettings(
        n_variants=config.variants,
        recorded_share=0.25 if config.variants else 1.0,
        floors=_floors(names),
        start_ratios=START_RATIOS if config.has_schemes else (),
        seed=config.seed,
    )
    return GeneratedProblems.from_recordings(names, drawn)


def _card(
    config: PolicyConfig,
    names: Sequence[str],
    held_out: Sequence[str],
    trained: Trained,
    results: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """What a policy's folder says of its training."""
    return {
        "trained_on": list(names),
        "held_out": list(held_out),
        "options": {
            "timesteps": trained.algorithm.num_timesteps,
            "learner": config.learner,
            "variants": config.variants,
            "seed": config.seed,
            "init": config.init,
        },
        "train_s": round(trained.seconds, 1),
        "results": _means(results),
        "command": command_line(),
        "when": now_utc(),
        "packages": describe_system()["packages"],
    }


def _searchers(config: PolicyConfig, policy: RowPolicy) -> tuple[Searcher, ...]:
    """The agent with a policy, and the policy's roll-out, beside what needs none.

    Roll-out and proxy greedy end after eight rejections; `benchmarks/transfer.py` has no such limit
    for proxy greedy.
    """
    if config.has_schemes:
        return (
            MappingSearch(policy),
            PolicyRollOut(policy, action_set=SchemeActions()),
            ProxyGreedy(action_set=SchemeActions()),
            MappingRule(),
        )
    return PruningAgent(policy), PolicyRollOut(policy), ProxyGreedy(), CPrune()


def evaluate_searchers(
    searchers: Sequence[Searcher],
    names: Sequence[str],
    floors: Sequence[float] = (-0.01, -0.02),
    seeds: Sequence[int] = (0, 1, 2),
    with_schemes: bool = False,
) -> list[dict[str, Any]]:
    """Searchers on replays of recorded problems.

    Args:
        searchers: to be judged.
        names: of the problems.
        floors: asked for, where a name has none.
        seeds: of the true losses.
        with_schemes: whether they prune layers by schemes, so that those are measured before.

    Returns:
        For each problem, floor, seed and method: speed-up by the recording's estimate, evaluations,
        and tasks that a device
        would have been asked for; what a live run spends before it searches is included where a
        method uses it.
    """
    results: list[dict[str, Any]] = []
    for name, seed in itertools.product(names, seeds):
        for asked, searcher in itertools.product([None] if _has_floor(name) else floors, searchers):
            settings = ReplaySettings(
                seed=seed,
                warm_start=not with_schemes and not isinstance(searcher, CPrune),
                with_schemes=with_schemes,
            )
            replay = open_replay(name, asked, settings)
            found = searcher.search(replay.problem, Budget())
            kept, n_finetuned = fastest_holding(found.accepted, replay.holds)
            results.append(
                {
                    "problem": name,
                    "floor": round(replay.problem.floor - replay.problem.dense_accuracy, 4),
                    "seed": seed,
                    "method": searcher.name,
                    "speedup": round(found.accepted[0].latency_s / kept.latency_s, 4),
                    "accuracy_evaluations": int(found.cost["accuracy_evaluations"]),
                    "tasks": int(found.cost["cached_trials"]) + replay.n_tasks,
                    "full_finetunes": n_finetuned,
                }
            )
    return results


def _table(results: Sequence[dict[str, Any]], is_held_out: bool) -> Table:
    which = (
        "that it was not trained on"
        if is_held_out
        else "that it was trained on: --held-out keeps some apart"
    )
    view = Table(
        title=f"On problems {which}",
        caption="Replays: latencies recorded, losses drawn. The geometric mean is over problems, floors and draws.",
    )
    for column in (
        "method",
        "speed-up",
        "accuracy evaluations",
        "tasks looked at",
        "full fine-tunes",
    ):
        view.add_column(column, justify="left" if column == "method" else "right")
    for row in _means(results):
        view.add_row(
            str(row["method"]),
            f"{row['speedup']:.2f}",
            f"{row['accuracy_evaluations']:.0f}",
            f"{row['tasks']:.0f}",
            f"{row['full_finetunes']:.1f}",
        )
    return view


def _means(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each method: geometric mean of the speed-ups, means of the costs."""
    found = []
    for method in dict.fromkeys(r["method"] for r in results):
        rows = [r for r in results if r["method"] == method]
        speedup = float(np.exp(np.mean([np.log(r["speedup"]) for r in rows])))
        costs = {
            key: round(float(np.mean([r[key] for r in rows])), 1)
            for key in ("accuracy_evaluations", "tasks", "full_finetunes")
        }
        found.append(
            {"method": method, "speedup": round(speedup, 4), **costs, "n_problems": len(rows)}
        )
    return found


def _sources(config: PolicyConfig, apart: Collection[str]) -> list[str]:
    """What to train on: what was named, or a device class' recordings, without what is held out."""
    names = list(config.problems)
    if config.device_class is not None:
        known = recorded_names(with_added=True)
        matching = [
            name
            for name in known
            if fnmatch.fnmatchcase(name.partition("@")[2], config.device_class)
        ]
        if not matching:
            classes = sorted({name.partition("@")[2] for name in known})
            raise ConfigError(
                f"no recording is of the device class {config.device_class!r}. Known: {', '.join(classes)}; patterns such as 'znver4-*' match several."
            )
        names += [name for name in matching if name not in names]
    left = [name for name in names if full_name(name) not in apart]
    if config.has_schemes:
        bare = [name for name in config.problems if not has_schemes(name)]
        if bare:
            raise ConfigError(
                f"{bare[0]} was recorded without schemes: record it with --change channels,schemes, or name others (`cprune-rl problems list` says which have them)"
            )
        left = [name for name in left if has_schemes(name)]
    if not left:
        raise ConfigError(
            "no problem is left to train on: name some by --problems or --device-class, or hold fewer out"
        )
    return left


def _held_out(config: PolicyConfig) -> tuple[list[str], set[str]]:
    """Problems to try the policy on, those named and the class' recordings of a network that is
    named; and all that are kept apart for it.
    """
    known = recorded_names(with_added=True)
    tried: list[str] = []
    apart: set[str] = set()
    for name in config.held_out:
        of_network = [k for k in known if k.partition("@")[0] == name]
        apart |= set(of_network) or {full_name(name)}
        of_class = [
            k
            for k in of_network
            if config.device_class is None
            or fnmatch.fnmatchcase(k.partition("@")[2], config.device_class)
        ]
        tried += of_class or of_network or [name]
    return list(dict.fromkeys(tried)), apart


def _floors(names: Sequence[str]) -> tuple[float, ...]:
    """The floors that all names end in;

    the usual ones where a name has none, so that one policy serves all.
    """
    asked = [open_recorded(name) for name in names if _has_floor(name)]
    return (
        tuple(sorted({round(p.dense_accuracy - p.floor, 6) for p in asked}))
        if len(asked) == len(names)
        else GeneratorSettings.floors
    )


def _has_floor(name: str) -> bool:
    return split_floor(name)[1] is not None


def _opener(name: str) -> Callable[[], Problem]:
    return lambda: open_replay(name).problem


def _folder_name(config: PolicyConfig) -> str:
    text = (
        config.device_class.replace("*", "all")
        if config.device_class
        else "-".join(dict.fromkeys(split_floor(p)[0].partition("@")[0] for p in config.problems))
    )
    return f"{Path(text).name[:60]}-{config.learner}-{config.seed}"


def _check_folder(folder: Path, config: PolicyConfig) -> None:
    """A folder holds one training:

    with other options its checkpoint would be gone on with wrongly.
    """
    options = json.loads(config.model_dump_json(exclude={"out", "timesteps", "workers"}))
    file = folder / "options.json"
    if file.is_file() and json.loads(file.read_text()) != options:
        raise ConfigError(
            f"{folder} holds a training with other options: give another --out, or the same options to go on with it"
        )
    file.write_text(dump_json(options))
