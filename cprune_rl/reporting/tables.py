"""Tables for the terminal: the subgraph table, and what the methods reached."""

from __future__ import annotations

from rich.table import Table

from cprune_rl.core.result import Figures, Result
from cprune_rl.core.subgraph_table import SubgraphTable, TaskRow

__all__ = ["NO_GAIN", "noise_line", "predicted_line", "result_table", "subgraph_table"]

NO_GAIN = "no gain measurable"


def subgraph_table(table: SubgraphTable) -> Table:
    """The subgraph table, one row for each task, slowest first."""
    view = Table(
        title=f"Subgraph table of {table.network.name}: {table.latency_s * 1e3:.3f} ms estimated"
    )
    for name, justify in (
        ("task", "left"),
        ("x", "right"),
        ("channels", "right"),
        ("map", "right"),
        ("us", "right"),
        ("share", "right"),
        ("tile factors", "left"),
        ("step", "right"),
    ):
        view.add_column(name, justify=justify)  # type: ignore[arg-type]  # rich's literal type
    view.add_column("groups")
    for row in sorted(table.rows, key=lambda r: -r.total_s):
        operator = row.workload.operator
        kernel = (
            f" {operator.kernel}x{operator.kernel}"
            if operator.name in ("conv2d", "depthwise")
            else ""
        )
        layers = ", ".join(table.network.subgraphs[s].name for s in row.subgraphs)
        view.add_row(
            f"{layers} [dim]{operator.name}{kernel}{'/' + str(operator.stride) if operator.stride > 1 else ''}[/dim]",
            str(row.weight),
            f"{row.workload.channels_in} -> {row.workload.channels_out}",
            f"{operator.height}x{operator.height}",
            f"{row.latency_s * 1e6:.1f}",
            f"{row.total_s / table.latency_s:.0%}",
            "x".join(map(str, row.tile_factors)) or "-",
            _steps(table, row),
            ", ".join(table.network.groups[g].name for g in row.groups) or "-",
        )
    return view


def _steps(table: SubgraphTable, row: TaskRow) -> str:
    return ", ".join(str(table.steps[g]) for g in row.groups) or "-"


def result_table(result: Result) -> Table:
    """Dense network, rivals and the run's own method, side by side."""
    title = f"{result.model} on {result.data}, {result.device}, floor {result.floor:+.3f}" + (
        " (--fast)" if result.fast else ""
    )
    view = Table(title=f"{title}: estimates, nothing was timed" if result.is_estimate else title)
    latency, speedup = (
        ("estimate, ms", "speed-up, estimate [95 %]")
        if result.is_estimate
        else ("latency ms [95 %]", "speed-up [95 %]")
    )
    columns = (
        "",
        latency,
        speedup,
        "test acc. [95 %]",
        "params",
        "MACs",
        "fresh trials",
        "evaluations",
        "search s",
    )
    for name in columns:
        view.add_column(name, justify="left" if not name else "right")
    view.add_row("dense", *_figures(result.dense, "1.00"), "-", "-", "-")
    for m in (*result.rivals, result.main):
        low, high = m.speedup_ci
        speedup = (
            f"{m.speedup:.2f} [{low:.2f}, {high:.2f}]"
            if result.has_gain(m)
            else f"{NO_GAIN} ({m.speedup:.2f})"
        )
        cells = _figures(m.pruned, speedup.replace("[", r"\["))
        view.add_row(
            m.method,
            *cells,
            f"{m.cost['fresh_trials']:.0f}",
            f"{m.cost['accuracy_evaluations']:.0f}",
            f"{m.cost['measure_s'] + m.cost['train_s'] + m.cost.get('policy_s', 0.0):.0f}",
        )
    return view


def noise_line(result: Result) -> str:
    """What the noise floor says, or whose recording the estimates rest on;

    empty where neither is known.
    """
    if result.is_estimate:
        return f"latencies are estimates, sums of tasks, {result.latency_source}: nothing was built or timed in this run"
    if result.noise_floor is None:
        return ""
    return f"noise floor: +-{result.noise_floor:.1%} (the dense network against itself, in the same rounds): differences below it are not called a gain"


def predicted_line(result: Result) -> str:
    """How much of each search's estimates was predicted; empty where every task was measured."""
    shares = [
        f"{m.predicted_share:.0%} of {m.method}'s"
        for m in (*result.rivals, result.main)
        if m.predicted_share
    ]
    return (
        f"estimates on the way: {', '.join(shares)} were predicted, the rest measured; the latencies of the networks above are all measured"
        if shares
        else ""
    )


def _figures(figures: Figures, speedup: str) -> tuple[str, str, str, str, str]:
    latency = f"{figures.shown_ms:.3f}"
    if figures.latency_ci_ms is not None:
        latency += r" \[{:.3f}, {:.3f}]".format(*figures.latency_ci_ms)
    accuracy = r"{:.2%} \[{:.2f}, {:.2f}]".format(
        figures.accuracy_test, *(100 * end for end in figures.accuracy_test_ci)
    )
    return (
        latency,
        speedup,
        accuracy,
        f"{figures.n_params / 1e3:.1f} k",
        f"{figures.macs / 1e6:.2f} M",
    )
