"""The page of a comparison: one file, pictures inside; beside it pictures and tables as files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cprune_rl.agents.registry import METHODS
from cprune_rl.comparison.compare import MethodComparison, compare
from cprune_rl.comparison.records import RunRecord, read_records, read_sessions
from cprune_rl.comparison.report.evidence import Evidence, collect_evidence, proxies_table
from cprune_rl.comparison.report.leaderboard import CONTROLS, print_standings
from cprune_rl.comparison.report.plots import (
    plot_costs,
    plot_fronts,
    plot_iqm,
    plot_pairs,
    plot_profiles,
    plot_speedup,
)
from cprune_rl.comparison.report.tables import (
    costs_table,
    fronts_table,
    overall_table,
    pairs_table,
    problem_tables,
    shares_table,
)
from cprune_rl.core.system_info import describe_system, now_utc
from cprune_rl.envs.problems.registry import describe_recorded
from cprune_rl.envs.problems.replay import (
    EVALUATION_S,
    FINETUNE_S,
    TRIAL_S,
    TRIALS_PER_SCHEME_TASK,
    TRIALS_PER_TASK,
)
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.reporting.figure import Picture
from cprune_rl.reporting.html import Command, list_commands, write_html
from cprune_rl.reporting.tables import Table

__all__ = ["About", "write_page", "write_report"]

_NO_EVIDENCE = Evidence()


@dataclass(frozen=True, kw_only=True)
class About:
    """What a page says of how it was made; empty parts are left out.

    Attributes:
        title: heading.
        made: time in UTC.
        commands: exact ones, in order.
        system: as `cprune_rl.core.system_info.describe_system` gives it.
        noise: how far two timings of the same thing differ, a sentence.
        methods: one line on each method, by name.
        problems: one line on each problem, by name: processor, what was recorded.
        notes: further sentences on what is not shown.
    """

    title: str = "Search methods compared"
    made: str = ""
    commands: Sequence[str] = ()
    system: Mapping[str, Any] = field(default_factory=dict)
    noise: str = "Not measured here: nothing was timed."
    methods: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def write_report(folder: Path, progress: ProgressLog) -> MethodComparison:
    """Write `report.html` with its pictures and tables, and print the standings.

    Args:
        folder: of the comparison.
        progress: shows what is going on.

    Raises:
        ConfigError: there are no records, or one is damaged.
    """
    records = read_records(folder)
    problems = sorted({record.problem for record in records})
    with progress.track("Writing the page", None):
        comparison = write_page(
            folder,
            records,
            _describe(folder, records),
            evidence=collect_evidence(problems),
            controls=CONTROLS,
        )
    print_standings(comparison, progress.console)
    progress.print(
        f"Page: {folder / 'report.html'}; tables and pictures beside it. "
        f"Check a row with `cprune-rl validate {folder / 'rows'}/NAME.json`"
    )
    return comparison


def write_page(
    folder: Path,
    records: Sequence[RunRecord],
    about: About,
    *,
    evidence: Evidence = _NO_EVIDENCE,
    controls: Collection[str] = (),
) -> MethodComparison:
    """Write `report.html`, `pictures/` and `tables/`.

    Args:
        folder: of the comparison; made where it is missing.
        records: of all methods and cases.
        about: how it was made.
        evidence: why the compiler is asked.
        controls: methods that get no rank.

    Returns:
        What the page shows.

    Raises:
        ConfigError: no record is of a ranked method, or two are of the same run.
    """
    comparison = compare(records, controls=controls)
    main = [plot_iqm(comparison), plot_speedup(comparison)]
    depth = [
        *plot_costs(comparison),
        plot_profiles(comparison),
        plot_fronts(comparison),
        plot_pairs(comparison),
    ]
    tables = _tables(comparison, evidence)
    problems = problem_tables(comparison)
    _write_files(folder, [*main, *depth, *evidence.pictures], [*tables.values(), *problems])
    check = Command(
        f"cprune-rl validate {folder.resolve().name}/rows/NAME.json",
        "Checks every claim of one run anew.",
    )
    write_html(
        folder / "report.html",
        "comparison.html",
        comparison=comparison,
        about=about,
        tables=tables,
        problems=problems,
        main=main,
        depth=depth,
        evidence=evidence,
        worst=next(iter(comparison.fronts.values())).worst,
        runs=_summarise(records),
        verdict=_verdict(comparison),
        commands=list_commands(about.commands, check),
    )
    return comparison


def _tables(comparison: MethodComparison, evidence: Evidence) -> dict[str, Table]:
    tables = [
        overall_table(comparison),
        costs_table(comparison),
        shares_table(comparison),
        fronts_table(comparison),
        pairs_table(comparison),
    ]
    if evidence.proxies:
        tables.append(proxies_table(evidence.proxies))
    return {table.name: table for table in tables}


def _write_files(folder: Path, pictures: Sequence[Picture], tables: Sequence[Table]) -> None:
    for name in ("pictures", "tables"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        picture.write(folder / "pictures")
    for table in tables:
        (folder / "tables" / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")


def _describe(folder: Path, records: Sequence[RunRecord]) -> About:
    sessions = read_sessions(folder)
    methods = {record.method for record in records}
    problems = {}
    for problem in sorted({record.problem for record in records}):
        recorded = describe_recorded(problem)
        problems[problem] = (
            f"{recorded.machine}; {recorded.n_tasks} tasks recorded {recorded.recorded}"
        )
    return About(
        title="Pruning for a device: search methods within equal budgets",
        made=now_utc(),
        commands=[session["command"] for session in sessions],
        system=describe_system(),
        noise="Latencies are recorded and summed over tasks. Nothing was timed for this page, so "
        "two runs of one search give the same figures.",
        methods={name: method.description for name, method in METHODS.items() if name in methods},
        problems=problems,
        notes=_NOTES,
    )


_NOTES = (
    "A recording does not hold how many trials a task took. A task that is measured anew is "
    f"charged with {TRIALS_PER_TASK} fresh trials. In the table of schemes, which is measured "
    f"before a search by them, a task is charged with {TRIALS_PER_SCHEME_TASK}. In live runs with "
    "full effort CPrune took 16 and the agent 20.",
    "Seconds of measuring and training are worked out from counts, at the rates of live runs: "
    f"{TRIAL_S:g} s a trial, {EVALUATION_S:g} s an evaluation, {FINETUNE_S:g} s a full fine-tune. "
    "Those of thinking and of training a policy were taken here.",
    "Training a policy on other families of networks is charged to none of the networks that it "
    "serves.",
    "That policy is one, of one seed: the intervals of methods that use a trained policy leave out "
    "how trainings differ.",
    "Every method is shown one model of losses, that of the fine-tunes for calibration, and is "
    "charged nothing for them. Drawn losses deviate from it as those did that the agent's policy "
    "was trained on: the agent is at home there. With --losses recorded they are the recordings' "
    "own.",
    "cprune-published is charged with 70 trials for each task of each candidate. Its code ends in "
    "a KeyError where a walk accepts nothing; here it ends with what it has.",
    "MILP solvers have limits by the clock, of seconds where a solution takes milliseconds.",
)


def _summarise(records: Sequence[RunRecord]) -> dict[str, Any]:
    """Summarise what the records say of themselves."""
    budgets: set[str] = set()
    versions: set[str] = set()
    for record in records:
        limits = record.budget.items()
        budgets.add(", ".join(f"{name} {_limit(limit)}" for name, limit in limits))
        versions.update(f"{package} {version}" for package, version in record.versions.items())
    floors = sorted({record.floor for record in records}, reverse=True)
    return {
        "n": len(records),
        "n_seeds": len({record.seed for record in records}),
        "floors": [f"{100 * floor:+g}" for floor in floors],
        "losses": {record.losses for record in records},
        "commits": sorted({record.commit for record in records}),
        "versions": sorted(versions),
        "budgets": sorted(budgets),
    }


def _limit(limit: float | None) -> str:
    return "unlimited" if limit is None else f"{limit:g}"


def _verdict(comparison: MethodComparison) -> dict[str, Any] | None:
    """Set the agent beside the other ranked methods, by the interval of the difference.

    Returns:
        Its standing, the number of ranked methods, and those it is above, below and level with;
        None without an agent.
    """
    standings = {s.method: s for s in comparison.standings}
    if comparison.agent not in standings:
        return None
    sides: defaultdict[str, list[str]] = defaultdict(list)
    ranked = [s for s in comparison.standings if s.rank is not None]
    for standing in ranked:
        over = standing.agent_over
        if over is None:
            continue
        if over.low > 0:
            sides["above"].append(standing.method)
        elif over.high < 0:
            sides["below"].append(standing.method)
        else:
            sides["level"].append(standing.method)
    return {
        "agent": standings[comparison.agent],
        "n_ranked": len(ranked),
        "above": sides["above"],
        "below": sides["below"],
        "level": sides["level"],
    }
