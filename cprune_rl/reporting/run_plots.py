"""Plots of a run, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import matplotlib
import numpy as np

matplotlib.use("Agg")  # no display is needed, or taken
from matplotlib import pyplot as plt

from cprune_rl.core.network import Network, Plan
from cprune_rl.core.result import Result
from cprune_rl.core.search_result import SearchResult

__all__ = [
    "CalibrationMap",
    "plot_calibration",
    "plot_front",
    "plot_latencies",
    "plot_searches",
    "plot_widths",
]

_COLOURS = {"dense": "#8a8f98", "cprune": "#d98032", "agent": "#2f6fb5"}
_OF_MAPS = ("#2f6fb5", "#2e8b57")
_OTHERS = ("#a33030", "#2e8b57", "#7b4fa3", "#b8860b", "#d16ba5", "#3aa6a6")


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return buffer.getvalue()


def plot_latencies(result: Result) -> bytes:
    """Measured latencies with intervals, or estimates without; the accuracy stands on each bar."""
    rows = [("dense", result.dense, "")] + [
        (m.method, m.pruned, f"{m.speedup:.2f}x, " if result.has_gain(m) else "no gain, ")
        for m in (*result.rivals, result.main)
    ]
    figure, axes = plt.subplots(figsize=(6.4, 0.6 + 0.55 * len(rows)))
    for y, (name, f, speedup) in enumerate(rows):
        error = (
            None
            if f.latency_ci_ms is None
            else [[f.shown_ms - f.latency_ci_ms[0]], [f.latency_ci_ms[1] - f.shown_ms]]
        )
        axes.barh(y, f.shown_ms, color=_COLOURS.get(name, "#666666"), xerr=error, height=0.62)
        axes.text(f.shown_ms, y, f"  {speedup}{f.accuracy_test:.2%}", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [r[0] for r in rows])
    axes.invert_yaxis()
    kind = "estimate: sum of recorded tasks" if result.is_estimate else "measured, whole network"
    axes.set_xlabel(f"latency, ms ({kind}); speed-up, test accuracy")
    axes.set_xlim(0, 1.45 * max(f.shown_ms for _, f, _ in rows))
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


class FrontPoint(Protocol):
    """What is drawn of one network of a front."""

    @property
    def method(self) -> str:
        """That found it; "dense" of the dense network."""

    @property
    def floor(self) -> float | None:
        """As asked for; None of the dense network."""

    @property
    def shown_ms(self) -> float:
        """Its latency."""

    @property
    def latency_ci_ms(self) -> tuple[float, float] | None:
        """Interval of that; None of an estimate."""

    @property
    def accuracy_test(self) -> tuple[float, float, float]:
        """On test images, with its interval."""


def plot_front(points: Sequence[FrontPoint]) -> bytes:
    """Test accuracy over latency, the dense network first, a line for each method, with intervals
    where something was timed.
    """
    figure, axes = plt.subplots(figsize=(6.8, 4.2))
    dense, methods = points[0], list(dict.fromkeys(p.method for p in points[1:]))
    for method in ("dense", *methods):
        own = (
            [dense]
            if method == "dense"
            else sorted((p for p in points[1:] if p.method == method), key=lambda p: p.shown_ms)
        )
        colour = _COLOURS.get(
            method, _OTHERS[methods.index(method) % len(_OTHERS)] if method in methods else ""
        )
        for p in own:
            value, low, high = (100 * a for a in p.accuracy_test)
            error = (
                None
                if p.latency_ci_ms is None
                else [[p.shown_ms - p.latency_ci_ms[0]], [p.latency_ci_ms[1] - p.shown_ms]]
            )
            axes.errorbar(
                p.shown_ms,
                value,
                xerr=error,
                yerr=[[value - low], [high - value]],
                fmt="o",
                color=colour,
                capsize=2,
            )
            axes.annotate(
                "dense" if p.floor is None else f"{p.floor:+g}",
                (p.shown_ms, value),
                xytext=(6, 5),
                textcoords="offset points",
                fontsize=8,
            )
        if own != [dense]:
            line = [*own, dense]
            axes.plot(
                [p.shown_ms for p in line],
                [100 * p.accuracy_test[0] for p in line],
                color=colour,
                alpha=0.5,
                label=method,
                zorder=0,
            )
    if len(methods) > 1:
        axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel(
        "latency, ms ("
        + (
            "estimate: sum of recorded tasks"
            if points[0].latency_ci_ms is None
            else "measured, whole network"
        )
        + ")"
    )
    axes.set_ylabel("test accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def plot_searches(searches: Sequence[SearchResult], floor: float) -> bytes:
    """Estimated latency and accuracy of every candidate, in the order they were tried."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(6.4, 5.0), sharex=True)
    for search in searches:
        colour = _COLOURS.get(search.method, "#666666")
        latency, now = [search.accepted[0].latency_s * 1e3], search.accepted[0].latency_s * 1e3
        for step in search.history:
            now = (
                min(step.latency_s * 1e3, now) if step.accepted else now
            )  # of the fastest plan that held so far
            latency.append(now)
        top.step(range(len(latency)), latency, where="post", color=colour, label=search.method)
        tried = [
            (i + 1, s.accuracy, s.accepted)
            for i, s in enumerate(search.history)
            if s.accuracy is not None
        ]
        for accepted, marker in ((True, "o"), (False, "x")):
            chosen = [(i, a) for i, a, was in tried if was == accepted]
            bottom.scatter(
                [i for i, _ in chosen], [a for _, a in chosen], color=colour, marker=marker, s=22
            )
    bottom.axhline(floor, color="#a33030", linewidth=1, linestyle="--")
    bottom.set(xlabel="candidate (o accepted, x rejected)", ylabel="accuracy (oracle)")
    top.set(ylabel="latency, ms (estimate)")
    top.legend(frameon=False)
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


