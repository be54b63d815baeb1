"""Runs every method on every case, within its budget, and keeps each answer as a record.

Each run writes its record at once, so that an interrupted comparison goes on where it was. A run
whose process was lost is tried once more. A run that fails is a record as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from cprune_rl.agents.core.searcher import Budget
from cprune_rl.agents.registry import METHODS
from cprune_rl.comparison.executors import BACKENDS
from cprune_rl.comparison.policy_store import PolicyStore, policies_to_train
from cprune_rl.comparison.records import (
    Case,
    RunRecord,
    file_name,
    read_record,
    read_sessions,
    read_terms,
    record_path,
)
from cprune_rl.comparison.run_case import code_version, failed_record, run_case
from cprune_rl.core.atomic_files import write_text
from cprune_rl.core.json_text import dump_json
from cprune_rl.core.system_info import command_line, describe_system, now_utc
from cprune_rl.envs.problems.registry import has_schemes
from cprune_rl.errors import ConfigError, CPruneError
from cprune_rl.pipeline.progress import ProgressLog

__all__ = ["Experiment", "run_experiment"]

_RUNNING = "running"
_N_SHOWN = 5  # failures


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is compared.

    Attributes:
        folder: of records, policies and the page.
        cases: problems with seeds.
        methods: keys of `METHODS`.
        budget: of each search.
        n_jobs: processes; None for one on each core.
        backend: a key of `executors.BACKENDS`.
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
        """What every record of the folder has in common."""
        gate_images = self.cases[0].gate_images if self.cases else None
        return {
            "budget": _stated(self.budget),
            "timesteps": self.timesteps,
            "own_timesteps": self.own_timesteps,
            **({} if gate_images is None else {"gate_images": gate_images}),
        }


def _stated(budget: Budget) -> dict[str, Any]:
    """Name the limits of a budget, as folders of 0.2 do where full fine-tunes have none."""
    limits = asdict(budget)
    if budget.full_finetunes is None:
        del limits["full_finetunes"]
    return limits


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Something to be done in another process: a policy, or a record.

    Attributes:
        experiment: that it belongs to.
        case: what is searched, or trained for.
        name: of a method, or of a kind of policy.
        is_training: whether a policy is trained.
    """

    experiment: Experiment
    case: Case
    name: str
    is_training: bool = False

    @property
    def marker(self) -> Path:
        """A file that is there while a process works on it."""
        return self.experiment.folder / _RUNNING / file_name(self.path.stem)

    @property
    def path(self) -> Path:
        """The file of its record."""
        return record_path(self.experiment.folder, self.case, self.name)

    @property
    def is_done(self) -> bool:
        """Whether its record is there, and did not fail."""
        return self.path.is_file() and read_record(self.path).error is None

    def write(self, record: RunRecord) -> None:
        """Write all of its record or nothing."""
        write_text(self.path, record.to_json())


def run_experiment(experiment: Experiment, progress: ProgressLog) -> None:
    """Train the policies that are wanted, then run what the folder has no record of.

    Args:
        experiment: what is compared.
        progress: shows what is going on.

    Raises:
        ConfigError: the folder holds a comparison on other terms, or there is no such backend.
        CPruneError: a policy could not be trained.
    """
    if experiment.backend not in BACKENDS:
        raise ConfigError(f"there is no backend {experiment.backend!r}: {', '.join(BACKENDS)}")
    folder = experiment.folder
    _check_terms(experiment, progress)
    for name in ("rows", "policies", _RUNNING):
        (folder / name).mkdir(parents=True, exist_ok=True)
    started = time.time()
    session: dict[str, Any] = {
        "command": command_line(),
        "when": now_utc(),
        "backend": experiment.backend,
        "system": describe_system(),
    }
    sessions = [*read_sessions(folder), session]
    write_text(folder / "sessions.json", dump_json(sessions))
    _train_policies(experiment, progress)
    jobs = _runs(experiment)
    missing = [job for job in jobs if not job.is_done]
    if len(missing) < len(jobs):
        progress.print(f"    {len(jobs) - len(missing)} of {len(jobs)} runs are there already")
    _run_jobs(missing, "Searching", progress)
    with contextlib.suppress(OSError):
        (folder / _RUNNING).rmdir()
    _show_failures(jobs, progress)
    session |= {"seconds": round(time.time() - started, 1), "runs": len(missing)}
    write_text(folder / "sessions.json", dump_json(sessions))


