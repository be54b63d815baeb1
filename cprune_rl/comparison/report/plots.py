"""Pictures of a comparison: standings, gain against cost, profiles, pairs, fronts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from scipy.optimize import isotonic_regression

from cprune_rl.comparison.compare import MethodComparison
from cprune_rl.comparison.profiles import Curve
from cprune_rl.core.intervals import Interval
from cprune_rl.reporting.figure import Picture, Theme, new_figure, render

__all__ = [
    "plot_costs",
    "plot_fronts",
    "plot_iqm",
    "plot_pairs",
    "plot_profiles",
    "plot_speedup",
]

_N_WRITTEN = 12  # methods up to which a cell of the heat map has its number
_LABEL_GAP = 0.062  # between names at the ends of lines, as a share of the axes' height
# Line styles stand beside the colours for those who do not see them.
_DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = (
    "-",
    "--",
    "-.",
    ":",
    (0, (5, 1, 1, 1, 1, 1)),
    (0, (1, 1)),
)
_WIDTHS = (0.8, 1.5, 2.8)  # of lines: grey, coloured, the agent's
_COSTS = {
    "fresh_trials": "fresh trials",
    "accuracy_evaluations": "accuracy evaluations",
    "seconds": "seconds of trials and evaluations",
}


@dataclass(frozen=True, kw_only=True)
class _Line:
    """How one method is drawn."""

    colour: str
    width: float
    dashes: str | tuple[int, tuple[int, ...]]
    is_named: bool
    has_band: bool
    layer: int


class _Dot(NamedTuple):
    """A figure of one method, with its interval over problems and the one over seeds."""

    method: str
    over_problems: Interval
    over_seeds: Interval


def plot_iqm(comparison: MethodComparison) -> Picture:
    """Plot the interquartile mean of each method's share, with both intervals."""
    dots = [_Dot(s.method, s.iqm, s.iqm_seeds) for s in comparison.standings]
    return render(
        partial(_draw_dots, dots, comparison.agent, label="share of the best log gain, IQM"),
        name="iqm",
        alt="Interquartile mean of the share of the best gain of each method, best at the top",
        caption="Share of the best log gain known of each case: interquartile mean. "
        "Thin: 95 % over problems and seeds; thick: over seeds on these problems alone.",
    )


def plot_speedup(comparison: MethodComparison) -> Picture:
    """Plot the geometric mean speed-up of each method, with both intervals."""
    dots = [_Dot(s.method, s.speedup, s.speedup_seeds) for s in comparison.standings]
    dots.sort(key=lambda dot: -dot.over_problems.value)
    return render(
        partial(_draw_dots, dots, comparison.agent, label="speed-up over the dense network"),
        name="speedup",
        alt="Geometric mean speed-up of each method, best at the top",
        caption="Geometric mean speed-up over the dense network. Its interval over problems and "
        "seeds (thin) is wide because problems differ in what can be gained.",
    )


def _draw_dots(dots: Sequence[_Dot], agent: str, theme: Theme, *, label: str) -> Figure:
    figure, axes = new_figure(0.9 + 0.23 * len(dots))
    for y, (method, outer, inner) in enumerate(dots):
        is_agent = method == agent
        colour = theme.own if is_agent else theme.ink
        axes.plot([outer.low, outer.high], [y, y], color=colour, linewidth=1.1)
        axes.plot(
            [inner.low, inner.high],
            [y, y],
            color=colour,
            linewidth=3.4,
            alpha=0.55,
            solid_capstyle="butt",
        )
        axes.plot(outer.value, y, "o", color=colour, markersize=7.5 if is_agent else 5)
    axes.set_yticks(range(len(dots)), [dot.method for dot in dots])
    _emphasise(axes, agent, theme)
    axes.set_ylim(len(dots) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.set_xlabel(label)
    return figure


def plot_costs(comparison: MethodComparison) -> list[Picture]:
    """Plot speed-up against what was spent, one picture for each cost that there is."""
    return [_plot_cost(comparison, cost) for cost in _COSTS if cost in comparison.costs]


def _plot_cost(comparison: MethodComparison, cost: str) -> Picture:
    words = _COSTS[cost]

    def draw(theme: Theme) -> Figure:
        figure, axes = new_figure(3.9)
        lines = _lines(theme, comparison)
        _draw_curves(axes, comparison.costs[cost], lines)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel=f"{words} spent", ylabel="speed-up, geometric mean")
        _label_ends(axes, comparison.costs[cost], lines)
        return figure

    return render(
        draw,
        name=f"cost-{cost.replace('_', '-')}",
        alt=f"Speed-up of each method against {words}",
        caption=f"Speed-up of the plan that would be kept, once so many {words} are spent; "
        f"a method that is done stays where it ended.{_legend(comparison)}",
    )


