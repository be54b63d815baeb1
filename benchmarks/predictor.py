"""How good predicted latencies are on a network that the predictor has not seen:

each recorded network is left out once.

`python benchmarks/predictor.py [RECORDING ...] [--json FILE]`: names of packaged recordings or
files made by
`cprune-rl record`; all packaged ones where none is given. Says at its end whether the bar for
switching prediction on
(`train --predict`) holds. It takes a few minutes on one core and needs no device.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from predictor_study.leave_one_network_out import (
    BAR,
    MeasuredNetwork,
    leave_one_network_out,
)
from rich.console import Console
from rich.table import Table

from cprune_rl.core.protocols import TaskCost
from cprune_rl.core.workload import Workload
from cprune_rl.envs.problems.registry import open_recorded, recorded_names
from cprune_rl.errors import DataError

_WAYS = {"": False, "_dense_known": True}
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


@runtime_checkable
class _Measured(Protocol):
    """A source of latencies that can say what was measured for it, as a recording can."""

    def measured(self) -> list[tuple[Workload, TaskCost]]: ...


def measure(names: Sequence[str] = ()) -> dict[str, Any]:
    """Leave-one-network-out over recordings.

    Args:
        names: packaged ones or files; none for all packaged ones.

    Returns:
        `networks`: a row for each network and device (see `held_out.Judgement`), and in
            `networks_dense_known` the same
        where the dense network's tasks were known, as in a run; `bar`; `holds` and
        `holds_dense_known`; `note`: why there is no row.
    """
    figures: dict[str, Any] = {"bar": vars(BAR), "note": ""}
    for name, is_dense_known in _WAYS.items():
        try:
            judgements = leave_one_network_out(
                [_measured(recording) for recording in names or recorded_names()], is_dense_known
            )
        except DataError as error:
            judgements, figures["note"] = [], str(error)
        figures |= {
            f"networks{name}": [j.to_json() for j in judgements],
            f"holds{name}": BAR.holds(judgements),
        }
    return figures


def _measured(name: str) -> MeasuredNetwork:
    problem = open_recorded(name)
    source = problem.latency
    if not isinstance(source, _Measured):
        raise DataError(f"{name!r} holds no measured tasks")
    device = Path(name).name.removesuffix(".gz").removesuffix(".json").partition("@")[2]
    return MeasuredNetwork(
        problem.network, source.measured(), problem.loss_model, problem.descriptor, device
    )


def _print(figures: dict[str, Any]) -> None:
    console = Console(width=200)
    for way, is_dense_known in _WAYS.items():
        title = "Networks that were left out" + (
            ", but for the tasks of the dense network" if is_dense_known else ""
        )
        table = Table(
            "network",
            "device",
            "tasks",
            "rank",
            *(name.replace("_", " ") for name in _SHARES),
            title=title,
        )
        for row in figures[f"networks{way}"]:
            cells = [f"{row[name]:.1%}" if name in row else "-" for name in _SHARES]
            table.add_row(
                row["network"],
                row["device"],
                str(row["n_tasks"]),
                f"{row['rank_correlation']:.3f}",
                *cells,
            )
        console.print(table)
        bar = f"median error <= {BAR.error:.0%}, coverage >= {BAR.coverage:.0%}, median regret <= {BAR.regret:.0%}"
        console.print(
            f"The bar for switching prediction on ({bar}) {'HOLDS' if figures[f'holds{way}'] else 'does NOT hold'}. {figures['note']}",
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
