"""The HTML page of a run: one file, pictures inside, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from cprune_rl.core.network import Plan
from cprune_rl.core.result import Result
from cprune_rl.core.search_result import SearchResult
from cprune_rl.core.subgraph_table import SubgraphTable
from cprune_rl.reporting.run_plots import (
    CalibrationMap,
    plot_calibration,
    plot_latencies,
    plot_searches,
    plot_widths,
)
from cprune_rl.reporting.tables import NO_GAIN, noise_line, predicted_line

__all__ = ["Judging", "write_page"]


@dataclass(frozen=True)
class Judging:
    """How accuracy was judged.

    Attributes:
        oracle: that the searches asked.
        note: what speaks for believing it; may be empty.
        maps: its answers to what the full fine-tune gives, of channels and of schemes.
        data: what `ImageData.describe` says.
    """

    oracle: str
    note: str
    maps: Sequence[CalibrationMap]
    data: Mapping[str, Any]


def write_page(
    path: Path,
    result: Result,
    table: SubgraphTable,
    searches: Sequence[SearchResult],
    plans: Sequence[tuple[str, Plan]],
    floor: float,
    judging: Judging,
    system: dict[str, Any],
    command: str,
) -> None:
    """Writes `report.html`.

    Args:
        path: file to write.
        result: what the run states.
        table: subgraph table of the dense network.
        searches: every search, the run's own last.
        plans: final plan of each method.
        floor: accuracy that had to hold in the loop.
        judging: how accuracy was judged.
        system: machine and versions.
        command: that made the run.
    """
    pictures = {
        "latencies": plot_latencies(result),
        "searches": plot_searches(searches, floor),
        "widths": plot_widths(table.network, plans),
        "calibration": plot_calibration(judging.maps),
    }
    template = Environment(
        loader=PackageLoader("cprune_rl.reporting"), autoescape=True
    ).get_template("page.html")
    encoded = {
        name: "data:image/png;base64," + base64.b64encode(png).decode()
        for name, png in pictures.items()
    }
    mappings = [(name, plan.schemes) for name, plan in plans if plan.schemes]
    words: dict[str, Any] = {
        "mappings": mappings,
        "no_gain": NO_GAIN,
        "noise": noise_line(result),
        "predicted": predicted_line(result),
    }
    path.write_text(
        template.render(
            r=result,
            methods=[*result.rivals, result.main],
            table=table,
            pictures=encoded,
            system=system,
            command=command,
            searches=searches,
            judging=judging,
            **words,
        )
    )
    (path.parent / "latencies.png").write_bytes(pictures["latencies"])
