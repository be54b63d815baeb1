"""How accurate predicted latencies are on a network that the predictor was not fitted on.

`python benchmarks/predictor.py [RECORDING ...] [--json FILE]`: names of packaged recordings, or
files made by `cprune-rl record`; all packaged ones where none is given. Each recorded network is
left out once. Ends with whether the bar for switching prediction on (`train --predict`) holds. It
takes a few minutes on one core and needs no device.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from predictor_study.leave_one_network_out import (
    BAR,
    MeasuredNetwork,
    leave_one_network_out,
)
from rich.console import Console
from rich.table import Table

from cprune_rl.envs.problems.registry import read_recording, recorded_names
from cprune_rl.errors import DataError

# Endings of the figures' names, with whether the dense network's tasks are known.
_CASES = {"": False, "_dense_known": True}
_SHARES = (
    "median_error",
    "p90_error",
    "coverage",
    "width",
    "narrow_share",
    "plan_error",
    "regret",
    "p90_regret",
    "macs_regret",
    "random_regret",
)


def measure(names: Sequence[str] = ()) -> dict[str, Any]:
    """Leave-one-network-out over recordings.

    Args:
        names: packaged ones or files; none for all packaged ones.

    Returns:
        `networks`: a row for each network and device, with the fields of `Evaluation`;
        `networks_dense_known`: the same where the dense network's tasks were known, as in a run;
        `bar`; `holds` and `holds_dense_known`; `note`: why there is no row.
    """
    figures: dict[str, Any] = {"bar": vars(BAR), "note": ""}
    measured = [_measured_network(name) for name in names or recorded_names()]
    for ending, is_dense_known in _CASES.items():
        try:
            evaluations = leave_one_network_out(measured, is_dense_known)
        except DataError as error:
            evaluations = []
            figures["note"] = str(error)
        figures[f"networks{ending}"] = [e.to_json() for e in evaluations]
        figures[f"holds{ending}"] = BAR.holds(evaluations)
    return figures


def _measured_network(name: str) -> MeasuredNetwork:
    recording = read_recording(name)
    file_name = Path(name).name.removesuffix(".gz").removesuffix(".json")
    return MeasuredNetwork(
        network=recording.network,
        costs=recording.costs,
        loss_model=recording.loss_model,
        device=recording.descriptor,
        device_name=file_name.partition("@")[2],
    )


def _print(figures: dict[str, Any]) -> None:
    console = Console(width=200)
    bar = (
        f"median error <= {BAR.error:.0%}, coverage >= {BAR.coverage:.0%}, "
        f"median regret <= {BAR.regret:.0%}"
    )
    for ending, is_dense_known in _CASES.items():
        title = "Networks that were left out"
        if is_dense_known:
            title += ", but for the tasks of the dense network"
        headings = [name.replace("_", " ") for name in _SHARES]
        table = Table("network", "device", "tasks", "rank", *headings, title=title)
        for row in figures[f"networks{ending}"]:
            shares = [f"{row[name]:.1%}" if name in row else "-" for name in _SHARES]
            rank = f"{row['rank_correlation']:.3f}"
            table.add_row(row["network"], row["device"], str(row["n_tasks"]), rank, *shares)
        console.print(table)
        verdict = "HOLDS" if figures[f"holds{ending}"] else "does NOT hold"
        console.print(
            f"The bar for switching prediction on ({bar}) {verdict}. {figures['note']}",
            soft_wrap=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recordings", nargs="*", help="packaged recordings by name, or files")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    figures = measure(options.recordings)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    _print(figures)


if __name__ == "__main__":
    main()
