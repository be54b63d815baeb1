"""FastNAS (NVIDIA ModelOpt):

what each group loses alone, measured at a few widths, then one threshold for all of them.

Each entry of the map is an accuracy evaluation of a plan in which one group is narrower; each group
then takes the narrowest width whose
entry is under the threshold, and the threshold is bisected, a true look at each plan. Stronger than
as published: between the entries
of the map it goes by the predicted losses, so that every legal width is a choice, and where the budget
is too small for an entry they stand for it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cprune_rl.agents.core.searcher import Budget, OnStep
from cprune_rl.agents.core.session import Looks
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchResult
from cprune_rl.envs.problem import Problem

__all__ = ["FastNAS"]


class FastNAS:
    """See the module (and `searcher.Searcher`).

    Args:
        n_widths: of each group in the map; fewer where the map would take more than half of the
            evaluations that are left.
    """

    name = "fastnas"

    def __init__(self, n_widths: int = 4) -> None:
        self._n_widths = n_widths

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """The map, then the bisection (see `searcher.Searcher`)."""
        looks = Looks(problem, budget, on_step)
        sensitivities = self._sensitivities(looks)
        every = np.unique(np.concatenate(sensitivities))
        thresholds = every[every <= max(looks.slack, 0.0)]
        low, high = 0, len(thresholds)
        while high - low > 1 and not looks.session.is_spent:
            middle = (low + high) // 2
            step = looks.take(
                _under(thresholds[middle], sensitivities, looks),
                f"threshold {thresholds[middle]:.3%}",
            )
            low, high = (middle, high) if step.accepted else (low, middle)
        return looks.session.result(self.name)

    def _sensitivities(self, looks: Looks) -> list[NDArray[np.float64]]:
        """Of each group, the loss at each of its widths:

        none at the dense one, no less at a narrower one.
        """
        entries = self._entries(looks)
        problem, dense = looks.problem, looks.problem.network.dense
        found = dict.fromkeys(enumerate(dense.widths), 0.0)
        if entries and not looks.session.is_spent:
            plans = [dense.with_width(g, w) for g, w in entries]
            for (g, w), plan, answer in zip(
                entries, plans, looks.judge(plans), strict=False
            ):  # no more than the budget allows
                looks.record_judged(plan, f"map: {problem.network.groups[g].name} at {w}", answer)
                found[g, w] = problem.dense_accuracy - answer.value
        return [
            _curve(problem.loss_model, g, np.array(widths), found)
            for g, widths in enumerate(looks.widths)
        ]

    def _entries(self, looks: Looks) -> list[tuple[int, int]]:
        """Groups and widths of the map:

        first the narrowest width of each group, so that a map cut short is the same for all.
        """
        left, n_widths = looks.n_evaluations_left, self._n_widths
        if left is not None:
            n_widths = min(n_widths, max(left // (2 * len(looks.widths)), 1))
        of_groups = []
        for widths in looks.widths:
            narrower = widths[:-1]
            at = (
                np.unique(np.linspace(0, len(narrower), n_widths, endpoint=False).astype(int))
                if narrower
                else ()
            )
            of_groups.append([narrower[i] for i in at])
        entries = [
            (g, of_group[level])
            for level in range(n_widths)
            for g, of_group in enumerate(of_groups)
            if level < len(of_group)
        ]
        return entries if left is None else entries[: left // 2]


def _curve(
    loss_model: LossModel,
    group: int,
    widths: NDArray[np.int64],
    found: dict[tuple[int, int], float],
) -> NDArray[np.float64]:
    """Losses at widths, ascending, of which the last is dense:

    as found, and as the curve shown goes between them.
    """
    shown = LossModel(loss_model.scale[[group]], loss_model.power[[group]]).group_losses(
        widths[:, None] / widths[-1]
    )[:, 0]
    known = [i for i, w in enumerate(widths) if (group, int(w)) in found]
    losses = [found[group, int(widths[i])] for i in known]
    if 0 not in known:
        known, losses = [0, *known], [float(shown[0]), *losses]
    rising = np.maximum.accumulate(np.maximum(losses[::-1], 0.0))
    return np.interp(shown, shown[known[::-1]], rising)


def _under(threshold: float, sensitivities: list[NDArray[np.float64]], looks: Looks) -> Plan:
    """Each group as narrow as its losses allow."""
    return Plan(
        tuple(
            w[int((losses <= threshold).argmax())]
            for w, losses in zip(looks.widths, sensitivities, strict=True)
        )
    )
