"""Channels against blocks, kernels and patterns on finished networks:

the fronts of several runs in one table.

`python benchmarks/scheme_fronts.py [RUN ...] [--kept docs/results/schemes] [--page
docs/schemes.md]`. A RUN is the folder of
`cprune-rl prune --schemes block|both --front=... --rivals agent,mapping-rule`; what it found is
kept as one file beside its picture, and the
table is made of all files that are kept.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
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
_COLUMNS = (
    "network",
    "device",
    "floor, points",
    "method",
    "latency, ms",
    "speed-up [95 %]",
    "over channels",
    "test accuracy",
    "gained, points [95 %]",
    "over channels at this latency, points",
    "layers with a scheme",
    "trials",
    "evaluations",
)


_HEAD = """# Channels against blocks, kernels and patterns: finished networks

Made by `benchmarks/scheme_fronts.py` of the runs named below; each is one run with one seed, its networks were timed in turns in one session.
A device is a processor and what its programs are compiled for: `haswell` has AVX2, `znver4` AVX-512 too.
The floor is relative to the dense network and was shown to hold, with 95 % confidence, on images of its own; accuracies here are of test
images that nothing was decided by, and what a network gained is paired with the dense one on the same images. "Over channels" is how many
times as fast a network is as the agent's for the same floor, a ratio of medians; "over channels at this latency" is what it gained less what the
agent's front gains where it is as fast: between two networks of that front (the dense one is its slow end) by the logarithm of the latency, beyond
its ends nothing is said. Two to four networks make a front, so this is a reading of the pictures, and its error is that of both accuracies."""


def kept(run: Path, note: str = "") -> dict[str, Any]:
    """What a run found: of each network its figures, the channels that its groups keep and its
    layers' schemes.

    Args:
        run: folder of a front.
        note: what is to be known of the run.
    """
    front, made = (
        json.loads((run / "front.json").read_text()),
        json.loads((run / "problem.json").read_text())["provenance"],
    )
    points = []
    for point in front["points"]:
        plan = PlanFile.read(run / point["folder"])
        points.append(
            {
                **point,
                "kept": {name: len(indices) for name, indices in plan.kept.items()},
                "schemes": dict(plan.schemes),
            }
        )
    return {
        "command": (run / "command.txt").read_text().strip().replace("__main__.py", "cprune-rl", 1),
        "note": note,
        "network": PlanFile.read(run / "dense").model,
        "device": made["device"],
        "system": made["os"],
        "recorded": made["recorded"],
        "latency_source": front["latency_source"],
        "points": points,
    }


def rows_of(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Of each finished network the cells of the table.

    Args:
        found: see `kept`.
    """
    points, device = (
        found["points"],
        dict(part.split("=", 1) for part in found["device"].split(";")),
    )
    channels = {p["floor"]: p["shown_ms"] for p in points if p["method"] == "agent"}
    front = sorted(
        (math.log(p["shown_ms"]), p["gained_test"][0])
        for p in points
        if p["method"] == "agent" or p["floor"] is None
    )
    for p in points:
        is_dense = p["floor"] is None
        over = (
            ""
            if is_dense or p["floor"] not in channels or p["method"] == "agent"
            else f"{channels[p['floor']] / p['shown_ms']:.2f}"
        )
        yield (
            found["network"],
            f"{device['cpu']} as {device['mcpu']}, {device['threads']} thread{'s' if device['threads'] != '1' else ''}",
            "" if is_dense else f"{100 * p['floor']:+g}",
            _TITLES.get(p["method"], p["method"]),
            f"{p['shown_ms']:.3f}",
            "1.00" if is_dense else "{:.2f} [{:.2f}, {:.2f}]".format(*p["speedup"]),
            over,
            f"{p['accuracy_test'][0]:.2%}",
            ""
            if is_dense
            else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * g for g in p["gained_test"])),
            "" if is_dense or p["method"] == "agent" else _above(front, p),
            "" if is_dense else str(len(p["schemes"])),
            f"{p['cost']['fresh_trials']:.0f}" if p["cost"] else "",
            f"{p['cost']['accuracy_evaluations']:.0f}" if p["cost"] else "",
        )


def _above(front: Sequence[tuple[float, float]], point: Mapping[str, Any]) -> str:
    """What a network gained above a front of `(log latency, gained)` at its latency, in points;

    empty beyond the front's ends.
    """
    at = math.log(point["shown_ms"])
    if not front[0][0] <= at <= front[-1][0]:
        return ""
    return f"{100 * (point['gained_test'][0] - np.interp(at, *zip(*front, strict=True))):+.2f}"


def page(all_found: Sequence[Mapping[str, Any]]) -> str:
    """The page in Markdown: the table, and the command of each run.

    Args:
        all_found: see `kept`.
    """
    lines = [_HEAD, "", "| " + " | ".join(_COLUMNS) + " |", "|" + "---|" * len(_COLUMNS)]
    lines += ["| " + " | ".join(cells) + " |" for found in all_found for cells in rows_of(found)]
    lines += [
        "",
        *(
            f"- {found['network']}, `{found['device']}`: `{found['command']}`{'. ' if found.get('note') else ''}{found.get('note', '')}"
            for found in all_found
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--kept", type=Path, default=Path("docs/results/schemes"))
    parser.add_argument("--note", default="", help="what is to be known of these runs")
    parser.add_argument(
        "--page", type=Path, help="file to write the table to; told where not given"
    )
    options = parser.parse_args()
    options.kept.mkdir(parents=True, exist_ok=True)
    for run in options.runs:
        (options.kept / f"{run.name}.json").write_text(
            json.dumps(kept(run, options.note), indent=1) + "\n"
        )
        shutil.copyfile(run / "front.png", options.kept / f"{run.name}.png")
    found = [
        value
        for file in sorted(options.kept.glob("*.json"))
        if "points" in (value := json.loads(file.read_text()))
    ]
    if options.page:
        options.page.write_text(page(found))
    else:
        print(page(found))


if __name__ == "__main__":
    main()