def plot_profiles(comparison: MethodComparison) -> Picture:
    """Plot in which share of cases each method reached at least so much of the best gain."""
    lowest = min(0.9, float(np.nanmin(comparison.scores.share)))

    def draw(theme: Theme) -> Figure:
        figure, axes = new_figure(3.9)
        lines = _lines(theme, comparison)
        _draw_curves(axes, comparison.profiles, lines)
        axes.set(xlabel="share of the best log gain, at least", ylabel="share of cases")
        axes.set(xlim=(max(0.0, np.floor(10 * lowest) / 10), 1), ylim=(-0.02, 1.02))
        _label_ends(axes, comparison.profiles, lines)
        return figure

    return render(
        draw,
        name="profiles",
        alt="Performance profile of each method",
        caption="Performance profiles: higher is better, and a line above another everywhere is "
        f"better in every respect.{_legend(comparison)}",
    )


def plot_pairs(comparison: MethodComparison) -> Picture:
    """Plot a heat map of the probability that one method beats another."""
    k = len(comparison.standings)
    has_numbers = k <= _N_WRITTEN
    marked = (
        "Bold: the 95 % interval over problems and seeds leaves out"
        if has_numbers
        else "A ring, not told apart: the 95 % interval over problems and seeds holds"
    )
    return render(
        lambda theme: _draw_pairs(theme, comparison, has_numbers),
        name="pairs",
        alt="Probability that each method beats each other",
        caption="How often the row's method ends faster than the column's on the same case, "
        f"ties as halves. {marked} one half, for this pair alone.",
        is_wide=not has_numbers,
    )


def _draw_pairs(theme: Theme, comparison: MethodComparison, has_numbers: bool) -> Figure:
    names = [s.method for s in comparison.standings]
    k = len(names)
    side_in = max(5.2, 1.8 + 0.42 * k) if has_numbers else max(4.2, 1.9 + 0.2 * k)
    figure, axes = new_figure(side_in, side_in)
    values, low, high = np.moveaxis(comparison.improvement, -1, 0).copy()
    np.fill_diagonal(values, np.nan)
    colours = LinearSegmentedColormap.from_list(
        "behind to ahead",
        [
            (0, to_rgba(theme.others[0], 0.8)),
            (0.5, to_rgba(theme.others[0], 0)),
            (0.5, to_rgba(theme.own, 0)),
            (1, to_rgba(theme.own, 0.8)),
        ],
    )
    image = axes.imshow(values, cmap=colours, vmin=0, vmax=1)
    is_clear = (low > 0.5) | (high < 0.5)
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value) and (has_numbers or not is_clear[i, j]):
            text = f"{100 * value:.0f}" if has_numbers else "○"
            weight = "bold" if is_clear[i, j] else "normal"
            axes.text(j, i, text, ha="center", va="center", fontsize=8.5, fontweight=weight)
    axes.set_xticks(range(k), names, rotation=90)
    axes.set_yticks(range(k), names)
    _emphasise(axes, comparison.agent, theme)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    label = "row ends faster than column, share of cases"
    bar = figure.colorbar(image, ax=axes, shrink=0.5, aspect=30, location="bottom", label=label)
    bar.outline.set_visible(False)
    return figure


