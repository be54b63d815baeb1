"""Tables for the terminal: the subgraph table, and what the methods reached."""

from __future__ import annotations

from rich.table import Table

from cprune_rl.result import Figures, Result
from cprune_rl.table import SubgraphTable, TaskRow

__all__ = ["result_table", "subgraph_table"]


def subgraph_table(table: SubgraphTable) -> Table:
    """The subgraph table, one row for each task, slowest first."""
    view = Table(title=f"Subgraph table of {table.network.name}: {table.latency_s * 1e3:.3f} ms estimated")
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
        kernel = f" {operator.kernel}x{operator.kernel}" if operator.name in ("conv2d", "depthwise") else ""
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
    title = f"{result.model} on {result.data}, {result.device}, floor {result.floor:+.3f}" + (" (--fast)" if result.fast else "")
    view = Table(title=title)
    columns = ("", "latency ms [95 %]", "speed-up [95 %]", "test acc.", "params", "MACs", "fresh trials", "evaluations", "search s")
    for name in columns:
        view.add_column(name, justify="left" if not name else "right")
    view.add_row("dense", *_figures(result.dense, "1.00"), "-", "-", "-")
    for m in (*result.rivals, result.main):
        low, high = m.speedup_ci
        cells = _figures(m.pruned, f"{m.speedup:.2f} [{low:.2f}, {high:.2f}]".replace("[", r"\["))
        view.add_row(
            m.method,
            *cells,
            f"{m.cost['fresh_trials']:.0f}",
            f"{m.cost['accuracy_evaluations']:.0f}",
            f"{m.cost['measure_s'] + m.cost['train_s'] + m.cost.get('policy_s', 0.0):.0f}",
        )
    return view


def _figures(figures: Figures, speedup: str) -> tuple[str, str, str, str, str]:
    low, high = figures.latency_ci_ms
    latency = rf"{figures.latency_ms:.3f} \[{low:.3f}, {high:.3f}]"
    return latency, speedup, f"{figures.accuracy_test:.2%}", f"{figures.n_params / 1e3:.1f} k", f"{figures.macs / 1e6:.2f} M"
