"""Whether a comparison says the same with other seeds.

`python benchmarks/other_seeds.py COMPARISON OTHER [--json FILE]`.

Both folders are `cprune-rl compare`'s, of the same problems at the floor that most were tried at.
For each method that both have: the interquartile mean of its share of the best gain, with the
interval that the first states, and the same of the other. Methods that only one of them has are
left out of both, so that shares are of the same best.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cprune_rl.comparison.compare import MethodComparison, compare
from cprune_rl.comparison.records import RunRecord, read_records


def compare_seeds(first: list[RunRecord], other: list[RunRecord]) -> list[dict[str, Any]]:
    """A line for each method that both have.

    Args:
        first: rows whose intervals are tried.
        other: rows of other seeds.
    """
    methods = {r.method for r in first} & {r.method for r in other}
    others = {standing.method: standing for standing in _compare(other, methods).standings}
    lines = []
    for standing in _compare(first, methods).standings:
        value = others[standing.method].iqm.value
        lines.append(
            {
                "method": standing.method,
                "iqm": asdict(standing.iqm),
                "other_seeds": value,
                "is_inside": standing.iqm.low <= value <= standing.iqm.high,
            }
        )
    return lines


def _compare(rows: list[RunRecord], methods: set[str]) -> MethodComparison:
    """Compare some methods at the floor that most were tried at."""
    rows = [row for row in rows if row.method in methods]
    floor = compare(rows).floor
    return compare([row for row in rows if floor is None or row.floor == floor])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("comparison", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    first, other = read_records(options.comparison), read_records(options.other)
    lines = compare_seeds(first, other)
    view = Table("method", "share, IQM [95 %]", "other seeds", "inside")
    for line in lines:
        iqm = line["iqm"]
        view.add_row(
            line["method"],
            f"{iqm['value']:.3f} [{iqm['low']:.3f}, {iqm['high']:.3f}]",
            f"{line['other_seeds']:.3f}",
            "yes" if line["is_inside"] else "no",
        )
    Console().print(view)
    if options.json:
        seeds = {
            name: sorted({r.seed for r in rows})
            for name, rows in (("seeds", first), ("other_seeds", other))
        }
        options.json.write_text(json.dumps({**seeds, "methods": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