@dataclass(frozen=True)
class CalibrationMap:
    """From what an oracle sees lost to what the full fine-tune loses.

    Attributes:
        what: is pruned.
        points: `(seen, full)`, in accuracy, of the plans that were fine-tuned in full.
        calibration: the map fitted to them.
        residual: its root mean square error, drawn as a band.
    """

    what: str
    points: Sequence[tuple[float, float]]
    calibration: Callable[[float], float]
    residual: float


def plot_calibration(maps: Sequence[CalibrationMap]) -> bytes:
    """Loss that the oracle sees against the loss after full fine-tuning, and the map between them,
    for each kind of plan.

    Args:
        maps: one or more.
    """
    figure, axes = plt.subplots(figsize=(6.4, 3.0))
    for mapped, colour in zip(maps, _OF_MAPS, strict=False):
        seen = np.linspace(0, 1.1 * max(1e-3, *(s for s, _ in mapped.points)), 60)
        fitted = np.array([mapped.calibration(s) for s in seen])
        axes.fill_between(
            100 * seen,
            100 * (fitted - mapped.residual),
            100 * (fitted + mapped.residual),
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
        axes.plot(100 * seen, 100 * fitted, color=colour, linewidth=1.2, label=mapped.what)
        axes.scatter(
            [100 * s for s, _ in mapped.points],
            [100 * f for _, f in mapped.points],
            color=colour,
            s=20,
            zorder=3,
        )
    if len(maps) > 1:
        axes.legend(frameon=False, fontsize=8)
    axes.set(
        xlabel="points lost as the oracle sees it", ylabel="points lost after\nfull fine-tuning"
    )
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def plot_widths(network: Network, plans: Sequence[tuple[str, Plan]]) -> bytes:
    """Channels that each plan keeps of every group."""
    figure, axes = plt.subplots(figsize=(6.4, 0.8 + 0.5 * len(network.groups)))
    height = 0.8 / (len(plans) + 1)
    for i, (name, plan) in enumerate([("dense", network.dense), *plans]):
        positions = [g + i * height for g in range(len(network.groups))]
        axes.barh(
            positions,
            plan.widths,
            height=height * 0.92,
            color=_COLOURS.get(name, "#666666"),
            label=name,
        )
    axes.set_yticks(
        [g + 0.4 - height / 2 for g in range(len(network.groups))],
        [g.name for g in network.groups],
        fontsize=8,
    )
    axes.invert_yaxis()
    axes.set_xlabel("channels kept")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)
