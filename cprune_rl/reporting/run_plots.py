"""Pictures of a run: latencies, searches, the oracle's calibration, plans, and a front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cprune_rl.core.network import Network, Plan
from cprune_rl.core.result import FrontPoint, Result
from cprune_rl.core.scheme import Scheme
from cprune_rl.core.search_result import SearchResult
from cprune_rl.reporting.figure import Picture, Theme, new_figure, render

__all__ = [
    "CalibrationMap",
    "plot_accuracies",
    "plot_calibration",
    "plot_estimates",
    "plot_front",
    "plot_latencies",
    "plot_plan",
]

_ROW_IN = 0.24  # height of a layer in the picture of a plan
_LOSS_LABELS = ("points lost as the oracle sees it", "points lost after full fine-tuning")


def plot_latencies(result: Result) -> Picture:
    """Plot the latency of each network, with its test accuracy."""
    networks = [("dense", result.reference, "")]
    for method in (*result.rivals, result.main):
        gain = f"{method.speedup:.2f}x, " if result.has_gain(method) else "no gain, "
        networks.append((method.method, method.pruned, gain))
    names = [name for name, _, _ in networks]
    kind = "estimate: sum of recorded tasks" if result.is_estimate else "whole network, measured"

    def draw(theme: Theme) -> Figure:
        figure, axes = new_figure(0.8 + 0.42 * len(networks))
        colours = theme.colours(names, result.method)
        for y, (name, figures, gain) in enumerate(networks):
            error = _error_bar(figures.shown_ms, figures.latency_ci_ms)
            axes.barh(
                y, figures.shown_ms, height=0.62, color=colours[name], xerr=error, ecolor=theme.ink
            )
            text = f"  {gain}{figures.accuracy_test:.2%}"
            axes.text(figures.shown_ms, y, text, va="center", fontsize=8.5)
        axes.set_yticks(range(len(networks)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.4 * max(figures.shown_ms for _, figures, _ in networks))
        axes.set_xlabel(f"latency, ms ({kind})")
        return figure

    return render(
        draw,
        name="latencies",
        alt="Estimated latency of each network" if result.is_estimate else "Measured latencies",
        caption="Latency of each network; beside it the speed-up and the "
        f"{result.accuracy_word} on {result.shown_on}.",
    )


def plot_front(points: Sequence[FrontPoint], accuracy: str = "test accuracy") -> Picture:
    """Plot accuracy over latency, with a line for each method.

    Args:
        points: the dense network first.
        accuracy: what it is, see `run_tables.accuracy_on`.
    """
    title = f"{accuracy[0].upper()}{accuracy[1:]} over latency"
    dense = points[0]
    methods = list(dict.fromkeys(point.method for point in points[1:]))
    kind = "measured" if dense.latency_ci_ms else "estimate: sum of recorded tasks"

    def draw(theme: Theme) -> Figure:
        figure, axes = new_figure(3.9)
        colours = theme.colours(["dense", *methods], methods[0] if methods else "dense")
        for method in methods:
            own = [point for point in points if point.method == method]
            own.sort(key=lambda point: point.shown_ms)
            latencies, accuracies = zip(*map(_place, [*own, dense]), strict=True)
            axes.plot(
                latencies,
                accuracies,
                color=colours[method],
                alpha=0.5,
                label=method,
                zorder=0,
            )
        for point in points:
            value, low, high = 100 * np.array(point.accuracy_test)
            axes.errorbar(
                point.shown_ms,
                value,
                xerr=_error_bar(point.shown_ms, point.latency_ci_ms),
                yerr=[[value - low], [high - value]],
                fmt="o",
                color=colours[point.method],
                capsize=2,
            )
            axes.annotate(
                "dense" if point.floor is None else f"{point.floor:+g}",
                (point.shown_ms, value),
                xytext=(6, 5),
                textcoords="offset points",
                fontsize=8,
            )
        if len(methods) > 1:
            figure.legend(loc="outside lower center", ncols=3)
        axes.set(xlabel=f"latency, ms ({kind})", ylabel=f"{accuracy}, %")
        return figure

    return render(
        draw,
        name="front",
        alt=title,
        caption=f"{title}, with 95 % intervals; numbers are floors.",
    )


def _place(point: FrontPoint) -> tuple[float, float]:
    return point.shown_ms, 100 * point.accuracy_test[0]


def plot_estimates(searches: Sequence[SearchResult], own: str) -> Picture:
    """Plot the estimated latency of the fastest accepted plan as each search goes on.

    Args:
        searches: all of the run.
        own: the run's own method.
    """

    def draw(theme: Theme) -> Figure:
        figure, axes = new_figure(2.9)
        colours = theme.colours([search.method for search in searches], own)
        for search in searches:
            tried = [step.latency_s if step.accepted else np.inf for step in search.history]
            best_s = np.minimum.accumulate([search.accepted[0].latency_s, *tried])
            axes.step(
                range(len(best_s)),
                1e3 * best_s,
                where="post",
                color=colours[search.method],
                label=search.method,
            )
        return _over_candidates(figure, axes, "latency, ms (estimate)")

    return render(
        draw,
        name="searches-latency",
        alt="Latency over the candidates of each search",
        caption="Estimated latency of the fastest plan so far that held the floor.",
    )


def plot_accuracies(searches: Sequence[SearchResult], own: str, floor: float) -> Picture:
    """Plot the accuracy of every candidate by the oracle.

    Args:
        searches: all of the run.
        own: the run's own method.
        floor: accuracy that had to hold in the loop.
    """

    def draw(theme: Theme) -> Figure:
        figure, axes = new_figure(2.9)
        colours = theme.colours([search.method for search in searches], own)
        for search in searches:
            for is_accepted, marker in ((True, "o"), (False, "x")):
                tried = [
                    (at, 100 * step.accuracy)
                    for at, step in enumerate(search.history, start=1)
                    if step.accuracy is not None and step.accepted == is_accepted
                ]
                places, accuracies = np.array(tried).reshape(-1, 2).T
                axes.scatter(
                    places,
                    accuracies,
                    color=colours[search.method],
                    marker=marker,
                    s=20,
                    label=search.method if is_accepted else None,
                )
        axes.axhline(100 * floor, color=theme.ink, linewidth=1, linestyle="--", label="floor")
        return _over_candidates(figure, axes, "accuracy by the oracle, %")

    return render(
        draw,
        name="searches-accuracy",
        alt="Accuracy of the candidates of each search",
        caption="Accuracy of every candidate by the oracle: dots were accepted, crosses rejected.",
    )


def _over_candidates(figure: Figure, axes: Axes, label: str) -> Figure:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="candidate", ylabel=label)
    axes.grid()
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@dataclass(frozen=True, kw_only=True)
class CalibrationMap:
    """A map from the loss that an oracle measures to the loss after the full fine-tune.

    Attributes:
        what: is pruned.
        points: `(measured, full)` losses of accuracy, of the plans that were fine-tuned in full.
        calibration: the map fitted to them.
        residual: its root mean square error, drawn as a band.
    """

    what: str
    points: Sequence[tuple[float, float]]
    calibration: Callable[[float], float]
    residual: float


def plot_calibration(maps: Sequence[CalibrationMap]) -> Picture:
    """Plot what an oracle's losses are mapped to, for each kind of plan.

    Args:
        maps: one or more.
    """

    def draw(theme: Theme) -> Figure:
        figure, axes = new_figure(2.9)
        for calibration_map, colour in zip(maps, (theme.own, *theme.others), strict=False):
            measured, full = 100 * np.array(calibration_map.points).T
            losses = np.linspace(0, 1.1 * max(0.1, *measured), 60)
            fitted = np.array([100 * calibration_map.calibration(loss / 100) for loss in losses])
            error = 100 * calibration_map.residual
            axes.fill_between(
                losses, fitted - error, fitted + error, color=colour, alpha=0.15, linewidth=0
            )
            axes.plot(losses, fitted, color=colour, linewidth=1.2, label=calibration_map.what)
            axes.scatter(measured, full, color=colour, s=20, zorder=3)
        axes.grid()
        axes.set(xlabel=_LOSS_LABELS[0], ylabel=_LOSS_LABELS[1].replace(" full", "\nfull"))
        if len(maps) > 1:
            figure.legend(loc="outside lower center", ncols=2)
        return figure

    return render(
        draw,
        name="calibration",
        alt="Loss that the oracle sees against the loss after full fine-tuning",
        caption="Loss that the oracle sees against the loss after the full fine-tune, and the map "
        "between them with its error.",
    )


def plot_plan(network: Network, method: str, plan: Plan) -> Picture:
    """Plot what a plan keeps of each layer: its channels before and after, and its scheme.

    Args:
        network: that is pruned.
        method: that found the plan.
        plan: of the network.
    """
    before = network.widths(network.dense)
    after = network.widths(plan)
    schemes = network.schemes(plan)
    layers = [
        (subgraph.name, subgraph.channels_out.at(before), subgraph.channels_out.at(after), at)
        for at, subgraph in enumerate(network.subgraphs)
        if subgraph.template.operator.name != "other"
    ]

    def draw(theme: Theme) -> Figure:
        figure, axes = new_figure(0.8 + _ROW_IN * len(layers))
        labels = []
        for y, (_, n_before, n_after, at) in enumerate(layers):
            scheme = schemes.get(at)
            axes.barh(y, 100, height=0.72, color=theme.faint, alpha=0.6)
            axes.barh(y, 100 * n_after / n_before, height=0.72, **_fill(theme, scheme))
            labels.append(f"{n_after} of {n_before}{f', {scheme}' if scheme else ''}")
        axes.set_yticks(range(len(layers)), [name for name, *_ in layers], fontsize=8.5)
        axes.set(xlim=(0, 100), xlabel="channels after pruning, % of those before")
        axes.set_ylim(len(layers) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines[:].set_visible(False)
        right = axes.secondary_yaxis("right")
        right.set_yticks(range(len(layers)), labels, fontsize=8.5)
        right.tick_params(length=0)
        right.spines[:].set_visible(False)
        return figure

    caption = f"What {method} keeps: channels of each layer before (pale) and after."
    if schemes:
        caption += (
            " Hatched layers are pruned by a scheme: block(8,0.25) keeps a quarter of the "
            "weights, the same entries in each block of 8 output channels."
        )
    return render(
        draw,
        name=f"plan-{method}",
        alt=f"Channels and schemes of each layer, before and after, by {method}",
        caption=caption,
    )


def _fill(theme: Theme, scheme: Scheme | None) -> dict[str, Any]:
    if scheme is None:
        return {"color": theme.own}
    return {"facecolor": "none", "edgecolor": theme.own, "hatch": "/////"}


def _error_bar(value: float, ends: tuple[float, float] | None) -> list[list[float]] | None:
    return None if ends is None else [[value - ends[0]], [ends[1] - value]]
