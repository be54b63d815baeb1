"""An accuracy-latency front:

one network pruned for several floors, by one method or several, everything compared in one session.

The base network, its tasks, the calibration and the policies are those of one run; each method and
floor has a search and a final gate
of its own. Called for `--front`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.table import Table

from cprune_rl.accuracy.final_gate import difference_interval
from cprune_rl.accuracy.training import correct_predictions
from cprune_rl.core.intervals import accuracy_interval
from cprune_rl.core.search_result import SearchResult
from cprune_rl.pipeline.backends.base import Comparison, FinishedNetwork
from cprune_rl.pipeline.context import RunContext
from cprune_rl.pipeline.finalize import FinalGate, Finalist, compare_finalists, finalize
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.run import methods_of_run, record_problem
from cprune_rl.pipeline.run_folder import RunFolder
from cprune_rl.pipeline.search_stage import search
from cprune_rl.pipeline.setup import open_context
from cprune_rl.pruning.surgery import PlanFile, count_parameters, kept_indices
from cprune_rl.reporting.run_plots import plot_front

__all__ = ["FrontPoint", "sweep"]


@dataclasses.dataclass(frozen=True)
class FrontPoint:
    """One finished network of a front.

    Attributes:
        method: that found it; "dense" of the dense network.
        floor: as asked for; None of the dense network.
        folder: of the network, within the front's.
        shown_ms: latency of the whole network, or the estimate where there was no device.
        latency_ci_ms: its 95 % interval; None of an estimate.
        speedup: dense over its latency, with a 95 % interval.
        accuracy_test: on test images, with Wilson's 95 % interval.
        gained_test: accuracy above the dense network's on the same test images, negative where it
            lost, with a 95 % interval.
        n_params: of the network.
        gate: the final gate's verdict (see `accuracy.gate.Verdict`); empty of the dense network.
        cost: of the search.
    """

    method: str
    floor: float | None
    folder: str
    shown_ms: float
    latency_ci_ms: tuple[float, float] | None
    speedup: tuple[float, float, float]
    accuracy_test: tuple[float, float, float]
    gained_test: tuple[float, float, float]
    n_params: int
    gate: dict[str, float]
    cost: dict[str, float]


@dataclasses.dataclass(frozen=True)
class _Search:
    """One search of a front."""

    method: str
    floor: float
    found: SearchResult

    @property
    def name(self) -> str:
        """As the folder calls it."""
        return f"{self.method}{self.floor:+g}"


def sweep(folder: RunFolder, progress: ProgressLog) -> list[FrontPoint]:
    """Prunes for each floor, by each method, and compares all.

    Args:
        folder: whose options say which floors; gets `front.json`, `front.png`, `problem.json` and a
            folder for each floor (and method, where there are several)
            with its network, and one for the dense network; searches that it has are not repeated.
        progress: told what is going on.

    Returns:
        The dense network first, then a point for each floor in the order asked for; the run's own
        method last.

    Raises:
        CPruneError: see `open_context`.
    """
    config, floors = folder.config, folder.config.front
    torch.manual_seed(config.seed)
    with open_context(config, progress, folder.started) as context:
        contexts = {
            floor: dataclasses.replace(context, config=config.model_copy(update={"floor": floor}))
            for floor in floors
        }
        for of_floor in contexts.values():
            of_floor.problem()  # a floor that nothing can hold is told before anything is searched
        methods = methods_of_run(config.model_copy(update={"rival": False}))
        searches = [
            _Search(m, floor, search(of_floor, folder, progress, m, f"{m}{floor:+g}"))
            for m in methods
            for floor, of_floor in contexts.items()
        ]
        finalists: list[Finalist] = []
        # after all of them: what full fine-tunes tell of the oracle would favour methods that
        # search later
        for s in searches:
            others = [f for f, of in zip(finalists, searches, strict=False) if of.floor == s.floor]
            finalists.append(finalize(s.found, FinalGate(contexts[s.floor]), progress, others))
        names = [s.name if len(methods) > 1 else f"{s.floor:+g}" for s in searches]
        chosen, networks, comparison = compare_finalists(
            context, dict(zip(names, finalists, strict=True)), folder.path, progress
        )
        for name, network in networks.items():
            _write_network(context, folder.path / _folder_of(name), name, network, comparison)
        points = [_point(context, comparison, "dense", networks["dense"], ("dense", None), {}, {})]
        points += [
            _point(
                context,
                comparison,
                name,
                networks[name],
                (s.method, s.floor),
                vars(chosen[name].verdict),
                s.found.cost,
            )
            for name, s in zip(names, searches, strict=True)
        ]
        record_problem(context, folder, [s.found for s in searches])
    folder.write_json(
        "front.json",
        {
            "latency_source": context.backend.latency_source,
            "points": [dataclasses.asdict(p) for p in points],
        },
    )
    folder.file("front.png").write_bytes(plot_front(points).png)
    progress.console.print(_table(points))
    progress.print(
        f"Front: {folder.path} (front.png, front.json, and a folder for each floor; check it with `cprune-rl validate {folder.path}`)"
    )
    return points


def _point(
    context: RunContext,
    comparison: Comparison,
    name: str,
    network: FinishedNetwork,
    asked: tuple[str, float | None],
    gate: dict[str, float],
    cost: dict[str, float],
) -> FrontPoint:
    latency, ratio = comparison.latency_ms.get(name), comparison.speedup.get(name)
    right, of_dense = (
        correct_predictions(model, context.data.test) for model in (network.model, context.model)
    )
    accuracy, gained = accuracy_interval(right), difference_interval(right, of_dense)
    is_dense = ratio is None or network.plan == context.network.dense
    return FrontPoint(
        *asked,
        _folder_of(name),
        comparison.estimate_ms[name] if latency is None else latency.value,
        None if latency is None else (latency.low, latency.high),
        (1.0, 1.0, 1.0) if is_dense or ratio is None else (ratio.value, ratio.low, ratio.high),
        (accuracy.value, accuracy.low, accuracy.high),
        (gained.value, gained.low, gained.high),
        count_parameters(network.model, network.plan.schemes),
        gate,
        cost,
    )


def _folder_of(name: str) -> str:
    return name if name == "dense" else f"floor{name}"


def _write_network(
    context: RunContext, folder: Path, name: str, network: FinishedNetwork, comparison: Comparison
) -> None:
    folder.mkdir(exist_ok=True)
    kept = kept_indices(context.coupled, network.plan)
    PlanFile(
        model=context.config.network_name,
        n_classes=context.data.n_classes,
        input_shape=context.data.input_shape,
        kept=kept,
        schemes=network.plan.schemes,
    ).write(folder, network.model)
    if name in comparison.libraries:
        (folder / "lib.so").write_bytes(comparison.libraries[name].read_bytes())


def _table(points: Sequence[FrontPoint]) -> Table:
    view = Table(
        title="Accuracy-latency front"
        + (": estimates, nothing was timed" if points[0].latency_ci_ms is None else "")
    )
    for column in (
        "method",
        "floor",
        "latency, ms",
        "speed-up [95 %]",
        "test accuracy [95 %]",
        "gained [95 %]",
        "params",
        "fresh trials",
        "evaluations",
    ):
        view.add_column(column, justify="left" if column in ("method", "floor") else "right")
    for p in points:
        value, low, high = p.accuracy_test
        speedup = "1.00" if p.floor is None else "{:.2f} [{:.2f}, {:.2f}]".format(*p.speedup)
        gained = "" if p.floor is None else "{:+.2%} [{:+.2%}, {:+.2%}]".format(*p.gained_test)
        costs = [
            f"{p.cost[c]:.0f}" if c in p.cost else "-"
            for c in ("fresh_trials", "accuracy_evaluations")
        ]
        floor = "" if p.floor is None else f"{p.floor:+g}"
        view.add_row(
            p.method,
            floor,
            f"{p.shown_ms:.3f}",
            speedup,
            f"{value:.2%} [{low:.2%}, {high:.2%}]",
            gained,
            f"{p.n_params:,}",
            *costs,
        )
    return view
