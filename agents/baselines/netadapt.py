"""NetAdapt (Yang et al., ECCV 2018):

each round one group is narrowed, the one that costs least accuracy for the same cut in latency.

How much each group must be narrowed is told by cheap looks; which one it is by an accuracy
evaluation of every candidate, which is what makes
the method expensive. Stronger than as published: a round whose best candidate misses the floor, or
in which no group reaches the cut, is
tried again with half the cut; the plan that is to be kept is measured, so that cheap looks improve,
and is not kept where it is no faster.
"""

from __future__ import annotations

from cprune_rl.agents.core.searcher import Budget, OnStep
from cprune_rl.agents.core.session import Looks
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchResult, SearchStep
from cprune_rl.envs.problem import Problem

__all__ = ["NetAdapt"]


class NetAdapt:
    """See the module (and `searcher.Searcher`).

    Args:
        cut: of the first round, as a share of the dense latency.
        decay: of the cut, each round.
        n_halvings: of the cut before it is given up.
    """

    name = "netadapt"

    def __init__(self, cut: float = 0.05, decay: float = 0.96, n_halvings: int = 4) -> None:
        self._cut, self._decay, self._n_halvings = cut, decay, n_halvings

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """Narrows a group a round (see `searcher.Searcher`)."""
        looks = Looks(problem, budget, on_step)
        plan, latency_s = problem.network.dense, looks.dense_s
        cut_s, n_halvings, slower = self._cut * latency_s, 0, set[Plan]()
        while not looks.session.is_spent:
            step = _round(looks, plan, latency_s - cut_s, slower)
            if step is None and n_halvings == self._n_halvings:
                break
            if step is None:
                cut_s, n_halvings = cut_s / 2, n_halvings + 1
            elif step.latency_s < latency_s:
                plan, latency_s, cut_s = step.plan, step.latency_s, cut_s * self._decay
            else:
                slower.add(step.plan)  # the round is tried again, with what was learnt
        return looks.session.result(self.name)


def _round(looks: Looks, plan: Plan, target_s: float, slower: set[Plan]) -> SearchStep | None:
    """A look at the most accurate candidate;

    None where no group reaches the target, or that candidate misses the floor.
    """
    network = looks.problem.network
    narrowed = (_narrowed(looks, plan, g, target_s, slower) for g in range(len(plan.widths)))
    candidates = {
        p: f"{network.groups[g].name} to {p.widths[g]}"
        for g, p in enumerate(narrowed)
        if p is not None
    }
    plans = sorted(candidates, key=looks.predicted_loss)
    judged = dict(zip(plans, looks.judge(plans), strict=False))  # no more than the budget allows
    best = max(judged, key=lambda p: judged[p].value, default=None)
    holds = best is not None and judged[best].value >= looks.problem.floor
    for other, answer in judged.items():
        if other != best or not holds:
            looks.record_judged(other, candidates[other], answer)
    return (
        looks.take(best, candidates[best], f"most accurate of {len(judged)}")
        if best is not None and holds
        else None
    )


def _narrowed(
    looks: Looks, plan: Plan, group: int, target_s: float, slower: set[Plan]
) -> Plan | None:
    """The plan with one group as little narrower as reaches a latency by cheap looks, and did not
    turn out slower; None where it cannot.
    """
    for width in reversed(looks.widths[group]):
        if width < plan.widths[group]:
            narrowed = plan.with_width(group, width)
            if narrowed not in slower and looks.predicted_s(narrowed) <= target_s:
                return narrowed
    return None