def plot_fronts(comparison: MethodComparison) -> Picture:
    """Plot speed-up and change of accuracy of each method over the floors."""
    floors = next(iter(comparison.fronts.values())).floors

    def draw(theme: Theme) -> Figure:
        figure, axes = new_figure(4.2)
        for method, line in _lines(theme, comparison).items():
            front = comparison.fronts[method]
            points = zip(front.speedup, front.points, strict=True)
            ordered = sorted((s.value, p.value) for s, p in points if np.isfinite(s.value))
            speedups, changes = zip(*ordered, strict=True)
            axes.plot(
                speedups,
                changes,
                color=line.colour,
                linewidth=line.width,
                linestyle=line.dashes,
                marker="o",
                markersize=3 + line.width,
                zorder=line.layer,
                label=method if line.is_named else None,
            )
        for floor in floors:
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

    return render(
        draw,
        name="fronts",
        alt="Speed-up and change of accuracy of each method at each floor",
        caption="Mean over problems and seeds at each floor. To the upper right is better."
        f"{_greys(comparison)}",
    )


def _lines(theme: Theme, comparison: MethodComparison) -> dict[str, _Line]:
    """The agent stands out, the next best have colours, the rest are grey."""
    methods = [s.method for s in comparison.standings]
    colours = theme.colours(methods, comparison.agent)
    named = [m for m in methods if m != comparison.agent][: len(_DASHES)]
    dashes = dict(zip(named, _DASHES, strict=False))
    lines = {}
    for method in methods:
        is_agent = method == comparison.agent
        is_named = is_agent or method in dashes
        layer = is_named + is_agent
        lines[method] = _Line(
            colour=colours[method],
            width=_WIDTHS[layer],
            dashes=dashes.get(method, "-"),
            is_named=is_named,
            has_band=is_agent,
            layer=layer + 1,
        )
    return lines


def _legend(comparison: MethodComparison) -> str:
    """What a caption says of the band and of grey lines."""
    has_agent = any(s.method == comparison.agent for s in comparison.standings)
    band = f" Band: 95 % over problems and seeds, of {comparison.agent} alone." if has_agent else ""
    return band + _greys(comparison)


def _greys(comparison: MethodComparison) -> str:
    methods = [s.method for s in comparison.standings]
    n_grey = len(methods) - len(_DASHES) - (comparison.agent in methods)
    plural = "s" if n_grey > 1 else ""
    return f" Grey: {n_grey} more method{plural}, in the tables." if n_grey > 0 else ""


def _emphasise(axes: Axes, agent: str, theme: Theme) -> None:
    for tick in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        if tick.get_text() == agent:
            tick.set(color=theme.own, fontweight="bold")


def _draw_curves(axes: Axes, curves: dict[str, Curve], lines: dict[str, _Line]) -> None:
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
        if line.has_band:
            axes.fill_between(
                curve.x, curve.low, curve.high, color=line.colour, alpha=0.13, linewidth=0, zorder=0
            )
    axes.grid()
    axes.set_axisbelow(True)


def _label_ends(axes: Axes, curves: dict[str, Curve], lines: dict[str, _Line]) -> None:
    """Write names at the right end of named lines, moved apart where they would touch."""
    bottom, top = axes.get_ylim()
    ends = {
        method: (float(curves[method].value[-1]) - bottom) / (top - bottom)
        for method, line in lines.items()
        if line.is_named
    }
    ordered = sorted(ends.items(), key=itemgetter(1, 0))
    heights = _spread([end for _, end in ordered])
    for (method, end), height in zip(ordered, heights, strict=True):
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


def _spread(heights: Sequence[float]) -> Sequence[float]:
    """Move ascending heights as little as keeps them a gap apart, and above the axis."""
    gaps = _LABEL_GAP * np.arange(len(heights))
    spread: Sequence[float] = np.maximum(isotonic_regression(heights - gaps).x, 0) + gaps
    return spread
