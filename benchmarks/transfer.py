"""What a trained policy is worth on networks and devices that it was not trained on.

It is tried in replays of recorded problems.

`python benchmarks/transfer.py [--part families recorded devices starts live] [--json FILE]
[--picture FILE] [--policies DIR] [--seeds 5] [--trainings 2] [--timesteps 100000]`.

A replay (`cprune_rl.envs.problems.replay`) answers as a device would: a task that was not measured
is interpolated, true losses deviate from the predicted ones, and an oracle is off by as much as
short fine-tunes were found to be (`loss_model.py`). So this shows what searches make of costs, not
of images.

Gains are those of the plan that a run would keep: the fastest accepted one that truly holds the
floor, backed off to as a run does, by a few full fine-tunes. One of those is as long as twenty
evaluations; they are counted apart. The gate's own margin is left out. What a live run measures
before it searches, a uniform plan's tasks, is charged to all but CPrune, which reads nothing of it.
Measured tasks are counted, fresh trials are not: a recording does not hold how many trials a task
took.

families: policies trained without a family of networks, on that family; resnet8 and resnet20 are
    one. True losses are drawn around the predicted ones, with other curvatures: close to what the
    agent, the surrogate alone and proxy greedy plan in.

recorded: the same, but true losses are the recordings' own, measured group by group, far from the
    predicted ones.

devices: roll-outs of policies trained on one device class, on all, on all without figures of the
    device, and on all but on generated networks alone, on each class. The networks, but for the
    last, are among those trained on; the losses are not.

starts: roll-outs on a family by the policy trained without it, by the same trained on with the
    family for a fifth of the steps, and by policies trained on the family alone, for as long and
    in full.

live: results of live runs (`--live`), written by a run as `result.json`, beside what replays of the
    network on the class `--live-class` promise at the same floor, of the agent with the packaged
    policy and of CPrune.

The reference is a long search that knows every latency and loss, or whatever any method found, if
that is better. Shares are of its log gain. Intervals are bootstraps over recordings, whose floors,
draws of losses and trainings are averaged first.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from transfer_study import figures, report
from transfer_study.jobs import Job, run_job
from transfer_study.parts import PARTS, Study, run_live

from cprune_rl.core.system_info import command_line, describe_system
from cprune_rl.pipeline.progress import ProgressLog

_N_PROCESSES = 2


def main() -> None:
    options = _parse_options()
    study = Study(
        policies=options.policies,
        timesteps=options.timesteps,
        seeds=options.seeds,
        trainings=options.trainings,
    )
    results: dict[str, Any] = {}
    if options.json and options.json.is_file():
        results = json.loads(options.json.read_text())
    console = Console()
    for part in options.part:
        result: dict[str, Any] = {"command": command_line(), "system": describe_system()}
        if part == "live":
            result["runs"] = run_live(options.live, options.live_class, options.seeds)
            console.print(report.live_table(result["runs"]))
        else:
            result |= summarize_part(part, run_jobs(part, PARTS[part](study)))
            if part == "devices":
                console.print(report.class_table(result["matrix"]))
            else:
                console.print(report.method_table(result["methods"]))
        if options.picture and part == "families":
            report.plot_share_by_cost(result["at_equal_cost"], options.picture)
        results[part] = result
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n")


def run_jobs(part: str, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Run jobs in several processes; rows with their shares, always in the same order."""
    rows = []
    with (
        multiprocessing.get_context("spawn").Pool(_N_PROCESSES) as pool,
        ProgressLog().track(f"Searching, {part}", len(jobs)) as advance,
    ):
        for n_done, row in enumerate(pool.imap_unordered(run_job, jobs, chunksize=4), start=1):
            rows.append(row)
            advance(n_done)
    rows.sort(key=lambda row: (figures.case_of(row), row["method"], row["training"]))
    return figures.add_shares(rows)


def summarize_part(part: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Work out the figures of a part."""
    result: dict[str, Any] = {
        "n_cases": len({figures.case_of(row) for row in rows}),
        "methods": figures.summarize(rows),
    }
    if part == "devices":
        result["matrix"] = figures.share_by_class(rows)
        return result
    result["by_network"] = figures.summarize_networks(rows)
    if part in ("families", "recorded"):
        result["at_equal_cost"] = {
            cost: {"budgets": list(budgets), **figures.share_by_cost(rows, cost)}
            for cost, budgets in figures.BUDGETS.items()
        }
    return result


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", nargs="*", choices=[*PARTS, "live"], default=list(PARTS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument(
        "--policies",
        type=Path,
        default=Path("transfer-policies"),
        help="where trained policies are kept",
    )
    parser.add_argument("--timesteps", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=5, help="draws of the true losses")
    parser.add_argument(
        "--trainings", type=int, default=2, help="policies of each kind, by other seeds"
    )
    parser.add_argument("--live", type=Path, nargs="*", default=(), help="results of live runs")
    parser.add_argument(
        "--live-class",
        default="znver4-1t",
        help="device class of the recordings that they are set beside",
    )
    options = parser.parse_args()
    if "live" in options.part and not options.live:
        parser.error("--part live takes results: --live FILE ...")
    return options


if __name__ == "__main__":
    main()
