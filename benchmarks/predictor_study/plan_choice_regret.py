"""What decisions taken by predicted latencies cost:

the regret of choosing among plans that look equally accurate.

The plans are made of measured tasks alone, so the truth is measured too. A recording holds tasks,
not plans;
recombined, the tasks of a hundred visited plans make many more. Called by `held_out`.
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

__all__ = ["Decisions", "judge_decisions", "measured_plans"]

_N_PLANS, _N_DRAWS, _N_CANDIDATES = 300, 300, 12
# candidates whose predicted losses of accuracy differ by less than this share are called equal
_NEAR_LOSS = 0.15
_PATIENCE = 200  # dead ends of one attempt: then it starts anew with other widths


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
    search = _Search(network, {w.key: w for w in known})
    found = dict.fromkeys([network.dense] if search.knows(network.dense) else [])
    for _ in range(4 * count):
        if len(found) >= count:
            break
        if (plan := search.draw(rng)) is not None:
            found.setdefault(plan)
    return list(found)


class _Search:
    """Sets one group after the other to a width that leaves every decided subgraph known, and goes
    back where there is none.
    """

    def __init__(self, network: Network, known: Mapping[str, Workload]) -> None:
        self._network, self._known = network, known
        self._order = list(range(len(network.groups)))
        self._decided: list[list[int]] = [
            [s for s, touched in enumerate(network.touched_groups) if touched and max(touched) == g]
            for g in self._order
        ]
        self._widths = [self._candidates(g) for g in self._order]

    def knows(self, plan: Plan) -> bool:
        """Whether every task of a plan is known."""
        return all(w.key in self._known for w in self._network.workloads(plan))

    def draw(self, rng: np.random.Generator) -> Plan | None:
        """A random plan, or None where this attempt found none."""
        self._left = _PATIENCE
        return next(self._plans((), rng), None)

    def _plans(self, chosen: tuple[int, ...], rng: np.random.Generator) -> Iterator[Plan]:
        group = len(chosen)
        if group == len(self._order):
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
        padded = widths + self._network.dense.widths[len(widths) :]
        return all(
            self._network.workload(s, Plan(padded)).key in self._known for s in self._decided[group]
        )

    def _candidates(self, group: int) -> list[int]:
        """Widths at which every subgraph that reads or writes the group has a known task of its
        family with as many channels.
        """
        name, wanted = (
            self._network.groups[group].name,
            range(self._network.groups[group].minimum, self._network.groups[group].channels + 1),
        )
        found = set(wanted)
        for subgraph in self._network.subgraphs:
            same = [w for w in self._known.values() if w.family == subgraph.template.family]
            for extent, lengths in (
                (subgraph.channels_in, {w.channels_in for w in same}),
                (subgraph.channels_out, {w.channels_out for w in same}),
            ):
                if [term for term, _ in extent.terms] == [name]:
                    found &= {width for width in wanted if extent.at({name: width}) in lengths}
        return sorted(found)


@dataclass(frozen=True)
class Decisions:
    """How well predictions choose among plans; errors and regrets are shares.

    A regret is the latency of the plan chosen over that of the best candidate, less 1.

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


def judge_decisions(
    network: Network,
    measured: Sequence[tuple[Workload, TaskCost]],
    estimates_s: Mapping[str, float],
    loss_model: LossModel,
    seed: int = 0,
) -> Decisions | None:
    """Judges predictions by the plans they choose.

    Args:
        network: what the plans belong to.
        measured: its measured tasks.
        estimates_s: what the decisions go by: seconds of each task, by key.
        loss_model: predicted loss of each group: candidates have about the same.
        seed: of plans and draws.

    Returns:
        None where too few plans can be made of measured tasks.
    """
    rng = np.random.default_rng(seed)
    plans = measured_plans(network, [w for w, _ in measured], _N_PLANS, rng)
    if len(plans) < _N_CANDIDATES:
        return None
    true_s = {w.key: c.latency_s for w, c in measured}
    true, predicted = (
        np.array([sum(of[w.key] for w in network.workloads(p)) for p in plans])
        for of in (true_s, estimates_s)
    )
    kept = np.array([p.widths for p in plans]) / np.array(network.dense.widths)
    draws = _draws(np.asarray(loss_model.group_losses(kept).sum(axis=-1)), rng)
    by_predictions, by_macs, by_chance = (
        np.array([true[d][np.argmin(by[d])] / true[d].min() - 1 for d in draws])
        for by in (predicted, np.array([network.macs(p) for p in plans]), rng.random(len(plans)))
    )
    error = float(np.median(np.abs(predicted / true - 1)))
    return Decisions(
        len(plans),
        error,
        float(np.median(by_predictions)),
        float(np.quantile(by_predictions, 0.9)),
        float(np.median(by_macs)),
        float(np.median(by_chance)),
    )


def _draws(loss: NDArray[np.float64], rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Candidates that look equally accurate: each time some around a plan drawn at random."""
    draws = []
    for at in rng.integers(len(loss), size=_N_DRAWS):
        near = np.argsort(np.abs(loss - loss[at]), kind="stable")[: 3 * _N_CANDIDATES]
        near = near[np.abs(loss[near] - loss[at]) <= _NEAR_LOSS * max(loss[at], 1e-6)]
        if len(near) >= 2:
            draws.append(rng.choice(near, min(_N_CANDIDATES, len(near)), replace=False))
    return draws or [np.arange(len(loss))]
