"""Makes the page of these runs, and the file with their figures, out of their run folders."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cprune_rl.core.json_text import dump_json
from cprune_rl.core.result import Figures, MethodResult, Result

from .published import PUBLISHED
from .steps import METHODS, Experiment

__all__ = ["FinishedRun", "find_runs", "write_page"]

_TEXT = Path(__file__).parent / "text"  # what the page says whatever the figures are


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A finished run, and how its networks were trained.

    Attributes:
        experiment: that it belongs to.
        result: what the run states, without its history.
        finetune_steps: of each full fine-tune.
        n_train: images that were learnt from.
        dense: what the training of the dense network states.
        system: machine, versions and the moment it began.
    """

    experiment: Experiment
    result: Result
    finetune_steps: int
    n_train: int
    dense: dict[str, Any]
    system: dict[str, Any]

    @property
    def finetune_epochs(self) -> float:
        """Epochs of a full fine-tune."""
        return self.finetune_steps * self.dense["batch_size"] / self.n_train

    @property
    def dense_epochs(self) -> float:
        """Epochs of the dense network's training."""
        return float(self.dense["n_steps"] * self.dense["batch_size"] / self.n_train)


def find_runs(experiments: Sequence[Experiment], folder: Path) -> list[FinishedRun]:
    """Read the runs that went to their end; those that only tried the way are left out.

    Args:
        experiments: in order.
        folder: of all results.

    Raises:
        ConfigError: a result is damaged.
    """
    runs = []
    for experiment in experiments:
        files = sorted((folder / experiment.name).glob("*/result.json"))
        for file in files:
            result = Result.read(file)
            if result.fast:
                continue
            dense = json.loads((file.parents[1] / "dense" / "dense.json").read_text())
            system = json.loads((file.parent / "system.json").read_text())
            runs.append(
                FinishedRun(
                    experiment=experiment,
                    result=_without_history(result),
                    finetune_steps=_finetune_steps(file.parent),
                    n_train=int(dense["n_train"]),
                    dense=dense,
                    system=system,
                )
            )
    return runs


def _finetune_steps(run: Path) -> int:
    """Read the steps that a run was told to take; this is what its options say, not the plan."""
    for line in (run / "config.yaml").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "finetune_steps":
            return int(value)
    raise ValueError(f"{run / 'config.yaml'} does not say how long its networks were fine-tuned")


def _without_history(result: Result) -> Result:
    """Leave out every candidate of the searches: the page does not show them."""
    return replace(
        result,
        main=replace(result.main, history=[]),
        rivals=tuple(replace(rival, history=[]) for rival in result.rivals),
    )


def write_page(page: Path, experiments: Sequence[Experiment], runs: Sequence[FinishedRun]) -> None:
    """Write the page, and a JSON file of its name beside it.

    Args:
        page: a Markdown file.
        experiments: all that would be run.
        runs: that were.
    """
    parts = [_text("head")]
    if runs:
        for images in dict.fromkeys(run.experiment.images for run in runs):
            of_images = [run for run in runs if run.experiment.images == images]
            parts += [f"## {images}\n\n", _results(of_images), "\n"]
        parts += ["## How to read it\n\n", _text("notes"), _provenance(runs)]
    else:
        parts.append(_text("no_runs"))
    parts += ["## What is run\n\n", _plan(experiments), "\n"]
    parts += ["## Published figures of ResNet-56 on CIFAR-10\n\n", _published(runs), "\n"]
    parts.append(_text("differences"))
    page.write_text("".join(parts))
    page.with_suffix(".json").write_text(dump_json({"runs": [_to_json(run) for run in runs]}))


def _text(name: str) -> str:
    return (_TEXT / f"{name}.md").read_text()


def _to_json(run: FinishedRun) -> dict[str, Any]:
    """Give a run's figures under the names of the page: paths of this machine are left out."""
    experiment = run.experiment
    result = replace(run.result, model=experiment.network, data=experiment.images)
    kept = ("started", "processor", "n_cores", "memory_gib", "os", "python", "packages")
    return {
        "images": experiment.images,
        "network": experiment.network,
        "n_train": run.n_train,
        "dense_epochs": round(run.dense_epochs, 2),
        "finetune_steps": run.finetune_steps,
        "finetune_epochs": round(run.finetune_epochs, 2),
        "dense_training": run.dense,
        "system": {name: run.system[name] for name in kept if name in run.system},
        "result": asdict(result),
    }


def _results(runs: Sequence[FinishedRun]) -> str:
    """Tabulate every network of some runs, then each method over its seeds."""
    head = [
        "network",
        "floor",
        "seed",
        "method",
        "latency, ms [95 %]",
        "speed-up [95 %]",
        "test accuracy [95 %]",
        "parameters",
        "MACs",
        "fresh trials",
        "evaluations",
    ]
    rows = []
    for run in runs:
        result = run.result
        where = [run.experiment.network, f"{result.floor:+g}", str(result.seed)]
        rows.append([*where, "dense", *_figures(result.dense, "1.00"), "", ""])
        if result.dense_finetuned is not None:
            finetuned = _figures(result.dense_finetuned, "1.00")
            rows.append([*where, "dense, fine-tuned", *finetuned, "", ""])
        for method in result.methods:
            cost = [f"{method.cost.get(name, 0):.0f}" for name in _COSTS]
            rows.append([*where, method.method, *_figures(method.pruned, _speedup(method)), *cost])
    return _table(head, rows) + "\n" + _summary(runs)


