"""Runs every method on every case, within its budget, and keeps each answer as a row.

Runs go to processes, or to a Ray cluster. Each writes its row at once, so that a comparison that was interrupted goes on where it was; a
run whose process was killed is tried once more and then noted as failed, and so is one that raised an error. Called by the CLI.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import multiprocessing
import os
import re
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import cprune_rl
from cprune_rl.agents.exact import PROVEN
from cprune_rl.agents.guard import search_within
from cprune_rl.agents.methods import METHODS, Brought
from cprune_rl.agents.searcher import AcceptedPlan, Budget, SearchStep
from cprune_rl.comparison.cases import EVALUATION_S, FINETUNE_S, TRIAL_S, kept, open_case
from cprune_rl.comparison.rows import BUDGETS, COSTS, Case, Row, read_row
from cprune_rl.comparison.shelf import Shelf, needed
from cprune_rl.envs.rehearsals import TRIALS_EACH, Rehearsal
from cprune_rl.errors import ConfigError, CPruneError
from cprune_rl.job.progress import Reporter
from cprune_rl.machine import command_line, describe_system, now_utc
from cprune_rl.plain import dump_json

__all__ = ["BACKENDS", "Campaign", "parse_budget", "row_path", "run_campaign", "run_one"]

_RUNNING = "running"
_LINKED = ("agents", "envs", "cost_cache")  # folders that a glob does not follow where they are links


@dataclass(frozen=True)
class Campaign:
    """What is compared.

    Attributes:
        folder: of rows, policies and the page.
        cases: problems with seeds.
        methods: keys of `METHODS`.
        budget: of each search.
        n_jobs: processes; None for one on each core.
        backend: a key of `BACKENDS`.
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
    def shelf(self) -> Shelf:
        """Its policies."""
        return Shelf(self.folder / "policies", self.timesteps, self.own_timesteps)

    @property
    def terms(self) -> dict[str, Any]:
        """What every row of the folder has in common."""
        return {"budget": asdict(self.budget), "timesteps": self.timesteps, "own_timesteps": self.own_timesteps, "code": _code()}


@dataclass(frozen=True)
class _Job:
    """Something to be done in another process: a policy, or a row."""

    campaign: Campaign
    case: Case
    name: str  # of a kind of policy, or a method
    is_training: bool = False

    @property
    def label(self) -> str:
        return f"{self.case.problem}_{self.case.floor:g}_{self.case.losses}_{self.case.seed}_{self.name}"

    @property
    def mark(self) -> Path:
        """There while a process works on it."""
        return self.campaign.folder / _RUNNING / re.sub(r"[^\w.@+-]+", "_", self.label)


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
            raise ConfigError(f"--budget {text!r}: give e.g. trials=500,evaluations=200,minutes=10, each 0 or more")
    trials, evaluations = (int(allowed[name]) if name in allowed else None for name in ("trials", "evaluations"))
    return Budget(trials, evaluations, allowed.get("minutes"))


def row_path(folder: Path, case: Case, method: str) -> Path:
    """File of a row."""
    return folder / "rows" / (re.sub(r"[^\w.@+-]+", "_", f"{case.problem}_{case.floor:g}_{case.losses}_{case.seed}_{method}") + ".json")


