"""Pictures of a comparison:

standings, cost, profiles, pairs, fronts; and two of why a compiler must be asked at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from cprune_rl.comparison.profiles import Curve
from cprune_rl.comparison.statistics import Comparison
from cprune_rl.core.intervals import Interval
from cprune_rl.reporting.figure import Picture, Theme, paint

__all__ = [
    "plot_costs",
    "plot_fronts",
    "plot_iqm",
    "plot_order",
    "plot_pairs",
    "plot_profiles",
    "plot_speedup",
    "plot_staircase",
    "staircase_counts",
]

_WIDTH = 5.2  # inches; read on a phone at two thirds of its size
_LINE = 62  # characters of a title that fit into that
_WIDE_RANGE = 20  # times, from which a staircase needs a logarithm
_N_WRITTEN = 12  # methods up to which a cell of the heat map has its number
_DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = (
    "-",
    "--",
    "-.",
    ":",
    (0, (5, 1, 1, 1, 1, 1)),
    (0, (1, 1)),
)  # beside the hue, for those who do not see it
_COSTS = {
    "fresh_trials": "fresh trials",
    "accuracy_evaluations": "accuracy evaluations",
    "seconds": "seconds of trials and evaluations",
}


class _Line(NamedTuple):
    """How one method is drawn."""

    colour: str
    width: float
    dashes: str | tuple[int, tuple[int, ...]]
    is_named: bool
    layer: int


def plot_iqm(found: Comparison) -> Picture:
    """Interquartile mean of the share of each method, with both intervals."""
    rows = [(s.method, s.iqm, s.iqm_seeds) for s in found.standings]
    caption = "Share of the best log gain known of each case: interquartile mean. Thin: 95 % over problems and seeds; thick: over seeds on these problems alone."
    return _dots(
        "iqm",
        "Interquartile mean of the share of the best gain of each method, best at the top",
        caption,
        "share of the best log gain, IQM",
        rows,
        found.agent,
    )


def plot_speedup(found: Comparison) -> Picture:
    """Geometric mean speed-up of each method, with both intervals."""
    rows = sorted(
        ((s.method, s.speedup, s.speedup_seeds) for s in found.standings), key=lambda r: -r[1].value
    )
    caption = "Geometric mean speed-up over the dense network. Its interval over problems and seeds (thin) is wide because problems differ in what can be gained."
    return _dots(
        "speedup",
        "Geometric mean speed-up of each method, best at the top",
        caption,
        "speed-up over the dense network",
        rows,
        found.agent,
    )


def _dots(
    name: str,
    alt: str,
    caption: str,
    label: str,
    rows: Sequence[tuple[str, Interval, Interval]],
    agent: str,
) -> Picture:
    def painter(theme: Theme) -> Figure:
        figure, axes = _figure(0.9 + 0.23 * len(rows))
        for y, (method, outer, inner) in enumerate(rows):
            colour, size = (theme.agent, 7.5) if method == agent else (theme.ink, 5)
            axes.plot([outer.low, outer.high], [y, y], color=colour, linewidth=1.1)
            axes.plot(
                [inner.low, inner.high],
                [y, y],
                color=colour,
                linewidth=3.4,
                alpha=0.55,
                solid_capstyle="butt",
            )
            axes.plot(outer.value, y, "o", color=colour, markersize=size)
        axes.set_yticks(range(len(rows)), [r[0] for r in rows])
        for tick, (method, *_) in zip(axes.get_yticklabels(), rows, strict=True):
            if method == agent:
                tick.set(color=theme.agent, fontweight="bold")
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.set_xlabel(label)
        return figure

    return paint(name, alt, caption, painter)


def plot_costs(found: Comparison) -> list[Picture]:
    """Geometric mean speed-up against what was spent, one picture for each cost that there is."""
    return [
        _curve_plot(found, f"cost-{cost.replace('_', '-')}", words, found.costs[cost])
        for cost, words in _COSTS.items()
        if cost in found.costs
    ]


def _curve_plot(found: Comparison, name: str, words: str, curves: dict[str, Curve]) -> Picture:
    def painter(theme: Theme) -> Figure:
        figure, axes = _figure(3.9)
        lines = _lines(theme, [s.method for s in found.standings], found.agent)
        _draw(axes, curves, lines, found.agent)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel=f"{words} spent", ylabel="speed-up, geometric mean")
        _label_ends(axes, curves, lines)
        return figure

    caption = f"Speed-up of the plan that would be kept, once so many {words} are spent; a method that is done stays where it ended."
    return paint(
        name,
        f"Speed-up of each method against {words}",
        caption + _band(found) + _rest(found),
        painter,
    )


def plot_profiles(found: Comparison) -> Picture:
    """In which share of cases each method reached at least so much of the best gain."""

    def painter(theme: Theme) -> Figure:
        figure, axes = _figure(3.9)
        lines = _lines(theme, [s.method for s in found.standings], found.agent)
        _draw(axes, found.profiles, lines, found.agent)
        lowest = min(0.9, float(np.nanmin(found.scores.share)))
        axes.set(
            xlabel="share of the best log gain, at least",
            ylabel="share of cases",
            xlim=(max(0.0, np.floor(10 * lowest) / 10), 1),
            ylim=(-0.02, 1.02),
        )
        _label_ends(axes, found.profiles, lines)
        return figure

    caption = "Performance profiles: higher is better, and a line above another everywhere is better in every respect."
    return paint(
        "profiles",
        "Performance profile of each method",
        caption + _band(found) + _rest(found),
        painter,
    )


def plot_pairs(found: Comparison) -> Picture:
    """Heat map of the probability that one method beats another."""
    names = [s.method for s in found.standings]
    k = len(names)

    def painter(theme: Theme) -> Figure:
        side = max(4.2, 1.9 + 0.2 * k) if k > _N_WRITTEN else max(_WIDTH, 1.8 + 0.42 * k)
        figure, axes = _figure(side, side)
        values, low, high = np.moveaxis(found.improvement, -1, 0).copy()
        np.fill_diagonal(values, np.nan)
        behind, ahead = theme.others[0], theme.agent
        steps = [
            (0, _clear(behind, 0.8)),
            (0.5, _clear(behind, 0)),
            (0.5, _clear(ahead, 0)),
            (1, _clear(ahead, 0.8)),
        ]
        colours = LinearSegmentedColormap.from_list("behind to ahead", steps)
        image = axes.imshow(values, cmap=colours, vmin=0, vmax=1)
        for (i, j), value in np.ndenumerate(values):
            is_clear = low[i, j] > 0.5 or high[i, j] < 0.5
            if np.isfinite(value) and (k <= _N_WRITTEN or not is_clear):
                text = f"{100 * value:.0f}" if k <= _N_WRITTEN else "○"
                axes.text(
                    j,
                    i,
                    text,
                    ha="center",
                    va="center",
                    fontsize=8.5,
                    fontweight="bold" if is_clear else "normal",
                )
        axes.set_xticks(range(k), names, rotation=90)
        axes.set_yticks(range(k), names)
        for tick in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            if tick.get_text() == found.agent:
                tick.set(color=theme.agent, fontweight="bold")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(
            image,
            ax=axes,
            shrink=0.5,
            aspect=30,
            location="bottom",
            label="row ends faster than column, share of cases",
        )
        bar.outline.set_visible(False)
        return figure

    marked = (
        "Bold: the 95 % interval over problems and seeds leaves out"
        if k <= _N_WRITTEN
        else "A ring, not told apart: the 95 % interval over problems and seeds holds"
    )
    caption = f"How often the row's method ends faster than the column's on the same case, ties as halves. {marked} one half, for this pair alone."
    return paint(
        "pairs",
        "Probability that each method beats each other",
        caption,
        painter,
        is_wide=k > _N_WRITTEN,
    )


def plot_fronts(found: Comparison) -> Picture:
    """Speed-up and change of accuracy of each method, over the floors."""
    names = [s.method for s in found.standings]

    def painter(theme: Theme) -> Figure:
        figure, axes = _figure(4.2)
        for method, line in _lines(theme, names, found.agent).items():
            front = found.fronts[method]
            points = sorted(
                (s.value, p.value)
                for s, p in zip(front.speedup, front.points, strict=True)
                if np.isfinite(s.value)
            )
            x, y = zip(*points, strict=True)
            label = method if line.is_named else None
            axes.plot(
                x,
                y,
                color=line.colour,
                linewidth=line.width,
                linestyle=line.dashes,
                marker="o",
                markersize=3 + line.width,
                zorder=line.layer,
                label=label,
            )
        for floor in next(iter(found.fronts.values())).floors:
            axes.axhline(100 * floor, color=theme.faint, linewidth=1, zorder=0)
            axes.annotate(
                f"floor {100 * floor:+g}",
                (1, 100 * floor),
                xycoords=("axes fraction", "data"),
                xytext=(-2, 2),
                textcoords="offset points",
                ha="right",
                fontsize=8,
            )
        axes.set(xlabel="speed-up, geometric mean", ylabel="change of accuracy, points")
        figure.legend(loc="outside lower center", ncols=3)
        return figure

    caption = "Mean over problems and seeds at each floor. To the upper right is better."
    return paint(
        "fronts",
        "Speed-up and change of accuracy of each method at each floor",
        caption + _rest(found),
        painter,
    )


def staircase_counts(
    points: Sequence[tuple[int, float]], noise: float = 0.0
) -> tuple[list[int], list[int]]:
    """Widths that are no gain.

    Args:
        points: `(channels, latency in s)` of one layer; the widest is the dense one.
        noise: share by which two latencies must differ to count.

    Returns:
        Channels at which the layer is slower than dense; and at which it is slower than at some
        wider width.
    """
    ordered = sorted(points, reverse=True)
    slower_than_dense, slower_than_wider, best = [], [], float("inf")
    for channels, latency in ordered:
        if latency > ordered[0][1] * (1 + noise):
            slower_than_dense.append(channels)
        if latency > best * (1 + noise):
            slower_than_wider.append(channels)
        best = min(best, latency)
    return slower_than_dense, slower_than_wider


def plot_staircase(
    name: str, title: str, points: Sequence[tuple[int, float]], noise: float = 0.0
) -> Picture:
    """Latency of a layer over its channels: fewer is not always faster.

    Args:
        name: of the files.
        title: what layer, on what device.
        points: `(channels, latency in s)`, at least two.
        noise: share by which two latencies must differ to count.
    """
    dense, wider = staircase_counts(points, noise)
    latency_us = {c: 1e6 * t for c, t in sorted(points)}

    def painter(theme: Theme) -> Figure:
        figure, axes = _figure(3.7)
        axes.plot(
            list(latency_us),
            list(latency_us.values()),
            color=theme.agent,
            linewidth=1.2,
            marker=".",
            markersize=4,
        )
        for channels, style, colour, size, label in (
            (wider, "o", theme.others[3], 11, "slower than a wider width"),
            (dense, "x", theme.others[0], 6, "slower than dense"),
        ):
            chosen, words = (
                [latency_us[c] for c in channels],
                f"{label}: {len(channels)} of {len(latency_us)}",
            )
            axes.plot(
                channels,
                chosen,
                style,
                color=colour,
                markersize=size,
                markerfacecolor="none",
                markeredgewidth=1.6,
                linestyle="none",
                label=words,
            )
        axes.axhline(latency_us[max(latency_us)], color=theme.faint, linewidth=1, zorder=0)
        axes.set(xlabel="channels kept", ylabel="latency, µs", title=fill(title, _LINE))
        if max(latency_us.values()) > _WIDE_RANGE * min(latency_us.values()):
            axes.set_yscale("log")
        else:
            axes.set_ylim(0, None)
        figure.legend(loc="outside lower center")
        return figure

    by = f", by more than {noise:.1%}," if noise else ""
    caption = f"{title}. Of {len(latency_us)} widths that were timed {len(dense)} are slower{by} than the dense layer, {len(wider)} slower than some wider one."
    return paint(name, f"Latency over channels: {title}", caption, painter)


def plot_order(
    name: str,
    title: str,
    pairs: Sequence[tuple[float, float]],
    correlation: Interval,
    labels: tuple[str, str],
) -> Picture:
    """Order inversion: what is least by one measure is not what is least by the other.

    Args:
        name: of the files.
        title: of what.
        pairs: two measures of each network, the less the better: operations and latency, or latency
            before and after tuning.
        correlation: rank correlation of the pairs.
        labels: what the two are, with their units.
    """
    first, second = np.array(pairs).T
    chosen, best = int(np.argmin(first)), int(np.argmin(second))
    rank = 1 + int((second < second[chosen]).sum())

    def painter(theme: Theme) -> Figure:
        figure, axes = _figure(4.1)
        axes.scatter(first, second, s=16, color=theme.agent, alpha=0.65, linewidths=0)
        for at, colour, marker, label in (
            (chosen, theme.others[0], "o", f"least by the first, number {rank} by the second"),
            (best, theme.others[1], "s", "least by the second"),
        ):
            axes.scatter(
                first[at],
                second[at],
                s=90,
                marker=marker,
                facecolors="none",
                edgecolors=colour,
                linewidths=1.6,
                label=label,
            )
        axes.set(xlabel=labels[0], ylabel=labels[1], title=fill(title, _LINE))
        figure.legend(loc="outside lower center", ncols=2)
        return figure

    words = f"{correlation.value:.2f} [{correlation.low:.2f}, {correlation.high:.2f}]"
    lost = second[chosen] / second[best] - 1
    caption = f"{title}: {labels[1]} against {labels[0]} of {len(pairs)} networks, rank correlation {words}. "
    caption += f"The least by the first is number {rank} by the second, {lost:.1%} above the least."
    return paint(name, f"{labels[1]} against {labels[0]}: {title}", caption, painter)


def _figure(height: float, width: float = _WIDTH) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _lines(theme: Theme, methods: Sequence[str], agent: str) -> dict[str, _Line]:
    """The agent stands out, the next best have colours, the rest are grey."""
    named = [m for m in methods if m != agent][: len(theme.others)]
    found = {m: _Line(theme.rest, 0.8, "-", False, 1) for m in methods}
    found |= {
        m: _Line(colour, 1.5, dashes, True, 2)
        for m, colour, dashes in zip(named, theme.others, _DASHES, strict=False)
    }
    if agent in found:
        found[agent] = _Line(theme.agent, 2.8, "-", True, 3)
    return found


def _rest(found: Comparison) -> str:
    """What a caption says of methods that are drawn otherwise."""
    methods = [s.method for s in found.standings]
    n_rest = len(methods) - len(_DASHES) - (found.agent in methods)
    return (
        f" Grey: {n_rest} more method{'s' if n_rest > 1 else ''}, in the tables."
        if n_rest > 0
        else ""
    )


def _band(found: Comparison) -> str:
    return (
        f" Band: 95 % over problems and seeds, of {found.agent} alone."
        if any(s.method == found.agent for s in found.standings)
        else ""
    )


def _draw(axes: Axes, curves: dict[str, Curve], lines: dict[str, _Line], agent: str) -> None:
    for method, curve in curves.items():
        line = lines[method]
        axes.plot(
            curve.x,
            curve.value,
            color=line.colour,
            linewidth=line.width,
            linestyle=line.dashes,
            zorder=line.layer,
        )
        if method == agent:
            axes.fill_between(
                curve.x, curve.low, curve.high, color=line.colour, alpha=0.13, linewidth=0, zorder=0
            )
    axes.grid()
    axes.set_axisbelow(True)


def _label_ends(axes: Axes, curves: dict[str, Curve], lines: dict[str, _Line]) -> None:
    """Names at the right end of named lines, moved apart where they would touch."""
    bottom, top = axes.get_ylim()
    ends = sorted(
        ((float(curves[m].value[-1]) - bottom) / (top - bottom), m)
        for m, line in lines.items()
        if line.is_named
    )
    for (end, method), height in zip(ends, _apart([end for end, _ in ends], 0.062), strict=True):
        line = lines[method]
        axes.annotate(
            method,
            (1.0, end),
            xytext=(1.05, height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=line.colour,
            va="center",
            fontsize=8.5,
            fontweight="bold" if line.width > 2 else "normal",
            arrowprops={
                "arrowstyle": "-",
                "color": line.colour,
                "linewidth": 0.7,
                "shrinkA": 1,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places in [0, 1], moved as little as keeps them so far apart:

    what touches becomes a stack about its middle.
    """
    stacks: list[tuple[float, int]] = []  # middle, how many
    for place in places:
        stacks.append((place, 1))
        while (
            len(stacks) > 1
            and stacks[-1][0] - stacks[-2][0] < gap * (stacks[-1][1] + stacks[-2][1]) / 2
        ):
            (upper, n), (lower, m) = stacks.pop(), stacks.pop()
            stacks.append(((upper * n + lower * m) / (n + m), n + m))
    return [middle + gap * (i - (n - 1) / 2) for middle, n in stacks for i in range(n)]


def _clear(colour: str, opacity: float) -> tuple[float, float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue, opacity
