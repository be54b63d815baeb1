"""Turns the accepted plans of searches into finished networks.

Plans are fine-tuned in full and judged by the final gate until one holds; then the device decides
which is the fastest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from torch import nn

from cprune_rl.accuracy.calibration import CalibrationPoint
from cprune_rl.accuracy.final_gate import GateCriterion, Verdict, judge
from cprune_rl.accuracy.trainer import accuracy_on
from cprune_rl.accuracy.training import TrainSettings
from cprune_rl.agents.core.back_off import back_off, fastest_verified, max_checks, pareto_front
from cprune_rl.core.floor import resolve_floor
from cprune_rl.core.gate_model import GateModel
from cprune_rl.core.intervals import Counts
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchResult
from cprune_rl.pipeline.backends.base import Comparison, FinishedNetwork
from cprune_rl.pipeline.context import RunContext
from cprune_rl.pipeline.full_finetune import finetune_in_full
from cprune_rl.pipeline.progress import ProgressLog

__all__ = [
    "ComparedFinalists",
    "FinalGate",
    "Finalist",
    "FinetunedPlan",
    "GateSettings",
    "compare_finalists",
    "finalize",
    "select_fastest",
]


_N_CHECKS = 3  # of a search that backs off, as a rule


@dataclass(frozen=True)
class FinetunedPlan:
    """A plan's network after the full fine-tune.

    Attributes:
        point: what the fine-tune says of the oracle; None of the dense plan.
        train_s: seconds that it took; 0 where the cache had it before the run.
    """

    model: nn.Module
    point: CalibrationPoint | None = None
    train_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A finished network.

    Attributes:
        method: the search it came from.
        model: fine-tuned.
        verdict: of the final gate.
        points: what the search's full fine-tunes say of the oracle.
        n_finetuned: plans that were fine-tuned in full until one held.
        finetune_s: seconds of that, where it came after the search; 0 where it was part of it.
        alternatives: networks of other searches whose plans this search accepted too, and which
            hold its floor.
    """

    method: str
    plan: Plan
    model: nn.Module
    verdict: Verdict
    points: tuple[CalibrationPoint, ...]
    n_finetuned: int
    finetune_s: float = 0.0
    alternatives: tuple[Finalist, ...] = ()


class Gate(Protocol):
    """What `finalize` asks: a fine-tuned network, and whether it holds the floor."""

    def finetune(self, plan: Plan, progress: ProgressLog, what: str) -> FinetunedPlan:
        """Fine-tune a plan in full; the dense plan's is the network that the floor means."""

    def judge(self, model: nn.Module, n_checks: int) -> Verdict:
        """Decide whether a network holds the floor, where a search may ask `n_checks` times."""


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """What the final gate asks for.

    Attributes:
        floor: as asked for, see `resolve_floor`.
        margin: accuracy that searches keep above it, beside the gate's own.
        risk: that a network below the floor passes, in (0, 1).
        finetune: the full fine-tune.
    """

    floor: float
    margin: float
    risk: float
    finetune: TrainSettings