def run_campaign(campaign: Campaign, reporter: Reporter) -> None:
    """Trains the policies that are needed, then runs what the folder has no row of.

    Args:
        campaign: what is compared.
        reporter: told what is going on.

    Raises:
        ConfigError: the folder holds a comparison on other terms, or there is no such backend.
        CPruneError: a policy could not be trained.
    """
    folder = campaign.folder
    run_all = BACKENDS.get(campaign.backend)
    if run_all is None:
        raise ConfigError(f"there is no backend {campaign.backend!r}: {', '.join(BACKENDS)}")
    _check_folder(campaign)
    for name in ("rows", "policies", _RUNNING):
        (folder / name).mkdir(parents=True, exist_ok=True)
    started = time.time()
    sessions = folder / "sessions.json"
    session: dict[str, Any] = {"command": command_line(), "when": now_utc(), "backend": campaign.backend, "system": describe_system()}
    log = [*(_read_json(sessions) or []), session]
    sessions.write_text(dump_json(log))
    kinds = [kind for method in campaign.methods if (kind := METHODS[method].policy) is not None]
    shelf = campaign.shelf
    todo = [_Job(campaign, case, kind, is_training=True) for kind, case in needed(kinds, campaign.cases) if not (shelf.path(kind, case.problem) / "policy.json").is_file()]
    for jobs in ([j for j in todo if j.name == "transferred"], [j for j in todo if j.name != "transferred"]):  # what others begin with first
        if jobs:
            with reporter.part(f"Training policies ({', '.join(dict.fromkeys(j.name for j in jobs))})", len(jobs)) as advance:
                run_all(jobs, campaign.n_jobs, advance)
    runs = [_Job(campaign, case, method) for case in campaign.cases for method in campaign.methods]
    missing = [job for job in runs if _is_missing(row_path(folder, job.case, job.name))]
    if len(missing) < len(runs):
        reporter.say(f"    {len(runs) - len(missing)} of {len(runs)} runs are there already")
    if missing:
        with reporter.part("Searching", len(missing)) as advance:
            run_all(missing, campaign.n_jobs, advance)
    with contextlib.suppress(OSError):
        (folder / _RUNNING).rmdir()
    failed = [row for job in runs if (row := read_row(row_path(folder, job.case, job.name))).error is not None]
    for row in failed[:5]:
        reporter.say(f"    {row.method} on {row.problem}, seed {row.seed}, failed: {row.error}")
    if len(failed) > 5:
        reporter.say(f"    and {len(failed) - 5} more failed")
    session |= {"seconds": round(time.time() - started, 1), "runs": len(missing)}
    sessions.write_text(dump_json(log))


def _is_missing(path: Path) -> bool:
    """Whether a run is to be done: also one that failed."""
    return not path.is_file() or read_row(path).error is not None


def run_one(case: Case, method: str, budget: Budget, shelf: Shelf) -> Row:
    """One method on one case.

    Args:
        case: what it is tried on.
        method: a key of `METHODS`.
        budget: that no look may pass; what is measured for the method beforehand is taken off it.
        shelf: has the policy that it brings along.

    Raises:
        CPruneError: of the method; `run_campaign` makes a row of it.
    """
    way = METHODS[method]
    is_known = way.role == "reference"
    rehearsal = open_case(case, way.is_prepared, is_known)
    before = TRIALS_EACH * rehearsal.charged
    policy_s = 0.0 if way.policy is None else shelf.seconds(way.policy, case.problem)
    left = Budget() if is_known else Budget(None if budget.fresh_trials is None else max(0, budget.fresh_trials - before), budget.accuracy_evaluations, budget.minutes)
    searcher = way.make(Brought(lambda: shelf.load(str(way.policy), case.problem), case.seed, rehearsal.truth))
    problem, spent_at = rehearsal.problem, list[tuple[int, int]]()

    def note(step: SearchStep) -> None:
        if step.accepted:
            spent_at.append((before + problem.latency.spending.fresh_trials - n_known, problem.oracle.spending.accuracy_evaluations))

    n_known = problem.latency.spending.fresh_trials
    started = time.perf_counter()
    found, is_stopped = search_within(
        searcher,
        problem,
        left,
        note,
        lambda: policy_s + TRIAL_S * (before + problem.latency.spending.fresh_trials - n_known) + EVALUATION_S * problem.oracle.spending.accuracy_evaluations,
    )
    think_s = time.perf_counter() - started
    best, n_finetuned = kept(rehearsal, found.accepted)
    trials = 0 if is_known else before + int(found.cost["fresh_trials"])
    evaluations = int(found.cost["accuracy_evaluations"])
    cost = {
        "fresh_trials": trials,
        "tasks": 0 if is_known else rehearsal.charged + found.cost["cached_trials"],
        "accuracy_evaluations": evaluations,
        "full_finetunes": n_finetuned,
        "measure_s": TRIAL_S * trials,
        "train_s": EVALUATION_S * evaluations + FINETUNE_S * n_finetuned,
        "policy_s": policy_s,
        "think_s": think_s,
    }
    cost["wall_s"] = sum(value for name, value in cost.items() if name.endswith("_s"))
    is_stopped = is_stopped or (is_known and all(step.why != PROVEN for step in found.history))  # the solver's time was up
    curve = () if is_known else _curve(rehearsal, found.accepted, spent_at, before, (trials, evaluations))
    return _row(case, method, budget, rehearsal, best, cost, curve, "budget" if is_stopped else "itself")


