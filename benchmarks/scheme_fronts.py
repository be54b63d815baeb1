"""Channels against blocks, kernels and patterns: fronts of finished networks in one table.

`python benchmarks/scheme_fronts.py [RUN ...] [--kept FOLDER] [--page PAGE]`, where PAGE is
`docs/results/scheme-networks.md`.

A RUN is the folder of `cprune-rl prune --change schemes --floor=... --methods
agent,mapping-rule`. What it found is kept as one file beside its picture. The table is made of all
files that are kept.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cprune_rl.pruning.surgery import PlanFile

_TITLES = {
    "agent": "channels, the agent",
    "mapping-rule": "schemes by rule",
    "mapping-search": "schemes by search",
    "channels-then-schemes": "channels and schemes",
}

_HEAD = """---
orphan: true
---

# Channels against schemes: every finished network

`benchmarks/scheme_fronts.py` made this page of the runs named below. Each is one run with one seed;
its networks were timed in turns in one session. A device is a processor and what its programs are
compiled for: `haswell` has AVX2, `znver4` AVX-512 too.

The floor is relative to the dense network. It was shown to hold, with 95 % confidence, on images of
its own. Accuracies here are of test images that decided nothing. What a network gained is paired
with the dense one on the same images.

"Over channels" is how many times as fast a network is as the agent's for the same floor, a ratio of
medians. "Over channels at this latency" is what it gained less what the agent's front gains where
it is as fast. Between two networks of that front, the dense one at its slow end, the logarithm of
the latency interpolates. Beyond its ends nothing is said. Two to four networks make a front: this
is a reading of the pictures, and its error is that of both accuracies."""


def keep(run: Path, note: str = "") -> dict[str, Any]:
    """Collect what a run found: figures of each network, kept channels, schemes of layers.

    Args:
        run: folder of a front.
        note: what a reader must know of the run.
    """
    front = json.loads((run / "front.json").read_text())
    made = json.loads((run / "problem.json").read_text())["provenance"]
    points = []
    for point in front["points"]:
        plan = PlanFile.read(run / point["folder"])
        kept = {name: len(indices) for name, indices in plan.kept.items()}
        points.append({**point, "kept": kept, "schemes": dict(plan.schemes)})
    command = (run / "command.txt").read_text().strip()
    return {
        "command": command.replace("__main__.py", "cprune-rl", 1),
        "note": note,
        "network": PlanFile.read(run / "dense").model,
        "device": made["device"],
        "system": made["os"],
        "recorded": made["recorded"],
        "latency_source": front["latency_source"],
        "points": points,
    }


def table_rows(front: Mapping[str, Any]) -> list[dict[str, str]]:
    """Write the cells of each finished network, by column.

    Args:
        front: as `keep` gives it.
    """
    points = front["points"]
    agents = [p for p in points if p["method"] == "agent"]
    of_channels = {p["floor"]: p["shown_ms"] for p in agents}
    line = sorted(
        (math.log(p["shown_ms"]), p["gained_test"][0])
        for p in points
        if p["method"] == "agent" or p["floor"] is None
    )
    network = {"network": front["network"], "device": _device(front["device"])}
    rows = []
    for point in points:
        row = {**network, **_figures(point)}
        if point["method"] != "agent" and point["floor"] is not None:
            row["over channels at this latency, points"] = _above(line, point)
            if point["floor"] in of_channels:
                ratio = of_channels[point["floor"]] / point["shown_ms"]
                row["over channels"] = f"{ratio:.2f}"
        rows.append(row)
    return rows


def _device(text: str) -> str:
    device = dict(part.split("=", 1) for part in text.split(";"))
    plural = "" if device["threads"] == "1" else "s"
    return f"{device['cpu']} as {device['mcpu']}, {device['threads']} thread{plural}"


def _figures(point: Mapping[str, Any]) -> dict[str, str]:
    """Write the cells that need no other network, in the order of the columns."""
    is_dense = point["floor"] is None
    cost = point["cost"]
    gained = [100 * share for share in point["gained_test"]]
    return {
        "floor, points": "" if is_dense else f"{100 * point['floor']:+g}",
        "method": _TITLES.get(point["method"], point["method"]),
        "latency, ms": f"{point['shown_ms']:.3f}",
        "speed-up [95 %]": "1.00"
        if is_dense
        else "{:.2f} [{:.2f}, {:.2f}]".format(*point["speedup"]),
        "over channels": "",
        "test accuracy": f"{point['accuracy_test'][0]:.2%}",
        "gained, points [95 %]": "" if is_dense else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*gained),
        "over channels at this latency, points": "",
        "layers with a scheme": "" if is_dense else str(len(point["schemes"])),
        "trials": f"{cost['fresh_trials']:.0f}" if cost else "",
        "evaluations": f"{cost['accuracy_evaluations']:.0f}" if cost else "",
    }


def _above(line: Sequence[tuple[float, float]], point: Mapping[str, Any]) -> str:
    """Write what a network gained above a line at its latency, in points.

    Args:
        line: `(log latency, gained)` of a front, ascending; beyond its ends nothing is said.
        point: the network.
    """
    latencies, gains = zip(*line, strict=True)
    latency = math.log(point["shown_ms"])
    if not latencies[0] <= latency <= latencies[-1]:
        return ""
    return f"{100 * (point['gained_test'][0] - np.interp(latency, latencies, gains)):+.2f}"


def page(fronts: Sequence[Mapping[str, Any]]) -> str:
    """Write the page in Markdown: the table, and the command of each run.

    Args:
        fronts: as `keep` gives them; at least one.
    """
    rows = [row for front in fronts for row in table_rows(front)]
    columns = list(rows[0])
    lines = [_HEAD, "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += [f"| {' | '.join(row.values())} |" for row in rows]
    lines.append("")
    for front in fronts:
        note = f". {front['note']}" if front.get("note") else ""
        lines.append(f"- {front['network']}, `{front['device']}`: `{front['command']}`{note}")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--kept", type=Path, default=Path("docs/results/schemes"))
    parser.add_argument("--note", default="", help="what is to be known of these runs")
    parser.add_argument("--page", type=Path, help="file for the table; printed where not given")
    options = parser.parse_args()
    options.kept.mkdir(parents=True, exist_ok=True)
    for run in options.runs:
        text = json.dumps(keep(run, options.note), indent=1) + "\n"
        (options.kept / f"{run.name}.json").write_text(text)
        shutil.copyfile(run / "front.png", options.kept / f"{run.name}.png")
    files = [json.loads(file.read_text()) for file in sorted(options.kept.glob("*.json"))]
    text = page([value for value in files if "points" in value])
    if options.page:
        options.page.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