class FinalGate:
    """Fine-tunes plans in full, and compares them with a dense network on the gate images.

    That is the one which the floor is counted from, see `DenseNetworks`.
    """

    def __init__(self, settings: GateSettings, context: RunContext) -> None:
        self._settings = settings
        self._context = context
        self._trained_model = context.trained_model
        self.trainer = context.trained_model.trainer
        self._dense_correct = self.trainer.judge(context.dense.reference, "gate")
        dense_accuracy = float(self._dense_correct.mean())
        self.floor = resolve_floor(settings.floor, dense_accuracy, may_exceed=True)
        self.model = GateModel(
            n_images=len(self._dense_correct),
            dense_accuracy=context.dense.accuracy,
            floor=context.search_floor(settings.floor, settings.margin),
            risk=settings.risk,
            is_absolute=settings.floor > 0,
            is_paired=not isinstance(self._dense_correct, Counts),
        )

    @property
    def search_margin(self) -> float:
        """The accuracy above the floor that a search aims at which does not ask the gate itself.

        It is what the gate will ask for. No more than half of the slack goes into it: a gate with
        so few images seldom lets a network pass, and a search that has no room finds none.
        """
        model = self.model
        return min(model.margin(model.slack, _N_CHECKS), model.slack / 2)

    def search_error(self, accuracy: float) -> float:
        """Give the standard error of a loss that was found on the search images.

        Args:
            accuracy: of the pruned network on them.
        """
        loss = self.model.dense_accuracy - accuracy
        return self.model.loss_error(loss, self.trainer.n_images["search"])

    def judge(self, model: nn.Module, n_checks: int) -> Verdict:
        """Decide whether a network holds the floor, where a search may ask `n_checks` times."""
        criterion = GateCriterion(
            floor=self.floor,
            is_absolute=self._settings.floor > 0,
            n_looks=n_checks,
            risk=self._settings.risk,
        )
        correct = self.trainer.judge(model, "gate")
        is_dense = model is self._context.dense.reference
        return judge(self._dense_correct, correct, criterion, is_dense=is_dense)

    def finetune(self, plan: Plan, progress: ProgressLog, what: str) -> FinetunedPlan:
        """Fine-tune a plan in full; the dense plan's is the network that the floor means."""
        dense = self._context.dense
        if plan == self._context.network.dense:
            return FinetunedPlan(dense.reference)
        finished, train_s = self.train(plan, progress, what)
        full_loss = dense.accuracy - accuracy_on(self.trainer, finished, "search")
        cheap_loss = self._context.oracle.losses([plan])[0]
        return FinetunedPlan(finished, CalibrationPoint(plan, cheap_loss, full_loss), train_s)

    def train(self, plan: Plan, progress: ProgressLog, what: str) -> tuple[nn.Module, float]:
        """Fine-tune a plan's network in full; the dense plan's too, as a pruned one's.

        Returns:
            The network, and the seconds of the training; 0 where the cache had it before the run.
        """
        settings = self._settings.finetune
        finished = finetune_in_full(self._trained_model, plan, settings, progress, what)
        return finished.model, finished.cached.train_s(self._context.oracle.since)


def finalize(
    result: SearchResult,
    gate: Gate,
    progress: ProgressLog,
    finished: Sequence[Finalist] = (),
    most: int | None = None,
) -> Finalist:
    """Fine-tune accepted plans of a search in full until a fast one holds the floor.

    A search that asked the gate itself has its plan already.

    Args:
        finished: networks of other searches for the same floor. Those whose plans this search
            accepted too are its own: a search that includes another one's plans ends no slower. The
            estimate chooses among them here, the device in `select_fastest`.
        most: full fine-tunes that the budget pays for; None is no limit.
    """
    if result.looks:
        own = _verified(result, gate, progress)
    else:
        own = _back_off(result, gate, progress, most)
    latency_s = {accepted.plan: accepted.latency_s for accepted in result.accepted}
    also = [f for f in finished if f.verdict.passed and f.plan in latency_s and f.plan != own.plan]
    n_checks = own.verdict.n_looks + len(also)  # each of them is one more check of this search
    holding = [own]
    for other in also:
        verdict = gate.judge(other.model, n_checks)
        if verdict.passed:
            holding.append(replace(own, plan=other.plan, model=other.model, verdict=verdict))
    first, *others = sorted(holding, key=lambda finalist: latency_s[finalist.plan])
    return replace(first, alternatives=tuple(others))


def _verified(result: SearchResult, gate: Gate, progress: ProgressLog) -> Finalist:
    """Give the fastest network that passed the gate within its search; else the dense one."""
    n_looks = max(step.n_looks for step in result.looks)
    plan = fastest_verified(result).plan
    what = f"Reading the verified network ({result.method})"
    finetuned = gate.finetune(plan, progress, what)
    return Finalist(
        method=result.method,
        plan=plan,
        model=finetuned.model,
        verdict=gate.judge(finetuned.model, n_looks),
        points=() if finetuned.point is None else (finetuned.point,),
        n_finetuned=len(result.looks),
    )