def _curve(
    rehearsal: Rehearsal, accepted: Sequence[AcceptedPlan], spent_at: Sequence[tuple[int, int]], before: int, total: tuple[int, int]
) -> tuple[tuple[float, float, float], ...]:
    """What would be kept by when."""
    points = [(float(before), 0.0, 0.0)]
    for at, (trials, evaluations) in enumerate(spent_at, start=2):
        gain = _log_gain(accepted, kept(rehearsal, accepted[:at])[0])
        if gain != points[-1][2]:
            points.append((float(trials), float(evaluations), gain))
    return (*points, (float(total[0]), float(total[1]), _log_gain(accepted, kept(rehearsal, accepted)[0])))


def _log_gain(accepted: Sequence[AcceptedPlan], plan: AcceptedPlan) -> float:
    return math.log(accepted[0].latency_s / plan.latency_s)


def _row(
    case: Case,
    method: str,
    budget: Budget,
    rehearsal: Rehearsal,
    best: AcceptedPlan,
    cost: dict[str, float],
    curve: tuple[tuple[float, float, float], ...],
    ended: Any,
    error: str | None = None,
) -> Row:
    problem = rehearsal.problem
    dense_s = sum(c.latency_s for c in problem.latency.measure(problem.network.dense))
    return Row(
        case.problem,
        case.floor,
        case.seed,
        method,
        dense_s,
        best.latency_s,
        rehearsal.accuracy(best.plan),
        problem.dense_accuracy,
        problem.floor,
        best.plan == problem.network.dense or rehearsal.holds(best.plan),
        best.plan.widths,
        {name: float(value) for name, value in cost.items()},
        curve,
        ended,
        error,
        {"trials": _as_float(budget.fresh_trials), "evaluations": _as_float(budget.accuracy_evaluations), "minutes": budget.minutes},
        "recorded" if case.losses == "recorded" else "drawn",
        _code(),
        _versions(),
    )


def _as_float(value: int | None) -> float | None:
    return None if value is None else float(value)


def _failed(job: _Job, error: str) -> Row:
    """The dense network: what a failed run is worth."""
    rehearsal = open_case(job.case, is_prepared=False)
    problem = rehearsal.problem
    dense = problem.network.dense
    dense_s = sum(c.latency_s for c in problem.latency.measure(dense))
    return _row(job.case, job.name, job.campaign.budget, rehearsal, AcceptedPlan(dense, dense_s, problem.dense_accuracy), dict.fromkeys(COSTS, 0.0), (), "error", error)


def _work(job: _Job) -> None:
    """In a process of its own: one policy, or one row."""
    job.mark.write_text(str(os.getpid()))
    torch.set_num_threads(1)  # as many processes as cores are at work
    try:
        if job.is_training:
            job.campaign.shelf.train(job.name, job.case)
            return
        try:
            row = run_one(job.case, job.name, job.campaign.budget, job.campaign.shelf)
        except Exception as error:  # a failed run is a value
            where = traceback.extract_tb(error.__traceback__)[-1]
            row = _failed(job, f"{type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno})")
        _write(row_path(job.campaign.folder, job.case, job.name), row)
    finally:
        with contextlib.suppress(OSError):
            job.mark.unlink()


def _write(path: Path, row: Row) -> None:
    """All of it or nothing."""
    partial = path.with_suffix(".partial")
    partial.write_text(row.to_json())
    partial.replace(path)


