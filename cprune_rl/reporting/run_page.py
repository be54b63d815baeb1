"""The page of a run: one file, pictures inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cprune_rl.core.atomic_files import write_bytes
from cprune_rl.core.network import Plan
from cprune_rl.core.result import Result
from cprune_rl.core.search_result import SearchResult
from cprune_rl.core.subgraph_table import SubgraphTable
from cprune_rl.reporting.html import Command, list_commands, write_html
from cprune_rl.reporting.run_plots import (
    CalibrationMap,
    plot_accuracies,
    plot_calibration,
    plot_estimates,
    plot_latencies,
    plot_plan,
)
from cprune_rl.reporting.run_tables import (
    NO_GAIN,
    agreement_note,
    costs_table,
    dense_note,
    loop_note,
    noise_note,
    prediction_note,
    results_table,
    subgraph_table,
)

__all__ = ["OracleSummary", "RunReport", "write_page"]


@dataclass(frozen=True, kw_only=True)
class OracleSummary:
    """How accuracy was judged.

    Attributes:
        name: of the oracle that the searches asked.
        note: what speaks for believing it; may be empty.
        maps: from its answers to what the full fine-tune gives, of channels and of schemes.
        data: what `ImageData.describe` says.
    """

    name: str
    note: str
    maps: Sequence[CalibrationMap]
    data: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What the page of a run shows.

    Attributes:
        result: what the run states.
        table: subgraph table of the dense network.
        searches: every search, the run's own last.
        plans: final plan of each method, the run's own last.
        floor: accuracy that had to hold in the loop.
        oracle: how accuracy was judged.
        system: machine and versions.
        command: that made the run.
    """

    result: Result
    table: SubgraphTable
    searches: Sequence[SearchResult]
    plans: Sequence[tuple[str, Plan]]
    floor: float
    oracle: OracleSummary
    system: Mapping[str, Any]
    command: str


def write_page(path: Path, report: RunReport) -> None:
    """Write `report.html`, and `latencies.png` beside it."""
    result = report.result
    latencies = plot_latencies(result)
    own = result.method
    plans = [plot_plan(report.table.network, *plan) for plan in reversed(report.plans)]
    write_html(
        path,
        "run.html",
        r=result,
        report=report,
        oracle=report.oracle,
        latencies=latencies,
        searches=[
            plot_estimates(report.searches, own),
            plot_accuracies(report.searches, own, report.floor),
        ],
        calibration=plot_calibration(report.oracle.maps),
        plans=plans,
        results=results_table(result),
        costs=costs_table(result),
        subgraphs=subgraph_table(report.table),
        no_gain=NO_GAIN,
        dense=dense_note(result.dense_figures, result.shown_on),
        own_loop=loop_note(result.own_loop),
        noise=noise_note(result),
        agreement=agreement_note(result),
        predicted=prediction_note(result),
        commands=list_commands(
            [report.command],
            Command(
                f"cprune-rl validate {path.parent.resolve().name}",
                "Checks every claim of this page anew.",
            ),
        ),
    )
    write_bytes(path.parent / "latencies.png", latencies.png)
