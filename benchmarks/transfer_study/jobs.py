"""One method on one replay: what it gains, what it costs, and how both grow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from cprune_rl.agents.core.back_off import fastest_passing
from cprune_rl.agents.core.searcher import Budget, Searcher
from cprune_rl.agents.planner.agent import PruningAgent
from cprune_rl.agents.planner.surrogate import SurrogateSearch, SurrogateSettings
from cprune_rl.agents.registry import make_searcher
from cprune_rl.agents.rl.policy import RowPolicy, load_policy, spaces
from cprune_rl.agents.rl.rollout import PolicyRollOut
from cprune_rl.core.search_result import AcceptedPlan, SearchStep
from cprune_rl.envs.actions.channel_actions import ChannelActions
from cprune_rl.envs.problems.replay import Replay, ReplaySettings, open_replay

__all__ = ["MAX_ROWS", "Case", "Job", "Losses", "run_job"]

Losses = Literal["drawn", "recorded"]
MAX_ROWS = 32
_REFERENCE = SurrogateSettings(
    turns=1,
    rounds=8,
    first_steps=6000,
    steps=2000,
    margin=1.0,
    fallback_shares=(),
    patience=8,
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One replay: a recording, a floor, a seed of its true losses, and where those come from."""

    name: str
    floor: float
    seed: int
    losses: Losses = "drawn"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One method on one case.

    Attributes:
        case: what is searched.
        label: of the method, in tables.
        method: of the registry, or "roll-out", "prior", "agent, untrained", "reference".
        policy: of the methods that have one.
        training: which of several trainings it is of.
        is_device_hidden: whether the policy is to see no figures of the device.
    """

    case: Case
    label: str
    method: str
    policy: Path | None = None
    training: int = 0
    is_device_hidden: bool = False


def run_job(job: Job) -> dict[str, Any]:
    """Run one method on one case: its gain, its costs, and how they grew."""
    torch.set_num_threads(1)
    case = job.case
    row = {**asdict(case), "method": job.label, "training": job.training}
    if job.method == "reference":
        return {**row, "log_gain": _reference_gain(case)}
    settings = ReplaySettings(
        seed=case.seed,
        losses=case.losses,
        warm_start=job.method != "cprune",
        is_device_hidden=job.is_device_hidden,
    )
    replay = open_replay(case.name, case.floor, settings)
    oracle = replay.problem.oracle.spending
    latency = replay.problem.latency.spending
    spent: list[tuple[int, int]] = []

    def note(step: SearchStep) -> None:
        if step.accepted:
            spent.append((oracle.accuracy_evaluations, latency.cached_trials))

    search = _make_searcher(job).search(replay.problem, Budget(), note)
    assert all(a.accuracy >= replay.problem.floor for a in search.accepted)
    curve = [(0, replay.n_tasks, 0.0)]
    for n_accepted, (evaluations, tasks) in enumerate(spent, start=2):
        gain, _ = _kept_gain(replay, search.accepted[:n_accepted])
        curve.append((evaluations, tasks, gain))
    gain, n_finetuned = _kept_gain(replay, search.accepted)
    curve.append((oracle.accuracy_evaluations, latency.cached_trials, gain))
    return {
        **row,
        "log_gain": gain,
        "accuracy_evaluations": oracle.accuracy_evaluations,
        "tasks": latency.cached_trials,
        "full_finetunes": n_finetuned,
        "curve": curve,
    }


def _reference_gain(case: Case) -> float:
    """Log gain of a long search that knows every latency and every loss."""
    settings = ReplaySettings(seed=case.seed, losses=case.losses, perfect_information=True)
    problem = open_replay(case.name, case.floor, settings).problem
    search = SurrogateSearch(_REFERENCE, seed=case.seed).search(problem, Budget())
    return math.log(search.accepted[0].latency_s / search.best.latency_s)


def _make_searcher(job: Job) -> Searcher:
    if job.method == "prior":
        return PolicyRollOut(_untrained_policy())
    if job.method == "agent, untrained":
        return PruningAgent(_untrained_policy())
    policy = None if job.policy is None else load_policy(job.policy, MAX_ROWS)
    if job.method == "roll-out":
        assert policy is not None
        return PolicyRollOut(policy)
    return make_searcher(job.method, seed=0, policy=policy)


def _untrained_policy() -> RowPolicy:
    """The analytic prior alone."""
    torch.manual_seed(0)
    policy = RowPolicy(*spaces(ChannelActions(), MAX_ROWS), lambda _: 0.0)
    torch.nn.init.zeros_(policy.action_net.row.weight)
    policy.set_training_mode(False)
    return policy


def _kept_gain(replay: Replay, accepted: Sequence[AcceptedPlan]) -> tuple[float, int]:
    """Log gain of the plan that a run would keep, and the full fine-tunes that it takes to know."""
    kept, n_finetuned = fastest_passing(accepted, replay.passes)
    return math.log(accepted[0].latency_s / kept.latency_s), n_finetuned
