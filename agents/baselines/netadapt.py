"""NetAdapt (Yang et al., ECCV 2018): each round narrows the group that costs least accuracy.

Every group is cut until the same latency is saved. Predicted latencies say how far that is. An
accuracy evaluation of every candidate says which group it is, which makes the method expensive.

Stronger than as published: a round whose best candidate misses the floor, or in which no group
reaches the cut, is tried again with half the cut. The plan that is to be kept is measured, so that
predictions improve, and is not kept where it is no faster.
"""

from __future__ import annotations

from dataclasses import dataclass

from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchStep

__all__ = ["NetAdapt"]


@dataclass(frozen=True)
class NetAdapt(SessionSearcher):
    """Narrows a group a round.

    Attributes:
        cut: of the first round, as a share of the dense latency.
        decay: of the cut, each round.
        max_halvings: of the cut before it is given up.
    """

    cut: float = 0.05
    decay: float = 0.96
    max_halvings: int = 4

    name = "netadapt"

    def run(self, session: SearchSession) -> None:
        """Take rounds until the cut is given up or the budget is spent."""
        plan = session.problem.network.dense
        latency_s = session.dense_s
        cut_s = self.cut * latency_s
        n_halvings = 0
        slower: set[Plan] = set()
        while not session.is_spent:
            candidates = _candidates(session, plan, target_s=latency_s - cut_s, slower=slower)
            step = _try_most_accurate(session, candidates)
            if step is None and n_halvings == self.max_halvings:
                break
            if step is None:
                cut_s /= 2
                n_halvings += 1
            elif step.latency_s < latency_s:
                plan = step.plan
                latency_s = step.latency_s
                cut_s *= self.decay
            else:
                slower.add(step.plan)  # the round is tried again, with what was learnt


def _candidates(
    session: SearchSession, plan: Plan, *, target_s: float, slower: set[Plan]
) -> dict[Plan, str]:
    """Narrow each group by as little as reaches a predicted latency; plans with their names.

    A group that cannot reach it has no candidate. Plans that turned out slower are left out.
    """
    problem = session.problem
    candidates: dict[Plan, str] = {}
    for g, group in enumerate(problem.network.groups):
        for width in reversed(session.widths[g]):
            narrowed = plan.with_width(g, width)
            is_new = width < plan.widths[g] and narrowed not in slower
            if is_new and problem.predicted_s(narrowed) <= target_s:
                candidates[narrowed] = f"{group.name} to {width}"
                break
    return candidates


def _try_most_accurate(session: SearchSession, candidates: dict[Plan, str]) -> SearchStep | None:
    """Evaluate candidates and measure the best one; None where none holds the floor."""
    problem = session.problem
    plans = sorted(candidates, key=problem.predicted_loss)
    # There may be fewer answers, as the budget allows.
    answers = dict(zip(plans, session.evaluate(plans), strict=False))
    best = max(answers, key=lambda p: answers[p].value, default=None)
    holds = best is not None and problem.holds(answers[best].value)
    for other, answer in answers.items():
        if other != best or not holds:
            session.record_unmeasured(other, candidates[other], answer)
    if best is None or not holds:
        return None
    return session.try_once(best, candidates[best], why=f"most accurate of {len(answers)}")