_COSTS = ("fresh_trials", "accuracy_evaluations")


def _summary(runs: Sequence[FinishedRun]) -> str:
    """Tabulate each method's speed-ups over the seeds, with their geometric mean."""
    cases = dict.fromkeys((run.experiment.network, run.result.floor) for run in runs)
    rows = []
    for network, floor in cases:
        results = [
            run.result
            for run in runs
            if run.experiment.network == network and run.result.floor == floor
        ]
        for name in METHODS:
            found = [m for result in results for m in result.methods if m.method == name]
            if not found:
                continue
            speedups = [method.speedup for method in found]
            mean = math.exp(sum(map(math.log, speedups)) / len(speedups))
            listed = ", ".join(f"{speedup:.2f}" for speedup in speedups)
            rows.append([network, f"{floor:+g}", name, listed, f"{mean:.2f}"])
    return _table(["network", "floor", "method", "speed-up of each seed", "geometric mean"], rows)


def _speedup(method: MethodResult) -> str:
    if method.speedup == 1.0:
        return "1.00, refused"
    low, high = method.speedup_ci
    return f"{method.speedup:.2f} [{low:.2f}, {high:.2f}]"


def _figures(figures: Figures, speedup: str) -> list[str]:
    latency = f"{figures.shown_ms:.3f}"
    if figures.latency_ci_ms is not None:
        latency += " [{:.3f}, {:.3f}]".format(*figures.latency_ci_ms)
    low, high = (100 * end for end in figures.accuracy_test_ci)
    return [
        latency,
        speedup,
        f"{100 * figures.accuracy_test:.2f} % [{low:.2f}, {high:.2f}]",
        f"{figures.n_params / 1e3:.1f} k",
        f"{figures.macs / 1e6:.2f} M",
    ]


def _provenance(runs: Sequence[FinishedRun]) -> str:
    """Say when, where and by which training the figures were made."""
    lines = []
    for name in dict.fromkeys(run.experiment.name for run in runs):
        of_network = [run for run in runs if run.experiment.name == name]
        first = of_network[0]
        started = [_day(run.system.get("started")) for run in of_network]
        lines.append(
            f"- {first.experiment.network} on {first.experiment.images}: dense network trained "
            f"for {first.dense_epochs:.1f} epochs of {first.n_train:,} images, each full fine-tune "
            f"{first.finetune_steps:,} steps, {first.finetune_epochs:.1f} epochs. "
            f"{first.system.get('processor', 'an unknown processor')}, "
            f"{first.result.device}, {min(started)} to {max(started)}."
        )
    return "\n".join(lines) + "\n\n"


def _day(started: object) -> str:
    import datetime

    if not isinstance(started, (int, float)):
        return "an unknown day"
    return datetime.datetime.fromtimestamp(started, datetime.UTC).date().isoformat()


def _plan(experiments: Sequence[Experiment]) -> str:
    head = [
        "images",
        "network",
        "floors",
        "seeds",
        "effort",
        "training before, epochs",
        "each full fine-tune, epochs (steps)",
    ]
    rows = []
    for experiment in experiments:
        begins = "published checkpoint, then " if experiment.checkpoint else ""
        rows.append(
            [
                experiment.images,
                experiment.network,
                ", ".join(f"{floor:+g}" for floor in experiment.floors),
                ", ".join(map(str, experiment.seeds)),
                experiment.effort,
                f"{begins}{experiment.dense_epochs:g}",
                f"{experiment.finetune_epochs:g} ({experiment.finetune_steps:,})",
            ]
        )
    methods = ", ".join(METHODS)
    return f"Each run has the methods {methods}.\n\n{_table(head, rows)}"


def _published(runs: Sequence[FinishedRun]) -> str:
    """Tabulate what papers state, and beneath it these runs' own ResNet-56."""
    rows = [
        [
            published.method,
            f"{published.before:.2f} %",
            f"{published.after:.2f} %",
            f"{published.after - published.before:+.2f}",
            f"{published.macs_removed:.1f} %",
            "",
            published.paper,
        ]
        for published in PUBLISHED
    ]
    for run in runs:
        if run.experiment.network != "resnet56":
            continue
        dense = run.result.reference
        for method in run.result.methods:
            pruned = method.pruned
            gained = 100 * (pruned.accuracy_test - dense.accuracy_test)
            rows.append(
                [
                    f"{method.method}, floor {run.result.floor:+g}",
                    f"{100 * dense.accuracy_test:.2f} %",
                    f"{100 * pruned.accuracy_test:.2f} %",
                    f"{gained:+.2f}",
                    f"{100 * (1 - pruned.macs / dense.macs):.1f} %",
                    _speedup(method),
                    "this page, CIFAR-10 (JPEG)",
                ]
            )
    head = [
        "method",
        "dense",
        "pruned",
        "points",
        "MACs removed",
        "measured speed-up",
        "where it stands",
    ]
    return _table(head, rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