def _check_terms(experiment: Experiment, progress: ProgressLog) -> None:
    """Refuse to add records on other terms; with other code warn, for the page says so, too."""
    now = {**json.loads(json.dumps(experiment.terms)), "code": code_version()}
    there = read_terms(experiment.folder) or now
    different = [name for name in {**there, **now} if there.get(name) != now.get(name)]
    if "code" in different:
        different.remove("code")
        progress.print(
            f"    {experiment.folder} holds runs of other code ({there.get('code')}): "
            "rows and page say which"
        )
    if different:
        listed = ", ".join(
            f"{name} {there.get(name)!r} there, {now.get(name)!r} now" for name in different
        )
        raise ConfigError(
            f"{experiment.folder} holds a comparison on other terms ({listed}): "
            "give another --out, or remove it"
        )
    experiment.folder.mkdir(parents=True, exist_ok=True)
    write_text(experiment.folder / "comparison.json", dump_json(now))


def _train_policies(experiment: Experiment, progress: ProgressLog) -> None:
    policies = experiment.policies
    kinds = {METHODS[method].policy or "" for method in experiment.methods}
    jobs = [
        _Job(experiment=experiment, case=case, name=kind, is_training=True)
        for kind, case in policies_to_train(kinds, experiment.cases)
        if not policies.has(kind, case.problem)
    ]
    # Fine-tuning begins with a transferred policy.
    first = [job for job in jobs if job.name == "transferred"]
    rest = [job for job in jobs if job.name != "transferred"]
    for part in (first, rest):
        names = ", ".join(dict.fromkeys(job.name for job in part))
        _run_jobs(part, f"Training policies ({names})", progress)


def _runs(experiment: Experiment) -> list[_Job]:
    """List the runs: methods that prune by schemes want a recording that has them."""
    wants_schemes = [method for method in experiment.methods if METHODS[method].has_schemes]
    problems = {case.problem for case in experiment.cases} if wants_schemes else set()
    with_schemes = {problem for problem in problems if has_schemes(problem)}
    jobs = [
        _Job(experiment=experiment, case=case, name=method)
        for case in experiment.cases
        for method in experiment.methods
        if method not in wants_schemes or case.problem in with_schemes
    ]
    if not jobs:
        raise ConfigError(
            "none of these problems was recorded with schemes, and none of these methods does "
            "without: --problems all-schemes names those that were"
        )
    return jobs


def _run_jobs(jobs: Sequence[_Job], title: str, progress: ProgressLog) -> None:
    if jobs:
        experiment = jobs[0].experiment
        with progress.track(title, len(jobs)) as advance:
            BACKENDS[experiment.backend](
                jobs, _work, give_up=_give_up, n_jobs=experiment.n_jobs, advance=advance
            )


def _show_failures(jobs: Sequence[_Job], progress: ProgressLog) -> None:
    records = [read_record(job.path) for job in jobs]
    failed = [record for record in records if record.error is not None]
    for record in failed[:_N_SHOWN]:
        progress.print(
            f"    {record.method} on {record.problem}, seed {record.seed}, failed: {record.error}"
        )
    if len(failed) > _N_SHOWN:
        progress.print(f"    and {len(failed) - _N_SHOWN} more failed")


def _work(job: _Job) -> None:
    """Do a job in a process of its own."""
    job.marker.write_text(str(os.getpid()))
    torch.set_num_threads(1)  # as many processes as cores are at work
    experiment = job.experiment
    try:
        if job.is_training:
            experiment.policies.train(job.name, job.case)
            return
        try:
            record = run_case(
                job.case, job.name, budget=experiment.budget, policies=experiment.policies
            )
        except Exception as error:  # a failed run is a value
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {error}"
            text += f" ({Path(where.filename).name}, line {where.lineno})"
            record = failed_record(job.case, job.name, budget=experiment.budget, error=text)
        job.write(record)
    finally:
        with contextlib.suppress(OSError):
            job.marker.unlink()


def _give_up(job: _Job) -> None:
    if job.is_training:
        raise CPruneError(
            f"the process that trained a policy ({job.name} for {job.case.problem}) was killed "
            "twice: is there memory enough?"
        )
    error = "its process was killed, twice"
    job.write(failed_record(job.case, job.name, budget=job.experiment.budget, error=error))
