"""FastNAS (NVIDIA Model Optimizer): a map of what each group loses alone, and one threshold.

Each entry of the map is an accuracy evaluation of a plan in which one group is narrower. Each group
then takes the narrowest width whose entry is under the threshold, and the threshold is bisected,
each plan measured.

Stronger than as published: between the entries of the map it goes by the predicted losses, so that
every legal width is a choice. Where the budget is too small for an entry, they stand for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Plan

__all__ = ["FastNAS"]


@dataclass(frozen=True)
class FastNAS(SessionSearcher):
    """Bisects the threshold of a sensitivity map.

    Attributes:
        n_widths: of each group in the map; fewer where the map would take more than half of the
            evaluations that are left.
    """

    n_widths: int = 4

    name = "fastnas"

    def run(self, session: SearchSession) -> None:
        """Make the map, then bisect."""
        sensitivities = self._sensitivities(session)
        losses = np.unique(np.concatenate(sensitivities))
        thresholds = losses[losses <= max(session.problem.slack, 0.0)]
        low = 0
        high = len(thresholds)
        while high - low > 1 and not session.is_spent:
            middle = (low + high) // 2
            threshold = thresholds[middle]
            plan = _plan_under(threshold, sensitivities, session.widths)
            step = session.try_once(plan, f"threshold {threshold:.3%}")
            if step.accepted:
                low = middle
            else:
                high = middle

    def _sensitivities(self, session: SearchSession) -> list[NDArray[np.float64]]:
        """Losses of each group at each of its widths.

        They are none at the dense width, and no less at a narrower one.
        """
        problem = session.problem
        dense = problem.network.dense
        losses = dict.fromkeys(enumerate(dense.widths), 0.0)
        entries = self._entries(session)
        if entries and not session.is_spent:
            plans = [dense.with_width(g, w) for g, w in entries]
            answers = session.evaluate(plans)  # fewer, where the budget does not allow all
            for (g, w), plan, answer in zip(entries, plans, answers, strict=False):
                what = f"map: {problem.network.groups[g].name} at {w}"
                session.record_unmeasured(plan, what, answer)
                losses[g, w] = problem.dense_accuracy - answer.value
        return [
            _interpolated(problem.loss_model, g, np.array(widths), losses=losses)
            for g, widths in enumerate(session.widths)
        ]

    def _entries(self, session: SearchSession) -> list[tuple[int, int]]:
        """Groups and widths of the map.

        The narrowest width of each group comes first, so that a map cut short is the same for all.
        """
        n_left = session.left.accuracy_evaluations
        n_widths = self.n_widths
        if n_left is not None:
            n_widths = min(n_widths, max(n_left // (2 * len(session.widths)), 1))
        widths_of_groups: list[list[int]] = []
        for legal in session.widths:
            narrower = legal[:-1]
            positions = np.linspace(0, len(narrower), n_widths, endpoint=False).astype(int)
            chosen = np.unique(positions).tolist() if narrower else []
            widths_of_groups.append([narrower[at] for at in chosen])
        entries = []
        for level in range(n_widths):
            for g, widths in enumerate(widths_of_groups):
                if level < len(widths):
                    entries.append((g, widths[level]))
        return entries if n_left is None else entries[: n_left // 2]


def _interpolated(
    loss_model: LossModel,
    group: int,
    widths: NDArray[np.int64],
    *,
    losses: dict[tuple[int, int], float],
) -> NDArray[np.float64]:
    """Losses at ascending widths, of which the last is dense.

    They are as evaluated, and go between evaluations as the predicted losses go.
    """
    of_group = LossModel(loss_model.scale[[group]], loss_model.power[[group]])
    predicted = of_group.group_losses(widths[:, None] / widths[-1])[:, 0]
    evaluated = [at for at, w in enumerate(widths) if (group, int(w)) in losses]
    values = [losses[group, int(widths[at])] for at in evaluated]
    if 0 not in evaluated:
        evaluated = [0, *evaluated]
        values = [float(predicted[0]), *values]
    rising = np.maximum.accumulate(np.maximum(values[::-1], 0.0))
    return np.interp(predicted, predicted[evaluated[::-1]], rising)


def _plan_under(
    threshold: float,
    sensitivities: list[NDArray[np.float64]],
    widths: tuple[tuple[int, ...], ...],
) -> Plan:
    """Make each group as narrow as its losses allow."""
    chosen = [
        legal[int((losses <= threshold).argmax())]
        for legal, losses in zip(widths, sensitivities, strict=True)
    ]
    return Plan(tuple(chosen))