def _in_processes(jobs: Sequence[_Job], n_jobs: int | None, advance: Callable[[int], None]) -> None:
    """Each in one of a few processes; where one is killed, all that was being worked on is tried once more, each alone, because nobody knows whose fault it was."""
    left = list(jobs)

    def done(job: _Job) -> None:
        left.remove(job)
        advance(len(jobs) - len(left))

    while left:
        try:
            with _pool(n_jobs) as pool:
                futures = {pool.submit(_work, job): job for job in left}
                for future in as_completed(futures):
                    future.result()
                    done(futures[future])
        except BrokenProcessPool:
            suspects = [job for job in left if job.mark.exists()]
            if not suspects:
                raise CPruneError("the processes that were to search end before they begin: is there memory enough?") from None
            for job in suspects:
                _try_alone(job)
                done(job)


def _try_alone(job: _Job) -> None:
    job.mark.unlink(missing_ok=True)
    try:
        with _pool(1) as pool:
            pool.submit(_work, job).result()
    except BrokenProcessPool:
        job.mark.unlink(missing_ok=True)
        _give_up(job)


def _give_up(job: _Job) -> None:
    if job.is_training:
        raise CPruneError(f"the process that trained a policy ({job.name} for {job.case.problem}) was killed twice: is there memory enough?")
    _write(row_path(job.campaign.folder, job.case, job.name), _failed(job, "its process was killed, twice"))


@contextlib.contextmanager
def _pool(n_jobs: int | None) -> Iterator[ProcessPoolExecutor]:
    """Spawned: a forked process would inherit torch's threads."""
    pool = ProcessPoolExecutor(n_jobs or os.cpu_count(), mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _on_ray(jobs: Sequence[_Job], n_jobs: int | None, advance: Callable[[int], None]) -> None:
    """Each on one core of a Ray cluster, which must see the folder: the one that RAY_ADDRESS names, or one started here."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--backend ray wants Ray: pip install 'cprune-rl[ray]'") from error
    if not ray.is_initialized():
        ray.init(num_cpus=None if "RAY_ADDRESS" in os.environ else n_jobs, include_dashboard=False, log_to_driver=False, configure_logging=False)
    task = ray.remote(num_cpus=1, max_retries=1)(_work)
    waiting = {task.remote(job): job for job in jobs}
    for done in range(1, len(jobs) + 1):
        (reference,), _ = ray.wait(list(waiting), num_returns=1)
        job = waiting.pop(reference)
        try:
            ray.get(reference)
        except ray.exceptions.RayError:  # its worker or its node was lost, twice
            _give_up(job)
        advance(done)


BACKENDS: dict[str, Callable[[Sequence[_Job], int | None, Callable[[int], None]], None]] = {"processes": _in_processes, "ray": _on_ray}


def _check_folder(campaign: Campaign) -> None:
    """Rows of one folder are on equal terms."""
    file = campaign.folder / "comparison.json"
    known = _read_json(file)
    terms = json.loads(json.dumps(campaign.terms))
    if known is not None and known != terms:
        different = ", ".join(f"{name} {known.get(name)!r} there, {terms.get(name)!r} now" for name in {**known, **terms} if known.get(name) != terms.get(name))
        raise ConfigError(f"{campaign.folder} holds a comparison on other terms ({different}): give another --out, or remove it")
    campaign.folder.mkdir(parents=True, exist_ok=True)
    file.write_text(dump_json(terms))


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None


@functools.cache
def _code() -> str:
    """Version of this package, and a hash of its sources: rows of one comparison are of one code."""
    root = Path(cprune_rl.__file__).parent
    sources = sorted((path.relative_to(root).as_posix(), path.read_bytes()) for path in (*root.glob("**/*.py"), *(p for name in _LINKED for p in (root / name).glob("**/*.py"))))
    digest = hashlib.sha256(repr([(name, hashlib.sha256(text).hexdigest()) for name, text in dict(sources).items()]).encode()).hexdigest()
    return f"{cprune_rl.__version__}, sources {digest[:12]}"


@functools.cache
def _versions() -> dict[str, str]:
    return {str(k): str(v) for k, v in describe_system()["packages"].items()}
