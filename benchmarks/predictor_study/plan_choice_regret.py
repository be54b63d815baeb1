"""The regret of choosing by predicted latency among plans that look equally accurate.

The plans consist of measured tasks, so their true latencies are measured too. A recording holds
tasks, not plans; recombined, the tasks of a hundred visited plans make many more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import TaskCost
from cprune_rl.core.workload import Workload

__all__ = ["PlanChoiceRegret", "evaluate_plan_choice", "measured_plans"]

_N_PLANS = 300
_N_DRAWS = 300
_N_CANDIDATES = 12
# Candidates are called equally accurate if their predicted losses differ by less than this share.
_NEAR_LOSS = 0.15
_PATIENCE = 200  # dead ends of one attempt: then it starts anew with other widths

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def measured_plans(
    network: Network, known: Sequence[Workload], count: int, rng: np.random.Generator
) -> list[Plan]:
    """Draws different plans whose every task is known.

    Args:
        network: what the plans belong to.
        known: measured tasks.
        count: plans wanted.
        rng: draws widths.

    Returns:
        At most `count` plans, the dense one first where its tasks are known.
    """
    search = _PlanSearch(network, {w.key: w for w in known})
    plans = dict.fromkeys([network.dense] if search.knows(network.dense) else [])
    for _ in range(4 * count):
        if len(plans) >= count:
            break
        plan = search.draw(rng)
        if plan is not None:
            plans.setdefault(plan)
    return list(plans)


class _PlanSearch:
    """Backtracks over widths: sets one group after another so that all tasks decided are known."""

    def __init__(self, network: Network, known: Mapping[str, Workload]) -> None:
        self._network = network
        self._known = known
        # By group, the subgraphs whose shape is decided with it.
        self._decided: list[list[int]] = [[] for _ in network.groups]
        for subgraph, touched in enumerate(network.touched_groups):
            if touched:
                self._decided[max(touched)].append(subgraph)
        self._widths = [self._candidates(group) for group in range(len(network.groups))]
        self._left = 0

    def knows(self, plan: Plan) -> bool:
        """Whether every task of a plan is known."""
        return all(w.key in self._known for w in self._network.workloads(plan))

    def draw(self, rng: np.random.Generator) -> Plan | None:
        """A random plan, or None where this attempt came to none."""
        self._left = _PATIENCE
        return next(self._plans((), rng), None)

    def _plans(self, chosen: tuple[int, ...], rng: np.random.Generator) -> Iterator[Plan]:
        group = len(chosen)
        if group == len(self._widths):
            yield Plan(chosen)
            return
        for width in rng.permutation(self._widths[group]):
            widths = (*chosen, int(width))
            if self._left <= 0:
                return
            if self._fits(group, widths):
                yield from self._plans(widths, rng)
                self._left -= 1

    def _fits(self, group: int, widths: tuple[int, ...]) -> bool:
        plan = Plan(widths + self._network.dense.widths[len(widths) :])
        workloads = self._network.workloads_of(self._decided[group], plan)
        return all(w.key in self._known for w in workloads)

    def _candidates(self, group: int) -> list[int]:
        """Widths at which each subgraph of the group has a known task with as many channels."""
        name = self._network.groups[group].name
        legal = range(self._network.groups[group].minimum, self._network.groups[group].channels + 1)
        widths = set(legal)
        for subgraph in self._network.subgraphs:
            same = [w for w in self._known.values() if w.family == subgraph.template.family]
            for extent, lengths in (
                (subgraph.channels_in, {w.channels_in for w in same}),
                (subgraph.channels_out, {w.channels_out for w in same}),
            ):
                if [term for term, _ in extent.terms] == [name]:
                    widths &= {width for width in legal if extent.at({name: width}) in lengths}
        return sorted(widths)


@dataclass(frozen=True, kw_only=True)
class PlanChoiceRegret:
    """How well predictions choose among plans; errors and regrets are shares.

    A regret is the latency of the chosen plan over that of the best candidate, less 1.

    Attributes:
        n_plans: plans made of measured tasks.
        plan_error: median error of a plan's sum.
        regret: median over draws of candidates.
        p90_regret: its 90th percentile.
        macs_regret: median where multiply-accumulates choose: what a predictor has to beat.
        random_regret: median where chance chooses: what is at stake.
    """

    n_plans: int
    plan_error: float
    regret: float
    p90_regret: float
    macs_regret: float
    random_regret: float


def evaluate_plan_choice(
    network: Network,
    measured: Sequence[tuple[Workload, TaskCost]],
    estimates_s: Mapping[str, float],
    loss_model: LossModel,
    *,
    seed: int = 0,
) -> PlanChoiceRegret | None:
    """Evaluates predictions by the plans they choose.

    Args:
        network: what the plans belong to.
        measured: its measured tasks.
        estimates_s: what the choices go by: seconds of each task, by key.
        loss_model: candidates have about the same loss by it.
        seed: of plans and draws.

    Returns:
        None where too few plans can be made of measured tasks.
    """
    rng = np.random.default_rng(seed)
    tasks = [workload for workload, _ in measured]
    plans = measured_plans(network, tasks, count=_N_PLANS, rng=rng)
    if len(plans) < _N_CANDIDATES:
        return None
    true = _sums(network, plans, {w.key: cost.latency_s for w, cost in measured})
    predicted = _sums(network, plans, estimates_s)
    kept = np.array([p.widths for p in plans]) / np.array(network.dense.widths)
    draws = _draws(np.asarray(loss_model.group_losses(kept).sum(axis=-1)), rng)
    by_prediction = _regrets(true, predicted, draws)
    by_macs = _regrets(true, np.array([network.macs(p) for p in plans]), draws)
    by_chance = _regrets(true, rng.random(len(plans)), draws)
    return PlanChoiceRegret(
        n_plans=len(plans),
        plan_error=float(np.median(np.abs(predicted / true - 1))),
        regret=float(np.median(by_prediction)),
        p90_regret=float(np.quantile(by_prediction, 0.9)),
        macs_regret=float(np.median(by_macs)),
        random_regret=float(np.median(by_chance)),
    )


def _sums(network: Network, plans: Sequence[Plan], seconds: Mapping[str, float]) -> Floats:
    """Latency of each plan by the latencies of its tasks."""
    sums = []
    for plan in plans:
        sums.append(sum(seconds[w.key] for w in network.workloads(plan)))
    return np.array(sums)


def _regrets(true: Floats, chosen_by: Floats, draws: Sequence[Ints]) -> Floats:
    """For each draw the regret of the candidate with the least `chosen_by`."""
    return np.array([true[d][np.argmin(chosen_by[d])] / true[d].min() - 1 for d in draws])


def _draws(loss: Floats, rng: np.random.Generator) -> list[Ints]:
    """Candidates that look equally accurate: each time some around a plan drawn at random."""
    draws = []
    for at in rng.integers(len(loss), size=_N_DRAWS):
        near = np.argsort(np.abs(loss - loss[at]), kind="stable")[: 3 * _N_CANDIDATES]
        near = near[np.abs(loss[near] - loss[at]) <= _NEAR_LOSS * max(loss[at], 1e-6)]
        if len(near) >= 2:
            draws.append(rng.choice(near, min(_N_CANDIDATES, len(near)), replace=False))
    return draws or [np.arange(len(loss))]
