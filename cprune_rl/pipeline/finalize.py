"""From accepted plans to a finished network:

fine-tune, final gate, back off, compile, and the device's word on which is fastest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cprune_rl.accuracy.final_gate import GateCriterion, Verdict, judge
from cprune_rl.accuracy.training import correct_predictions, evaluate, recalibrate
from cprune_rl.agents.core.pareto import back_off, max_checks, pareto_front
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchResult
from cprune_rl.envs.problem import resolve_floor
from cprune_rl.models.weights import network_hash
from cprune_rl.pipeline.backends.base import Comparison, FinishedNetwork
from cprune_rl.pipeline.context import RunContext
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.trained_cache import train_or_load
from cprune_rl.pipeline.trained_model import GRADUAL_PRUNING, gradual_pruning
from cprune_rl.pruning.scheme_masks import bake_masks

__all__ = ["FinalGate", "Finalist", "compare_finalists", "finalize", "select_fastest"]


@dataclass(frozen=True)
class Finalist:
    """A finished network.

    Attributes:
        method: the search it came from.
        plan: what it keeps.
        model: fine-tuned.
        verdict: of the final gate.
        n_finetuned: plans that were fine-tuned in full until one held.
        alternatives: networks of other searches that are this one's too: it accepted their plans,
            and they hold its floor.
    """

    method: str
    plan: Plan
    model: nn.Module
    verdict: Verdict
    n_finetuned: int
    alternatives: tuple[Finalist, ...] = ()


class Gate(Protocol):
    """What `finalize` asks: a fine-tuned network, and whether it holds the floor."""

    def finetune(self, plan: Plan, progress: ProgressLog, what: str) -> nn.Module:
        """The plan's network after the full fine-tune;

        the dense plan is the base network itself.
        """

    def judge(self, model: nn.Module, n_looks: int) -> Verdict:
        """Whether a finished network holds the floor, where the search may ask `n_looks` times."""


class FinalGate:
    """Fine-tunes plans in full and judges them against the dense network on the gate images.

    Args:
        context: the run's parts.
    """

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._dense_correct = self.correct(context.model)
        self.floor = resolve_floor(
            context.config.floor, float(self._dense_correct.mean()), may_exceed=True
        )

    def correct(self, model: nn.Module) -> NDArray[np.bool_]:
        """Which gate images a network gets right."""
        return correct_predictions(model, self._context.data.gate)

    def judge(self, model: nn.Module, n_looks: int) -> Verdict:
        """Whether a finished network holds the floor, where the search may ask `n_looks` times."""
        config = self._context.config
        criterion = GateCriterion(
            floor=self.floor,
            is_absolute=config.floor > 0,
            n_looks=n_looks,
            risk=1 - config.confidence,
        )
        return judge(
            self._dense_correct,
            self.correct(model),
            criterion,
            is_dense=model is self._context.model,
        )

    def finetune(self, plan: Plan, progress: ProgressLog, what: str) -> nn.Module:
        """The plan's network after the full fine-tune;

        the dense plan is the base network itself.
        """
        context = self._context
        if plan == context.network.dense:
            return context.model
        model = context.trained_model.pruned(plan)
        identity = f"plan:{network_hash(model)}:of:{context.trained_model.weights}"
        n_steps = context.finetune_settings.n_steps
        prune_further = gradual_pruning(model, plan, n_steps)
        if prune_further is not None:
            identity += f":{plan.schemes}:{GRADUAL_PRUNING}"
        recalibrate(model, context.data.train)
        with progress.track(what, n_steps) as advance:

            def on_step(step: int, loss: float) -> None:
                advance(step)
                if prune_further is not None:
                    prune_further(step, loss)

            finished = bake_masks(
                train_or_load(
                    model, identity, context.data, context.finetune_settings, on_step, context.model
                )
            )
        context.refit(plan, evaluate(finished, context.data.search))
        return finished


def finalize(
    result: SearchResult, gate: Gate, progress: ProgressLog, finished: Sequence[Finalist] = ()
) -> Finalist:
    """A fast one of a search's accepted plans that holds the floor after fine-tuning (see
    `agents.back_off`).

    Args:
        result: of the search.
        gate: the final gate.
        progress: told what is going on.
        finished: networks of other searches for the same floor. A plan among them that this search
            accepted as well is its own: so a search
            that includes another one's plans ends no slower, whatever plans are tried; by the
            estimate here, on the device by `select_fastest`.
    """
    front = pareto_front(result.accepted)
    judged: dict[int, tuple[nn.Module, Verdict]] = {}

    def holds(at: int) -> bool:
        model = gate.finetune(
            front[at].plan, progress, f"Fine-tuning plan {at} of {len(front) - 1} ({result.method})"
        )
        judged[at] = model, gate.judge(model, max_checks(len(front)))
        verdict = judged[at][1]
        if not verdict.passed and at > 0:
            progress.print(
                f"    plan {at}: the gate's lower bound {verdict.lower_bound:.4f} is below the floor {verdict.floor:.4f}; backing off"
            )
        return verdict.passed

    at = back_off(front, holds)
    n_finetuned = len(judged)
    if at == 0:
        holds(at)
        if n_finetuned:
            progress.print(
                "    the gate refused whatever was tried: a --margin has the search keep some accuracy above the floor, --finetune-steps loses less"
            )
    own = Finalist(result.method, front[at].plan, *judged[at], n_finetuned)
    latency_s = {a.plan: a.latency_s for a in result.accepted}
    also = [f for f in finished if f.verdict.passed and f.plan in latency_s and f.plan != own.plan]
    verdicts = [
        gate.judge(f.model, max_checks(len(front)) + len(also)) for f in also
    ]  # these are further looks of this search
    holding = [
        own,
        *(
            Finalist(result.method, f.plan, f.model, verdict, n_finetuned)
            for f, verdict in zip(also, verdicts, strict=True)
            if verdict.passed
        ),
    ]
    first, *others = sorted(holding, key=lambda f: latency_s[f.plan])
    return replace(first, alternatives=tuple(others))


def select_fastest(
    finalists: Mapping[str, Finalist], comparison: Comparison
) -> dict[str, Finalist]:
    """Each search's finalist, or the alternative that was timed faster by more than the noise
    floor.

    An estimate adds up tasks that were timed one by one, so it may order two plans otherwise than
    the whole networks' times do.

    Args:
        finalists: by name.
        comparison: of their networks.
    """
    timed_ms: dict[Plan, float] = {}
    for name, finalist in finalists.items():
        if name in comparison.latency_ms:
            timed_ms[finalist.plan] = min(
                comparison.latency_ms[name].value, timed_ms.get(finalist.plan, math.inf)
            )
    chosen = {}
    for name, finalist in finalists.items():
        known = [f for f in (finalist, *finalist.alternatives) if f.plan in timed_ms]
        best = min(known, key=lambda f: timed_ms[f.plan], default=finalist)
        is_faster = best is not finalist and timed_ms[finalist.plan] > timed_ms[best.plan] * (
            1 + (comparison.noise_floor or 0.0)
        )
        chosen[name] = best if is_faster else finalist
    return chosen


def compare_finalists(
    context: RunContext, finalists: Mapping[str, Finalist], folder: Path, progress: ProgressLog
) -> tuple[dict[str, Finalist], dict[str, FinishedNetwork], Comparison]:
    """Compares the finished networks with the dense one;

    where that has a search take another network of its own, all are timed anew.

    The second timing is the one that counts: what was chosen for being fast in the first would look
    too fast in it.

    Args:
        context: the run's parts.
        finalists: by name.
        folder: where the networks are built.
        progress: told what is going on.

    Returns:
        The finalists, all networks, the dense one first, and how fast they are; by name.
    """

    def compare(of: Mapping[str, Finalist]) -> tuple[dict[str, FinishedNetwork], Comparison]:
        networks = {
            "dense": FinishedNetwork(context.network.dense, context.model),
            **{name: FinishedNetwork(f.plan, f.model) for name, f in of.items()},
        }
        return networks, context.backend.compare(networks, folder, progress)

    networks, comparison = compare(finalists)
    chosen = select_fastest(finalists, comparison)
    changed = [name for name, finalist in chosen.items() if finalist.plan != finalists[name].plan]
    if changed:
        progress.print(
            f"    On the device a network of another search, which {' and '.join(changed)} accepted too, is faster: it is taken, and all are timed again"
        )
        networks, comparison = compare(chosen)
    return chosen, networks, comparison
