"""NetAdapt (Yang et al., ECCV 2018): each round narrows one group, the one that costs least accuracy for
the same cut in latency.

Predicted latencies say how much each group must be narrowed. Which one it is, an accuracy
evaluation of every candidate decides, which makes the method expensive.

Stronger than as published: a round whose best candidate misses the floor, or in which no group
reaches the cut, is tried again with half the cut. The plan that is to be kept is measured, so that
predictions improve, and is not kept where it is no faster.
"""

from __future__ import annotations

from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchStep

__all__ = ["NetAdapt"]


class NetAdapt(SessionSearcher):
    """Narrows a group a round.

    Args:
        cut: of the first round, as a share of the dense latency.
        decay: of the cut, each round.
        max_halvings: of the cut before it is given up.
    """

    name = "netadapt"

    def __init__(self, cut: float = 0.05, decay: float = 0.96, max_halvings: int = 4) -> None:
        self._cut = cut
        self._decay = decay
        self._max_halvings = max_halvings

    def run(self, session: SearchSession) -> None:
        """Take rounds until the cut is given up or the budget is spent."""
        plan = session.problem.network.dense
        latency_s = session.dense_s
        cut_s = self._cut * latency_s
        n_halvings = 0
        slower: set[Plan] = set()
        while not session.is_spent:
            step = _take_round(session, plan, latency_s - cut_s, slower)
            if step is None and n_halvings == self._max_halvings:
                break
            if step is None:
                cut_s /= 2
                n_halvings += 1
            elif step.latency_s < latency_s:
                plan = step.plan
                latency_s = step.latency_s
                cut_s *= self._decay
            else:
                slower.add(step.plan)  # the round is tried again, with what was learnt


def _take_round(
    session: SearchSession, plan: Plan, target_s: float, slower: set[Plan]
) -> SearchStep | None:
    """Try the most accurate candidate.

    None where no group reaches the target, or that candidate misses the floor.
    """
    problem = session.problem
    candidates: dict[Plan, str] = {}
    for g, group in enumerate(problem.network.groups):
        narrowed = _narrowed(session, plan, g, target_s, slower)
        if narrowed is not None:
            candidates[narrowed] = f"{group.name} to {narrowed.widths[g]}"
    plans = sorted(candidates, key=problem.predicted_loss)
    # There may be fewer answers, as the budget allows.
    answers = dict(zip(plans, session.evaluate(plans), strict=False))
    best = max(answers, key=lambda p: answers[p].value, default=None)
    holds = best is not None and answers[best].value >= problem.floor
    for other, answer in answers.items():
        if other != best or not holds:
            session.record_unmeasured(other, candidates[other], answer)
    if best is None or not holds:
        return None
    return session.try_once(best, candidates[best], why=f"most accurate of {len(answers)}")


def _narrowed(
    session: SearchSession, plan: Plan, group: int, target_s: float, slower: set[Plan]
) -> Plan | None:
    """Narrow one group by as little as reaches a predicted latency.

    None where it cannot; plans that turned out slower are left out.
    """
    for width in reversed(session.widths[group]):
        if width < plan.widths[group]:
            narrowed = plan.with_width(group, width)
            if narrowed not in slower and session.problem.predicted_s(narrowed) <= target_s:
                return narrowed
    return None
