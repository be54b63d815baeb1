"""Figures of the study: shares of the best gain, their intervals, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from cprune_rl.envs.problems.registry import CLASS_ORDER

__all__ = [
    "BUDGETS",
    "add_shares",
    "case_of",
    "share_by_class",
    "share_by_cost",
    "summarize",
    "summarize_networks",
]

Row = dict[str, Any]
BUDGETS = {
    "accuracy_evaluations": (5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 120),
    "tasks": (20, 40, 60, 80, 100, 120, 150, 200, 250, 300, 400),
}
"""What is spent where methods are compared at equal cost."""
_EVALUATIONS_A_FINETUNE = 20  # a full fine-tune is as long
_SLOWER = 0.01  # of log gain: what counts as slower
_CURVE_COLUMNS = {"accuracy_evaluations": 0, "tasks": 1}


def add_shares(rows: Sequence[Row]) -> list[Row]:
    """Add to each row its share of the best log gain that is known of its case."""
    best: dict[tuple[Any, ...], float] = {}
    for row in rows:
        best[case_of(row)] = max(best.get(case_of(row), 0.0), row["log_gain"])
    shared = []
    for row in rows:
        most = best[case_of(row)]
        shared.append({**row, "share": row["log_gain"] / most if most > 0 else 1.0})
    return shared


def case_of(row: Row) -> tuple[Any, ...]:
    """Name the replay that a row is of."""
    return row["name"], row["floor"], row["seed"]


def summarize(rows: Sequence[Row]) -> list[Row]:
    """Sum methods up: share with its interval over recordings, and costs.

    Beside the agent each method has what the agent has over it, recording by recording.
    """
    agent_rows = [row for row in rows if row["method"] == "agent"]
    agent = _means(agent_rows, "share")
    summaries = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        share = _means(own, "share")
        summary: Row = {"method": method, "share": _interval(list(share.values()))}
        summary["speedup"] = round(float(np.exp(np.mean([row["log_gain"] for row in own]))), 3)
        for cost in ("accuracy_evaluations", "tasks", "full_finetunes"):
            if cost in own[0]:
                summary[cost] = round(float(np.mean([row[cost] for row in own])), 1)
        if "full_finetunes" in summary:
            finetunes = _EVALUATIONS_A_FINETUNE * summary["full_finetunes"]
            summary["in_evaluations"] = round(summary["accuracy_evaluations"] + finetunes, 1)
        if method != "agent" and agent:
            summary["agent_below_it"] = round(_share_below(agent_rows, own), 3)
            over = [agent[name] - value for name, value in share.items()]
            summary["agent_over_it"] = _interval(over)
        summaries.append(summary)
    return summaries


def summarize_networks(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Sum methods up for each network alone."""
    of_network: dict[str, list[Row]] = {}
    for row in rows:
        of_network.setdefault(str(row["name"]).partition("@")[0], []).append(row)
    return {network: summarize(of_network[network]) for network in sorted(of_network)}


def share_by_cost(rows: Sequence[Row], cost: str) -> dict[str, list[list[float]]]:
    """Share of each method once it has spent so much, with its interval, by its curve."""
    shares: dict[str, list[list[float]]] = {}
    for method in dict.fromkeys(row["method"] for row in rows if "curve" in row):
        own = [row for row in rows if row["method"] == method]
        shares[method] = []
        for budget in BUDGETS[cost]:
            reached = [{**row, "reached": _reached(row, cost, budget)} for row in own]
            shares[method].append(_interval(list(_means(reached, "reached").values())))
    return shares


def share_by_class(rows: Sequence[Row]) -> dict[str, dict[str, list[float]]]:
    """Share of each policy on each device class, with its interval."""
    shares: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["method"] != "reference":
            shares.setdefault(row["method"], {})
    for policy, of_class in shares.items():
        own = [row for row in rows if row["method"] == policy]
        for device_class in CLASS_ORDER:
            on_class = [row for row in own if row["name"].endswith(f"@{device_class}")]
            of_class[device_class] = _interval(list(_means(on_class, "share").values()))
    return shares


def _means(rows: Sequence[Row], key: str) -> dict[str, float]:
    """The mean of a figure over the floors, draws and trainings of each recording."""
    names = sorted({row["name"] for row in rows})
    values: dict[str, list[float]] = {name: [] for name in names}
    for row in rows:
        values[row["name"]].append(row[key])
    return {name: float(np.mean(of_name)) for name, of_name in values.items()}


def _interval(of_recordings: Sequence[float]) -> list[float]:
    """Mean and its 95 % bootstrap interval."""
    values: NDArray[np.float64] = np.array(of_recordings)
    if np.ptp(values) == 0:
        return [round(float(values[0]), 4)] * 3
    resampled = bootstrap((values,), np.mean, n_resamples=4000, random_state=0, method="percentile")
    low, high = resampled.confidence_interval
    return [round(float(v), 4) for v in (values.mean(), low, high)]


def _share_below(agent: Sequence[Row], others: Sequence[Row]) -> float:
    """In which share of cases the agent ended more than 1 % slower than a method."""
    gains: dict[tuple[Any, ...], list[float]] = {}
    for row in others:
        gains.setdefault(case_of(row), []).append(row["log_gain"])
    is_below = [row["log_gain"] < np.mean(gains[case_of(row)]) - _SLOWER for row in agent]
    return float(np.mean(is_below))


def _reached(row: Row, cost: str, budget: int) -> float:
    """Share that a curve had reached within a budget."""
    column = _CURVE_COLUMNS[cost]
    gains = [point[2] for point in row["curve"] if point[column] <= budget]
    if not gains or not row["log_gain"]:
        return 0.0
    return float(gains[-1] / row["log_gain"] * row["share"])
