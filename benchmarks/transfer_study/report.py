"""Tables of the study for the terminal, and its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from rich.table import Table

from cprune_rl.envs.problems.registry import CLASS_ORDER

from .figures import BUDGETS

__all__ = ["class_table", "live_table", "method_table", "plot_share_by_cost"]

_LABELS = {"accuracy_evaluations": "accuracy evaluations", "tasks": "tasks measured"}


def plot_share_by_cost(
    shares: Mapping[str, Mapping[str, Sequence[Sequence[float]]]], file: Path
) -> None:
    """Plot the share of the reference's log gain against what was spent.

    Args:
        shares: by kind of cost and method, mean and interval at each of `BUDGETS`.
        file: of the picture.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9.6, 3.6), sharey=True)
    for axes, (cost, label) in zip(panels, _LABELS.items(), strict=True):
        for method, values in shares[cost].items():
            if method == "budgets":
                continue
            middle, low, high = np.array(values).T
            width = 2.4 if method == "agent" else 1.2
            (line,) = axes.plot(
                BUDGETS[cost], middle, marker="o", markersize=3, linewidth=width, label=method
            )
            axes.fill_between(
                BUDGETS[cost], low, high, color=line.get_color(), alpha=0.12, linewidth=0
            )
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share of the reference's log gain")
    panels[1].legend(fontsize=8, frameon=False)
    figure.savefig(file, dpi=130, bbox_inches="tight")
    plt.close(figure)


def method_table(methods: Sequence[Mapping[str, Any]]) -> Table:
    """Tabulate summaries of methods."""
    table = Table(
        "method",
        "share of the reference's log gain [95 %]",
        "speed-up",
        "evaluations",
        "tasks",
        "full fine-tunes",
        "both, in evaluations",
        "agent over it [95 %]",
        "agent slower",
    )
    for method in sorted(methods, key=lambda m: -m["share"][0]):
        costs = ("accuracy_evaluations", "tasks", "full_finetunes", "in_evaluations")
        table.add_row(
            method["method"],
            _interval(method["share"], 3),
            f"{method['speedup']:.2f}",
            *(str(method.get(name, "")) for name in costs),
            _interval(method.get("agent_over_it"), 3),
            str(method.get("agent_below_it", "")),
        )
    return table


def live_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """Tabulate what replays promised and what live runs came to."""
    table = Table(
        "network",
        "floor",
        "method",
        "promised: mean [least, most]",
        "evaluations",
        "came [95 %]",
        "evaluations",
        title="Speed-ups that replays promised, and that live runs came to",
    )
    for run in runs:
        cells = [run["network"], str(run["floor"]), run["method"]]
        for side in ("promised", "came"):
            figures = run.get(side, {})
            cells.append(_interval(figures.get("speedup"), 2))
            cells.append(str(figures.get("accuracy_evaluations", "")))
        table.add_row(*cells)
    return table


def class_table(shares: Mapping[str, Mapping[str, Sequence[float]]]) -> Table:
    """Tabulate the share of each policy on each device class."""
    title = "Share of the reference's log gain by a roll-out, on each class [95 %]"
    table = Table("trained on", *CLASS_ORDER, title=title)
    for policy, of_class in shares.items():
        table.add_row(policy, *(_interval(of_class[name], 3) for name in CLASS_ORDER))
    return table


def _interval(values: Sequence[float] | None, digits: int) -> str:
    if not values:
        return ""
    middle, low, high = (f"{value:.{digits}f}" for value in values)
    return f"{middle} [{low}, {high}]"
