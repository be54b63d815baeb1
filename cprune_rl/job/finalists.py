"""From accepted plans to a finished network: fine-tune, final gate, back off, compile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cprune_rl.accuracy.gate import Verdict, judge
from cprune_rl.accuracy.training import evaluate, recalibrate, right_answers
from cprune_rl.agents.searcher import AcceptedPlan, SearchResult
from cprune_rl.envs.problem import resolve_floor
from cprune_rl.job.bench import Workbench
from cprune_rl.job.networks import trained
from cprune_rl.job.progress import Reporter
from cprune_rl.pruning.weights import network_hash
from cprune_rl.table import Plan

__all__ = ["FinalGate", "Finalist", "finish"]


@dataclass(frozen=True)
class Finalist:
    """A finished network.

    Attributes:
        method: the search it came from.
        plan: what it keeps.
        model: fine-tuned.
        verdict: of the final gate.
        n_finetuned: plans that were fine-tuned in full until one held.
    """

    method: str
    plan: Plan
    model: nn.Module
    verdict: Verdict
    n_finetuned: int


class Gate(Protocol):
    """What `finish` asks: a fine-tuned network, and whether it holds the floor."""

    def finetune(self, plan: Plan, reporter: Reporter, what: str) -> nn.Module:
        """The plan's network after the full fine-tune; the dense plan is the base network itself."""

    def judge(self, model: nn.Module, n_looks: int) -> Verdict:
        """Whether a finished network holds the floor, where the search may ask `n_looks` times."""


class FinalGate:
    """Fine-tunes plans in full and judges them against the dense network on the gate images.

    Args:
        bench: the run's parts.
    """

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._dense_correct = self.correct(bench.model)
        self.floor = resolve_floor(bench.config.floor, float(self._dense_correct.mean()), may_exceed=True)

    def correct(self, model: nn.Module) -> NDArray[np.bool_]:
        """Which gate images a network gets right."""
        return right_answers(model, self._bench.data.gate)

    def judge(self, model: nn.Module, n_looks: int) -> Verdict:
        """Whether a finished network holds the floor, where the search may ask `n_looks` times."""
        config = self._bench.config
        return judge(self._dense_correct, self.correct(model), self.floor, n_looks, 1 - config.confidence, is_absolute=config.floor > 0, is_dense=model is self._bench.model)

    def finetune(self, plan: Plan, reporter: Reporter, what: str) -> nn.Module:
        """The plan's network after the full fine-tune; the dense plan is the base network itself."""
        bench = self._bench
        if plan == bench.network.dense:
            return bench.model
        model = bench.subject.pruned(plan)
        identity = f"plan:{network_hash(model)}:of:{bench.subject.weights}"
        recalibrate(model, bench.data.train)
        with reporter.part(what, bench.finetune_settings.n_steps) as advance:
            finished = trained(model, identity, bench.data, bench.finetune_settings, lambda step, _: advance(step), bench.model)
        bench.refit(plan, evaluate(finished, bench.data.search))
        return finished


def finish(result: SearchResult, gate: Gate, reporter: Reporter) -> Finalist:
    """The fastest of a search's accepted plans that holds the floor after fine-tuning.

    The fastest is tried first; where it fails, the search backs off along its own accepted plans by
    bisection, towards the dense network, which always holds.

    Args:
        result: of the search.
        gate: the final gate.
        reporter: told what is going on.
    """
    ladder = _ladder(result.accepted)
    n_looks = 1 + (len(ladder) - 1).bit_length()  # the fastest, then a bisection
    n_finetuned = 0
    best: tuple[Plan, nn.Module, Verdict] | None = None
    low, high = 0, len(ladder)  # plans up to `low` hold or are not needed; those from `high` fail
    at = len(ladder) - 1
    while at > low or best is None:
        plan = ladder[at].plan
        model = gate.finetune(plan, reporter, f"Fine-tuning plan {at} of {len(ladder) - 1} ({result.method})")
        n_finetuned += at > 0
        verdict = gate.judge(model, n_looks)
        if verdict.passed or at == 0:
            best, low = (plan, model, verdict), at
        else:
            reporter.say(f"    plan {at}: the gate's lower bound {verdict.lower_bound:.4f} is below the floor {verdict.floor:.4f}; backing off")
            high = at
        if high - low <= 1 and best is not None:
            break
        at = (low + high) // 2
    return Finalist(result.method, *best, n_finetuned)


def _ladder(accepted: Sequence[AcceptedPlan]) -> list[AcceptedPlan]:
    """Accepted plans from the dense one to the fastest, each faster than the one before."""
    ladder: list[AcceptedPlan] = []
    for plan in accepted:
        if not ladder or plan.latency_s < ladder[-1].latency_s:
            ladder.append(plan)
    return ladder
