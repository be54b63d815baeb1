"""Runs the stages that lead from a network's name to compiled, pruned networks.

Each stage is a function from values to a value: load -> `TrainedModel`, tune -> `LatencyBackend`,
calibrate -> `OracleCalibration` (these three in `setup.open_context`), search -> `SearchResult`,
finalize -> `Finalist`, compare -> `ComparedFinalists`, write -> `Result`. Only this file and
`stage_store` know the run folder. `--resume` finds searches and policies there, and everything else
in the caches.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from cprune_rl.core.atomic_files import write_bytes
from cprune_rl.core.explained_plan import ExplainedPlan
from cprune_rl.core.floor import resolve_floor
from cprune_rl.core.result import DenseFigures, FrontPoint, Result, accuracy_word, write_front
from cprune_rl.core.search_result import SearchResult
from cprune_rl.core.subgraph_table import SubgraphTable
from cprune_rl.envs.actions.base import ActionSet
from cprune_rl.envs.actions.scheme_actions import SchemeActions
from cprune_rl.models.registry import is_object
from cprune_rl.models.weights import export_torch, save_weights
from cprune_rl.pipeline.config import RunConfig
from cprune_rl.pipeline.context import RunContext
from cprune_rl.pipeline.finalize import FinalGate, Finalist, compare_finalists, finalize
from cprune_rl.pipeline.given import Given
from cprune_rl.pipeline.live_finetunes import LiveFinetunes
from cprune_rl.pipeline.policy_stage import RunPolicy, n_rows, train_on_model
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.results import (
    RunOutcome,
    SearchJob,
    calibration_maps,
    copy_library,
    dense_figures,
    explained_plan,
    front_folder,
    front_points,
    method_results,
    run_results,
    save_problem,
    test_networks,
    write_network,
    write_other_dense,
)
from cprune_rl.pipeline.run_folder import RunFolder
from cprune_rl.pipeline.run_settings import (
    channel_policy_settings,
    gate_settings,
    scheme_policy_settings,
    search_settings,
)
from cprune_rl.pipeline.search_logger import SearchLogger
from cprune_rl.pipeline.search_stage import charge_searcher, search
from cprune_rl.pipeline.setup import open_context
from cprune_rl.pipeline.stage_store import StageStore
from cprune_rl.pipeline.write_exports import write_exports
from cprune_rl.reporting.run_page import OracleSummary, RunReport, write_page
from cprune_rl.reporting.run_plots import plot_front
from cprune_rl.reporting.run_tables import (
    accuracy_on,
    agreement_note,
    costs_table,
    dense_note,
    front_table,
    loop_note,
    noise_note,
    prediction_note,
    results_table,
    subgraph_table,
)

__all__ = ["FinishedRun", "plan_searches", "run", "run_whole"]


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """What a run of one floor or several came to.

    Attributes:
        results: one for each floor.
        plans: what the run's own method keeps, for each floor.
        models: the same networks, fine-tuned.
        input_shape: of one image as a batch.
    """

    results: tuple[Result, ...]
    plans: tuple[ExplainedPlan, ...]
    models: tuple[nn.Module, ...]
    input_shape: tuple[int, ...]


def run(folder: RunFolder, progress: ProgressLog) -> list[Result]:
    """Go the whole way and give the result for each floor: see `run_whole`."""
    return list(run_whole(folder, progress).results)


def run_whole(folder: RunFolder, progress: ProgressLog, given: Given | None = None) -> FinishedRun:
    """Go the whole way from a network's name to compiled, pruned networks.

    A run with one floor writes `result.json` and a report; one with several writes `front.json`,
    and a folder for each network.

    Args:
        folder: gets all files; what it has already is not made again.
        progress: told what is going on.
        given: objects in the place of names.

    Returns:
        The result for each floor, and its network.

    Raises:
        ConfigError: another process works on the folder.
        CPruneError: an option, the network, the machine's tools, the device, the recording or the
            cost cache is at fault. What was done so far stays in the folder and the caches.
    """
    config = folder.config
    torch.manual_seed(config.seed)
    jobs = plan_searches(config)
    with (
        folder.lock(),
        open_context(config, progress, folder.started, given) as context,
    ):
        for job in jobs:  # a floor that nothing can hold is refused before anything is searched
            context.search_floor(job.floor, config.margin or 0.0)
        table = _dense_table(context)
        progress.console.print(subgraph_table(table).for_terminal())
        store = StageStore(folder)
        gates = {floor: FinalGate(gate_settings(config, floor), context) for floor in config.floor}
        searches = []
        for job in jobs:
            search_job = functools.partial(
                _search, context, job, gates[job.floor], folder, progress
            )
            searches.append(store.search(job.label, search_job))
        most = config.limits.full_finetunes
        finalists = _finalize_all(gates, jobs, searches, progress, most)
        compared = compare_finalists(context, finalists, folder.path, progress)
        outcome = RunOutcome(
            context=context, table=table, jobs=jobs, searches=searches, compared=compared
        )
        results = _write(outcome, folder, progress)
        return FinishedRun(
            results=tuple(results),
            plans=tuple(explained_plan(outcome, floor) for floor in config.floor),
            models=tuple(outcome.own_finalist(floor).model for floor in config.floor),
            input_shape=context.trained_model.trainer.input_shape,
        )


def plan_searches(config: RunConfig) -> list[SearchJob]:
    """List the searches of a run, those of its own method last."""
    methods = [*config.rivals, config.own_method]
    if not config.is_front:
        return [
            SearchJob(method=method, floor=config.floor[0], label=method, name=method)
            for method in methods
        ]
    jobs = []
    for method in methods:
        for floor in config.floor:
            label = f"{method}{floor:+g}"
            name = label if len(methods) > 1 else f"{floor:+g}"
            jobs.append(SearchJob(method=method, floor=floor, label=label, name=name))
    return jobs


def _dense_table(context: RunContext) -> SubgraphTable:
    dense = context.network.dense
    return SubgraphTable.from_costs(context.network, dense, context.backend.source().measure(dense))


def _search(
    context: RunContext,
    job: SearchJob,
    gate: FinalGate,
    folder: RunFolder,
    progress: ProgressLog,
) -> SearchResult:
    config = folder.config
    settings = search_settings(config)
    policy_for = functools.partial(_policy, context, folder, progress)
    charged = charge_searcher(job.method, context, settings, policy_for)
    margin = gate.search_margin if config.margin is None else config.margin
    problem = context.problem(job.floor, margin, LiveFinetunes(gate, progress))
    title = f"Searching with {job.label}, % of the slack used"
    with (
        SummaryWriter(str(folder.file("tensorboard"))) as writer,
        progress.track(title, 100, is_steady=False) as advance,
    ):
        logger = SearchLogger(
            problem,
            job.label,
            progress=progress,
            log_metrics=folder.log,
            writer=writer,
            advance=advance,
        )
        return search(charged, problem, settings.budget, logger, progress)


def _policy(
    context: RunContext, folder: RunFolder, progress: ProgressLog, action_set: ActionSet
) -> RunPolicy:
    """Give the policy for some actions: the user's, the folder's, or one that is trained now."""
    config = folder.config
    store = StageStore(folder)
    name = "policy"
    settings = channel_policy_settings(config)
    if isinstance(action_set, SchemeActions):
        name = "mapping_policy"
        settings = scheme_policy_settings(config)
    rows = n_rows(context.network)
    if settings.given is not None:
        return store.given_policy(name, settings.given, action_set, rows)
    log_folder = folder.file("tensorboard")
    train = functools.partial(train_on_model, settings, context, action_set, log_folder, progress)
    return store.trained_policy(name, action_set, rows, train)


def _finalize_all(
    gates: Mapping[float, FinalGate],
    jobs: Sequence[SearchJob],
    searches: Sequence[SearchResult],
    progress: ProgressLog,
    most: int | None,
) -> dict[str, Finalist]:
    """Finalize every search.

    This comes after all searches: what full fine-tunes say of the oracle would favour methods that
    search later.
    """
    finalists: dict[str, Finalist] = {}
    for job, result in zip(jobs, searches, strict=True):
        finished = [j for j in jobs if j.floor == job.floor and j.name in finalists]
        others = [finalists[j.name] for j in finished]
        finalists[job.name] = finalize(result, gates[job.floor], progress, others, most)
    return finalists


def _write(outcome: RunOutcome, folder: RunFolder, progress: ProgressLog) -> list[Result]:
    """Write all files of a finished run, and print what it came to."""
    config = folder.config
    tested = test_networks(outcome)
    methods = method_results(outcome, tested)
    stages_s = {**progress.stages_s, "all": round(time.time() - folder.started, 1)}
    dense = dense_figures(outcome, tested)
    results = run_results(outcome, config, dense, methods, stages_s)
    for job, method in zip(outcome.jobs, methods, strict=True):
        speedup = {f"{job.label}/speedup": method.speedup}
        accuracy = {f"{job.label}/accuracy_test": method.pruned.accuracy_test}
        folder.log("final", 0, **speedup, **accuracy)
    problem = outcome.context.problem(config.floor[0], config.margin or 0.0)
    save_problem(outcome, problem, folder.file("problem.json"))
    write_other_dense(outcome, folder.path)
    if config.is_front:
        points = front_points(outcome, tested, methods)
        _write_front(outcome, points, dense, folder, progress)
        return results
    return [_write_single(outcome, results[0], folder, progress)]


def _write_front(
    outcome: RunOutcome,
    points: Sequence[FrontPoint],
    dense: DenseFigures,
    folder: RunFolder,
    progress: ProgressLog,
) -> None:
    write_network(outcome, outcome.dense, "dense", folder.file("dense"))
    for job in outcome.jobs:
        finalist = outcome.compared.finalists[job.name]
        network_folder = folder.file(front_folder(job))
        write_network(outcome, finalist, job.name, network_folder)
        write_exports(
            finalist.model,
            outcome.context.trained_model.trainer.input_shape,
            folder.config.export,
            network_folder,
            progress,
        )
    labels = folder.config.labels
    latency_source = outcome.context.backend.latency_source
    own_loop = outcome.context.trained_model.trainer.own_loop
    write_front(folder.file("front.json"), points, dense, latency_source, labels, own_loop)
    shown_on = "test images" if own_loop is None else own_loop.shown_on
    accuracy = accuracy_on(accuracy_word(labels), shown_on)
    write_bytes(folder.file("front.png"), plot_front(points, accuracy).png)
    progress.console.print(front_table(points, accuracy).for_terminal())
    for note in (dense_note(dense, shown_on), loop_note(own_loop)):
        if note:
            progress.print(note)
    progress.print(
        f"Front: {folder.path} (front.png, front.json, and a folder for each floor; "
        f"check it with `cprune-rl validate {folder.path}`)"
    )


def _write_single(
    outcome: RunOutcome, result: Result, folder: RunFolder, progress: ProgressLog
) -> Result:
    """Write the files of a run with one floor, and complete its result with their names."""
    context = outcome.context
    trained_model = context.trained_model
    own = outcome.jobs[-1].name
    finalist = outcome.compared.finalists[own]
    write_network(outcome, finalist, own, folder.path)
    input_shape = trained_model.trainer.input_shape
    if not is_object(trained_model.name):  # or `write_network` has written it
        export_torch(finalist.model, input_shape, folder.file("model.pt2"))
    written = write_exports(
        finalist.model, input_shape, folder.config.export, folder.path, progress
    )
    result = replace(
        result, exported=("model.pt2", *written.files), not_exported=dict(written.failed)
    )
    copy_library(outcome, "dense", folder.file("dense.so"))
    save_weights(outcome.dense.model, folder.file("dense.safetensors"))
    result.write(folder.file("result.json"))
    report = RunReport(
        result=result,
        table=outcome.table,
        searches=outcome.searches,
        plans=[(f.method, f.plan) for f in outcome.compared.finalists.values()],
        floor=context.search_floor(folder.config.floor[0], folder.config.margin or 0.0),
        oracle=OracleSummary(
            name=context.oracle.name,
            note=context.oracle.note,
            maps=calibration_maps(outcome),
            data=trained_model.trainer.describe(),
        ),
        system=folder.read_json("system.json") or {},
        command=folder.file("command.txt").read_text().strip(),
    )
    write_page(folder.file("report.html"), report)
    for table in (results_table(result), costs_table(result)):
        progress.console.print(table.for_terminal())
    notes = (
        dense_note(result.dense_figures, result.shown_on),
        loop_note(result.own_loop),
        noise_note(result),
        agreement_note(result),
        prediction_note(result),
    )
    for line in notes:
        if line:
            progress.print(line)
    if finalist.plan == outcome.dense.plan:
        progress.print(
            "No plan holds this floor: the result is the dense network, speed-up 1.0. "
            "A lower --floor gives the search room."
        )
    _print_floor(result, progress)
    progress.print(
        f"Run folder: {folder.path} (open report.html; "
        f"check it with `cprune-rl validate {folder.path}`)"
    )
    return result


def _print_floor(result: Result, progress: ProgressLog) -> None:
    """Say whether each network holds the floor on the images that are shown."""
    floor = resolve_floor(result.floor, result.reference.accuracy_test, may_exceed=True)
    for method in result.methods:
        accuracy = method.pruned.accuracy_test
        holds = "holds" if accuracy >= floor else "does NOT hold"
        of_what = "" if result.labels == "given" else f" of {result.accuracy_word}"
        progress.print(
            f"{method.method}: the floor, {floor:.2%}{of_what} on {result.shown_on}, {holds} "
            f"({accuracy:.2%})"
        )
