"""Runs every method on every case, within its budget, and keeps each answer as a row.

Each run writes its row at once, so that a comparison that was interrupted goes on where it was; one
whose process was lost is tried once
more and then noted as failed, and so is one that raised an error. Called by the CLI.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from cprune_rl.agents.core.searcher import Budget
from cprune_rl.agents.registry import METHODS
from cprune_rl.comparison.executors import BACKENDS
from cprune_rl.comparison.policy_store import PolicyStore, needed
from cprune_rl.comparison.records import BUDGETS, Case, RunRecord, read_record
from cprune_rl.comparison.run_case import code_version, failed_record, run_case
from cprune_rl.core.json_text import dump_json
from cprune_rl.core.system_info import command_line, describe_system, now_utc
from cprune_rl.envs.problems.registry import has_schemes
from cprune_rl.errors import ConfigError, CPruneError
from cprune_rl.pipeline.progress import ProgressLog

__all__ = ["Experiment", "parse_budget", "record_path", "run_experiment"]

_RUNNING = "running"


@dataclass(frozen=True)
class Experiment:
    """What is compared.

    Attributes:
        folder: of rows, policies and the page.
        cases: problems with seeds.
        methods: keys of `METHODS`.
        budget: of each search.
        n_jobs: processes; None for one on each core.
        backend: a key of `backends.BACKENDS`.
        timesteps: of a transferred policy's training.
        own_timesteps: of one for a problem of its own.
    """

    folder: Path
    cases: tuple[Case, ...]
    methods: tuple[str, ...]
    budget: Budget = field(default_factory=Budget)
    n_jobs: int | None = None
    backend: str = "processes"
    timesteps: int = 100_000
    own_timesteps: int = 20_000

    @property
    def policies(self) -> PolicyStore:
        """Its policies."""
        return PolicyStore(self.folder / "policies", self.timesteps, self.own_timesteps)

    @property
    def terms(self) -> dict[str, Any]:
        """What every row of the folder has in common."""
        return {
            "budget": asdict(self.budget),
            "timesteps": self.timesteps,
            "own_timesteps": self.own_timesteps,
            "code": code_version(),
        }


@dataclass(frozen=True)
class _Job:
    """Something to be done in another process: a policy, or a row."""

    experiment: Experiment
    case: Case
    name: str  # of a kind of policy, or a method
    is_training: bool = False

    @property
    def label(self) -> str:
        return f"{self.case.problem}_{self.case.floor:g}_{self.case.losses}_{self.case.seed}_{self.name}"

    @property
    def mark(self) -> Path:
        """There while a process works on it."""
        return self.experiment.folder / _RUNNING / re.sub(r"[^\w.@+-]+", "_", self.label)


def parse_budget(text: str) -> Budget:
    """`trials=500,evaluations=200,minutes=10`; what is left out is no limit.

    Raises:
        ConfigError: it says something else.
    """
    allowed: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = part.partition("=")
        try:
            allowed[name] = float(value)
        except ValueError:
            allowed[name] = -1.0
        if name not in BUDGETS or not 0 <= allowed[name] < math.inf:
            raise ConfigError(
                f"--budget {text!r}: give e.g. trials=500,evaluations=200,minutes=10, each 0 or more"
            )
    trials, evaluations = (
        int(allowed[name]) if name in allowed else None for name in ("trials", "evaluations")
    )
    return Budget(trials, evaluations, allowed.get("minutes"))


def record_path(folder: Path, case: Case, method: str) -> Path:
    """File of a row."""
    return (
        folder
        / "rows"
        / (
            re.sub(
                r"[^\w.@+-]+",
                "_",
                f"{case.problem}_{case.floor:g}_{case.losses}_{case.seed}_{method}",
            )
            + ".json"
        )
    )


def run_experiment(experiment: Experiment, progress: ProgressLog) -> None:
    """Trains the policies that are needed, then runs what the folder has no row of.

    Args:
        experiment: what is compared.
        progress: told what is going on.

    Raises:
        ConfigError: the folder holds a comparison on other terms, or there is no such backend.
        CPruneError: a policy could not be trained.
    """
    folder = experiment.folder
    run_all = BACKENDS.get(experiment.backend)
    if run_all is None:
        raise ConfigError(f"there is no backend {experiment.backend!r}: {', '.join(BACKENDS)}")
    _check_folder(experiment)
    for name in ("rows", "policies", _RUNNING):
        (folder / name).mkdir(parents=True, exist_ok=True)
    started = time.time()
    sessions = folder / "sessions.json"
    session: dict[str, Any] = {
        "command": command_line(),
        "when": now_utc(),
        "backend": experiment.backend,
        "system": describe_system(),
    }
    log = [*(_read_json(sessions) or []), session]
    sessions.write_text(dump_json(log))
    kinds = [kind for method in experiment.methods if (kind := METHODS[method].policy) is not None]
    policies = experiment.policies
    todo = [
        _Job(experiment, case, kind, is_training=True)
        for kind, case in needed(kinds, experiment.cases)
        if not (policies.path(kind, case.problem) / "policy.json").is_file()
    ]
    for jobs in (
        [j for j in todo if j.name == "transferred"],
        [j for j in todo if j.name != "transferred"],
    ):  # what others begin with first
        if jobs:
            with progress.track(
                f"Training policies ({', '.join(dict.fromkeys(j.name for j in jobs))})", len(jobs)
            ) as advance:
                run_all(jobs, _work, _give_up, experiment.n_jobs, advance)
    able = (
        {problem: has_schemes(problem) for problem in {case.problem for case in experiment.cases}}
        if any(METHODS[m].has_schemes for m in experiment.methods)
        else {}
    )
    runs = [
        _Job(experiment, case, method)
        for case in experiment.cases
        for method in experiment.methods
        if not METHODS[method].has_schemes or able[case.problem]
    ]
    if not runs:
        raise ConfigError(
            "none of these problems was recorded with schemes, and none of these methods does without: --problems all-schemes names those that were"
        )
    missing = [job for job in runs if _is_missing(record_path(folder, job.case, job.name))]
    if len(missing) < len(runs):
        progress.print(f"    {len(runs) - len(missing)} of {len(runs)} runs are there already")
    if missing:
        with progress.track("Searching", len(missing)) as advance:
            run_all(missing, _work, _give_up, experiment.n_jobs, advance)
    with contextlib.suppress(OSError):
        (folder / _RUNNING).rmdir()
    failed = [
        row
        for job in runs
        if (row := read_record(record_path(folder, job.case, job.name))).error is not None
    ]
    for row in failed[:5]:
        progress.print(f"    {row.method} on {row.problem}, seed {row.seed}, failed: {row.error}")
    if len(failed) > 5:
        progress.print(f"    and {len(failed) - 5} more failed")
    session |= {"seconds": round(time.time() - started, 1), "runs": len(missing)}
    sessions.write_text(dump_json(log))


def _is_missing(path: Path) -> bool:
    """Whether a run is to be done: also one that failed."""
    return not path.is_file() or read_record(path).error is not None


def _work(job: _Job) -> None:
    """In a process of its own: one policy, or one row."""
    job.mark.write_text(str(os.getpid()))
    torch.set_num_threads(1)  # as many processes as cores are at work
    try:
        if job.is_training:
            job.experiment.policies.train(job.name, job.case)
            return
        try:
            row = run_case(job.case, job.name, job.experiment.budget, job.experiment.policies)
        except Exception as error:  # a failed run is a value
            where = traceback.extract_tb(error.__traceback__)[-1]
            row = failed_record(
                job.case,
                job.name,
                job.experiment.budget,
                f"{type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno})",
            )
        _write(record_path(job.experiment.folder, job.case, job.name), row)
    finally:
        with contextlib.suppress(OSError):
            job.mark.unlink()


def _give_up(job: _Job) -> None:
    if job.is_training:
        raise CPruneError(
            f"the process that trained a policy ({job.name} for {job.case.problem}) was killed twice: is there memory enough?"
        )
    _write(
        record_path(job.experiment.folder, job.case, job.name),
        failed_record(job.case, job.name, job.experiment.budget, "its process was killed, twice"),
    )


def _write(path: Path, row: RunRecord) -> None:
    """All of it or nothing."""
    partial = path.with_suffix(".partial")
    partial.write_text(row.to_json())
    partial.replace(path)


def _check_folder(experiment: Experiment) -> None:
    """Rows of one folder are on equal terms."""
    file = experiment.folder / "comparison.json"
    known = _read_json(file)
    terms = json.loads(json.dumps(experiment.terms))
    if known is not None and known != terms:
        different = ", ".join(
            f"{name} {known.get(name)!r} there, {terms.get(name)!r} now"
            for name in {**known, **terms}
            if known.get(name) != terms.get(name)
        )
        raise ConfigError(
            f"{experiment.folder} holds a comparison on other terms ({different}): give another --out, or remove it"
        )
    experiment.folder.mkdir(parents=True, exist_ok=True)
    file.write_text(dump_json(terms))


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None
