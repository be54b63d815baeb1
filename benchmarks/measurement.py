"""Measures what measuring costs, and how true it is: the tuner, the estimate and the cost cache.

`python benchmarks/measurement.py [--json FILE] [--only PART ...] [--storage sqlite:///costs.db]`

Parts: trial, pool, search, forms, estimate, cache, predictor, runtimes. The last one needs the
extra `benchmark`. Ratios within a part are what to compare; absolute times are this machine's. It
takes more than an hour on two cores, tuning included, and wants the machine for itself. `--only`
leaves what the file has of other parts as it is, so that a run which was stopped can be ended.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cache_rows
import layout_variants
import predictor as leave_one_out
import runtimes
import tuning
from rich.console import Console
from rich.table import Table

from cprune_rl.compiler.devices.open import open_device
from cprune_rl.core.system_info import command_line, describe_system, now_utc


@dataclass(frozen=True)
class Bar:
    """What a part must show.

    Attributes:
        text: the bar in words.
        holds: whether the part's figures reach it.
    """

    text: str
    holds: Callable[[Any], bool]


BARS: dict[str, Bar] = {
    "trial": Bar(
        "a fresh trial at least 10 times cheaper than TVM's own builder and runner, "
        "in batches of either size",
        lambda f: all(r["ratio"] >= 10 for r in f),
    ),
    "search": Bar(
        "at least 10 times fewer trials than CPrune's protocol, tuning the dense network included",
        lambda f: f["ratio"] >= 10,
    ),
    "estimate": Bar("median error of the estimate at most 10 %", lambda f: f["median"] <= 0.10),
    "runtimes": Bar(
        "at least as fast as the better of ONNX Runtime and torch.compile on every network",
        lambda f: all(r["best_rival_over_ours"][0] >= 1 for r in f),
    ),
}


def main() -> None:
    """Measure the parts that the command line asks for, and compare them with their bars."""
    options = _options()
    figures: dict[str, Any] = {}
    if options.only and options.json and options.json.exists():
        figures = json.loads(options.json.read_text())
    # An earlier version's file had them for the whole; each part has its own now.
    for key in ("system", "command"):
        figures.pop(key, None)
    console = Console()
    parts = _parts(options)
    wanted = options.only or list(parts)
    if "runtimes" in wanted:
        runtimes.require_rivals()
    for name in wanted:
        console.rule(name)
        figures[name] = parts[name]()
        figures.setdefault("runs", {})[name] = {
            "command": command_line(),
            "when": now_utc(),
            "system": describe_system(),
        }
        console.print(_shown(figures[name]))
        if options.json:  # after each part: a long run that is stopped keeps what it has
            options.json.write_text(json.dumps(figures, indent=1) + "\n")
    table = Table("part", "bar", "holds")
    for name, bar in BARS.items():
        if name in figures:
            table.add_row(name, bar.text, "yes" if bar.holds(figures[name]) else "NO")
    console.print(table)


def _shown(figures: Any) -> Any:
    """Turn a list of rows into a table."""
    if not isinstance(figures, list):
        return figures
    table = Table(*figures[0])
    for row in figures:
        table.add_row(*map(_cell, row.values()))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--only", nargs="*", metavar="PART", help="parts to run")
    parser.add_argument(
        "--network", default="resnet8", help="network of the parts trial, pool, search and estimate"
    )
    parser.add_argument("--device", default="local", help="device of these parts and of forms")
    parser.add_argument(
        "--storage",
        help="cost cache to take schedules from and keep them in; "
        "in memory where not given, and always for the part search",
    )
    return parser.parse_args()


def _parts(options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    def with_bench(
        experiment: Callable[[tuning.Bench], Any], *, storage: str | None = options.storage
    ) -> Callable[[], Any]:
        def run() -> Any:
            with open_device(options.device) as device:
                return experiment(tuning.Bench(options.network, device, storage))

        return run

    def forms() -> list[dict[str, Any]]:
        with open_device(options.device) as device:
            return layout_variants.variant_latencies(device)

    def cache() -> list[dict[str, Any]]:
        return [row for n in cache_rows.PROCESSES for row in cache_rows.measure(n, 2800)]

    def side_by_side() -> list[dict[str, Any]]:
        pairs = itertools.product(runtimes.THREADS, runtimes.NETWORKS)
        return [runtimes.compare(name, n, options.storage) for n, name in pairs]

    return {
        "trial": with_bench(tuning.trial_seconds),
        "pool": with_bench(tuning.trials_to_best),
        "search": with_bench(tuning.search_trials, storage=None),
        "forms": forms,
        "estimate": with_bench(tuning.estimate_errors),
        "cache": cache,
        "predictor": leave_one_out.measure,
        "runtimes": side_by_side,
    }


if __name__ == "__main__":
    main()
