"""Why the compiler is asked: pictures and a table of recorded latencies, losses and operations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure

from cprune_rl.comparison.compiler_evidence import (
    Inversion,
    Proxies,
    Staircase,
    find_inversion,
    find_staircase,
    measure_proxies,
    one_per_network,
)
from cprune_rl.reporting.figure import Picture, Theme, new_figure, render
from cprune_rl.reporting.tables import Column, Table

__all__ = [
    "Evidence",
    "collect_evidence",
    "plot_inversion",
    "plot_staircase",
    "proxies_table",
    "slower_widths",
]

_NOISE = 0.02  # share by which two recorded latencies must differ to count
_TITLE_COLUMNS = 62  # characters of a title that fit into a picture
_WIDE_RANGE = 20  # times, from which a staircase needs a logarithm


@dataclass(frozen=True)
class Evidence:
    """What a page shows of why the compiler is asked.

    Attributes:
        pictures: staircases, and plans of equal loss.
        proxies: how well what is free ranks plans.
    """

    pictures: Sequence[Picture] = ()
    proxies: Sequence[Proxies] = ()


def collect_evidence(problems: Sequence[str]) -> Evidence:
    """Collect the evidence of some recorded problems.

    Args:
        problems: names of recordings; one of each network gets pictures.
    """
    pictures = []
    for problem in one_per_network(problems):
        staircase = find_staircase(problem)
        if staircase is not None:
            pictures.append(plot_staircase(staircase))
        pictures.append(plot_inversion(find_inversion(problem)))
    return Evidence(pictures, [measure_proxies(problem) for problem in problems])


def slower_widths(
    points: Sequence[tuple[int, float]], noise: float = 0.0
) -> tuple[list[int], list[int]]:
    """Find the widths that are no gain.

    Args:
        points: `(channels, latency in s)` of one layer; the widest is the dense one.
        noise: share by which two latencies must differ to count.

    Returns:
        Channels at which the layer is slower than dense, and at which it is slower than at some
        wider width.
    """
    channels, latency_s = np.array(sorted(points, reverse=True)).T
    best_s = np.minimum.accumulate(latency_s)
    than_dense = channels[latency_s > latency_s[0] * (1 + noise)]
    than_wider = channels[1:][latency_s[1:] > best_s[:-1] * (1 + noise)]
    return than_dense.astype(int).tolist(), than_wider.astype(int).tolist()


def plot_staircase(staircase: Staircase, noise: float = _NOISE) -> Picture:
    """Plot the latency of a layer over its channels: fewer is not always faster.

    Args:
        staircase: of at least two widths.
        noise: share by which two latencies must differ to count.
    """
    title = f"{staircase.layer} of {staircase.problem}, {staircase.channels_in} channels read"
    dense, wider = slower_widths(staircase.points, noise)
    latency_us = {channels: 1e6 * latency_s for channels, latency_s in staircase.points}

    def draw(theme: Theme) -> Figure:
        figure, axes = new_figure(3.7)
        axes.plot(*zip(*sorted(latency_us.items()), strict=True), ".-", color=theme.own, lw=1.2)
        for channels, marker, colour, size, label in (
            (wider, "o", theme.others[3], 11, "slower than a wider width"),
            (dense, "x", theme.others[0], 6, "slower than dense"),
        ):
            axes.plot(
                channels,
                [latency_us[c] for c in channels],
                marker,
                color=colour,
                markersize=size,
                markerfacecolor="none",
                markeredgewidth=1.6,
                label=f"{label}: {len(channels)} of {len(latency_us)}",
            )
        axes.axhline(latency_us[max(latency_us)], color=theme.faint, linewidth=1, zorder=0)
        axes.set(xlabel="channels kept", ylabel="latency, µs", title=fill(title, _TITLE_COLUMNS))
        if max(latency_us.values()) > _WIDE_RANGE * min(latency_us.values()):
            axes.set_yscale("log")
        else:
            axes.set_ylim(0, None)
        figure.legend(loc="outside lower center")
        return figure

    by = f", by more than {noise:.1%}," if noise else ""
    return render(
        draw,
        name=_file_name("staircase", staircase.problem),
        alt=f"Latency over channels: {title}",
        caption=f"{title}. Of {len(latency_us)} widths that were timed {len(dense)} are slower{by} "
        f"than the dense layer, {len(wider)} slower than some wider one.",
    )


def plot_inversion(inversion: Inversion) -> Picture:
    """Plot plans of equal loss: the one of fewest operations is not the fastest."""
    macs, latency = np.array(inversion.points).T
    fewest = int(np.argmin(macs))
    fastest = int(np.argmin(latency))
    rank = 1 + int((latency < latency[fewest]).sum())
    title = f"{inversion.problem}, {len(macs)} plans of equal predicted loss"

    def draw(theme: Theme) -> Figure:
        figure, axes = new_figure(4.1)
        axes.scatter(macs, latency, s=16, color=theme.own, alpha=0.65, linewidths=0)
        for at, colour, marker, label in (
            (fewest, theme.others[0], "o", f"fewest operations, number {rank} by latency"),
            (fastest, theme.others[1], "s", "fastest"),
        ):
            axes.scatter(
                macs[at],
                latency[at],
                s=90,
                marker=marker,
                facecolors="none",
                edgecolors=colour,
                linewidths=1.6,
                label=label,
            )
        axes.set(xlabel="operations, share of dense", ylabel="latency, share of dense")
        axes.set_title(fill(title, _TITLE_COLUMNS))
        figure.legend(loc="outside lower center", ncols=2)
        return figure

    correlation = inversion.correlation
    interval = f"{correlation.value:.2f} [{correlation.low:.2f}, {correlation.high:.2f}]"
    lost = latency[fewest] / latency[fastest] - 1
    return render(
        draw,
        name=_file_name("order", inversion.problem),
        alt=f"Latency against operations: {title}",
        caption=f"{title}: latency against operations, rank correlation {interval}. The plan of "
        f"fewest operations is number {rank} by latency, {lost:.1%} above the fastest.",
    )


def proxies_table(proxies: Sequence[Proxies]) -> Table:
    """Show how well what is free ranks plans."""
    titles = {
        "macs": "operations with latency",
        "latency": "predicted latency with latency",
        "loss": "loss shown with true loss",
    }
    columns = [Column(title="problem", value=attrgetter("problem"))]
    for name, title in titles.items():
        columns.append(Column(title=title, value=attrgetter(name), digits=2, has_interval=True))
    return Table(
        name="proxies",
        caption="Rank correlation of what is free with the truth, on random plans that are "
        "predicted to use a half to all of the slack",
        columns=columns,
        items=proxies,
    )


def _file_name(kind: str, problem: str) -> str:
    """Name a picture; a problem may be the path of a recording."""
    return re.sub(r"[^\w.]+", "-", f"{kind}-{problem}")