def _back_off(
    result: SearchResult, gate: Gate, progress: ProgressLog, most: int | None
) -> Finalist:
    """Fine-tune plans of the Pareto front until one holds; the dense network always does."""
    front = pareto_front(result.accepted)
    finetuned: dict[int, FinetunedPlan] = {}
    verdicts: dict[int, Verdict] = {}
    n_checks = max(max_checks(len(front), most), 1)

    def holds(at: int) -> bool:
        what = f"Fine-tuning plan {at} of {len(front) - 1} ({result.method})"
        finetuned[at] = gate.finetune(front[at].plan, progress, what)
        verdict = gate.judge(finetuned[at].model, n_checks)
        verdicts[at] = verdict
        if not verdict.passed and at > 0:
            progress.print(
                f"    plan {at}: the gate's lower bound {verdict.lower_bound:.4f} is below "
                f"the floor {verdict.floor:.4f}; backing off"
            )
        return verdict.passed

    at = back_off(front, holds, most)
    n_finetuned = len(finetuned)
    if at == 0:
        holds(at)
        if n_finetuned:
            progress.print(
                "    the gate refused whatever was tried: a --margin has the search keep some "
                "accuracy above the floor, --finetune-steps loses less"
            )
    points = [plan.point for plan in finetuned.values() if plan.point is not None]
    return Finalist(
        method=result.method,
        plan=front[at].plan,
        model=finetuned[at].model,
        verdict=verdicts[at],
        points=tuple(points),
        n_finetuned=n_finetuned,
        finetune_s=sum(plan.train_s for plan in finetuned.values()),
    )


def select_fastest(
    finalists: Mapping[str, Finalist], comparison: Comparison
) -> dict[str, Finalist]:
    """Switch a search to an alternative that was timed faster by more than the noise floor.

    An estimate adds up tasks that were timed one by one, so it may order two plans otherwise than
    the times of whole networks do.

    Args:
        finalists: by name.
        comparison: of their networks.
    """
    timed_ms: dict[Plan, float] = {}
    for name, finalist in finalists.items():
        if name in comparison.latency_ms:
            before = timed_ms.get(finalist.plan, math.inf)
            timed_ms[finalist.plan] = min(comparison.latency_ms[name].value, before)
    noise = 1 + (comparison.noise_floor or 0.0)
    selected = {}
    for name, finalist in finalists.items():
        timed = [f for f in (finalist, *finalist.alternatives) if f.plan in timed_ms]
        best = min(timed, key=lambda f: timed_ms[f.plan], default=finalist)
        is_faster = best is not finalist and timed_ms[finalist.plan] > timed_ms[best.plan] * noise
        selected[name] = best if is_faster else finalist
    return selected


@dataclass(frozen=True)
class ComparedFinalists:
    """Finished networks by name, and how fast they are beside the dense one."""

    finalists: Mapping[str, Finalist]
    comparison: Comparison


def compare_finalists(
    context: RunContext, finalists: Mapping[str, Finalist], folder: Path, progress: ProgressLog
) -> ComparedFinalists:
    """Time every finished network against the dense one.

    If another method's network is faster for a method that also accepted it, switch to it and time
    all again: the timing that selects a winner must not be the one that is reported.

    Args:
        finalists: by name.
        folder: where the networks are built.
    """

    def compare(of: Mapping[str, Finalist]) -> Comparison:
        networks = {"dense": FinishedNetwork(context.network.dense, context.dense.reference)}
        networks |= {name: FinishedNetwork(f.plan, f.model) for name, f in of.items()}
        return context.backend.compare(networks, folder, progress)

    comparison = compare(finalists)
    selected = select_fastest(finalists, comparison)
    changed = [name for name, f in selected.items() if f.plan != finalists[name].plan]
    if changed:
        progress.print(
            f"    On the device a network of another search, which {' and '.join(changed)} "
            "accepted too, is faster: it is taken, and all are timed again"
        )
        comparison = compare(selected)
    return ComparedFinalists(selected, comparison)
