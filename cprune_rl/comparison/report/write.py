"""The page and the ranking of a comparison's folder:

rows read, set beside each other, and told how they were made.

Called by the CLI.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cprune_rl.agents.registry import METHODS
from cprune_rl.comparison.cases import EVALUATION_S, FINETUNE_S, TRIAL_S
from cprune_rl.comparison.compiler_evidence import inversion, one_per_network, proxies, staircase
from cprune_rl.comparison.records import RunRecord, read_records
from cprune_rl.comparison.report.leaderboard import write_leaderboard
from cprune_rl.comparison.report.page import About, write_page
from cprune_rl.comparison.report.plots import plot_order, plot_staircase
from cprune_rl.comparison.statistics import Comparison
from cprune_rl.comparison.validation import is_valid
from cprune_rl.core.system_info import describe_system, now_utc
from cprune_rl.envs.problems.registry import describe_recorded
from cprune_rl.envs.problems.replay import TRIALS_PER_SCHEME_TASK, TRIALS_PER_TASK
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.reporting.figure import Picture

__all__ = ["rank", "report"]

_CONTROLS = tuple(name for name, method in METHODS.items() if method.role == "control")


def report(folder: Path, progress: ProgressLog) -> Comparison:
    """Writes `report.html` with its pictures and tables, and prints the standings.

    Args:
        folder: of the comparison.
        progress: told what is going on.

    Raises:
        ConfigError: there are no rows, or one is damaged.
    """
    rows = read_records(folder)
    problems = sorted({r.problem for r in rows})
    with progress.track("Writing the page", None):
        found = write_page(
            folder,
            rows,
            _about(folder, rows),
            _why(problems),
            [proxies(name) for name in problems],
            _CONTROLS,
        )
    _print(found, progress.console)
    progress.print(
        f"Page: {folder / 'report.html'}; tables and pictures beside it. Check a row with `cprune-rl validate {folder / 'rows'}/NAME.json`"
    )
    return found


def rank(folder: Path, progress: ProgressLog) -> Comparison:
    """Runs every row's search again, and ranks methods by those that came to the same.

    Args:
        folder: of the comparison.
        progress: told what is going on.

    Raises:
        ConfigError: no row holds.
    """
    paths = sorted((folder / "rows").glob("*.json"))
    valid: set[Path] = set()
    with progress.track("Running every search again", len(paths)) as advance:
        for done, path in enumerate(paths, start=1):
            if is_valid(path):
                valid.add(path)
            advance(done)
    return write_leaderboard(folder, valid.__contains__, progress.console, _CONTROLS)


def _about(folder: Path, rows: Sequence[RunRecord]) -> About:
    sessions = folder / "sessions.json"
    commands = (
        [s["command"] for s in json.loads(sessions.read_text())] if sessions.is_file() else []
    )
    said = {r.problem: describe_recorded(r.problem) for r in rows}
    return About(
        title="Pruning for a device: search methods within equal budgets",
        made=now_utc(),
        commands=list(dict.fromkeys(commands)),
        system=describe_system(),
        noise="Latencies are recorded and summed over tasks; nothing was timed for this page, so two runs of one search give the same figures.",
        methods={
            name: METHODS[name].what for name in METHODS if any(r.method == name for r in rows)
        },
        problems={
            name: f"{s.machine}; {s.n_tasks} tasks recorded {s.recorded}"
            for name, s in said.items()
        },
        notes=[
            f"A recording does not hold how many trials a task took: a look at a new one is charged with {TRIALS_PER_TASK} fresh trials, "
            f"and with {TRIALS_PER_SCHEME_TASK} in the table of schemes that is measured before a search by them; "
            "in live runs with full effort it took CPrune 16 and the agent 20.",
            f"Seconds of measuring and training are worked out from counts, as live runs had them: {TRIAL_S:g} s a trial, {EVALUATION_S:g} s an evaluation, "
            f"{FINETUNE_S:g} s a full fine-tune; those of thinking and of training a policy were taken here.",
            "Training a policy on other families of networks is charged to none of the networks that it serves.",
            "That policy is one, of one seed: the intervals of methods that bring a policy along leave out how trainings differ.",
            "The final gate's own margin, which a live run asks for on so many images, is left out.",
            "Every method is shown one curve of losses that calibration fine-tunes gave, and is charged nothing for them. Drawn losses deviate from it as those did that the "
            "agent's policy was trained on, and as its model of losses expects: at home, so to speak. With --losses recorded they are the recordings' own.",
            "cprune-published is charged with 70 trials for each task of each candidate; its code ends in a KeyError where a walk accepts nothing, here it ends with what it has.",
            "MILP solvers have limits by the clock, of seconds where a solution takes milliseconds.",
        ],
    )


def _why(problems: Sequence[str]) -> list[Picture]:
    """Why the compiler is asked:

    a staircase of each network, and plans of equal predicted loss by operations and by latency.
    """
    pictures = []
    for name in one_per_network(problems):
        if (stairs := staircase(name)) is not None:
            title = f"{stairs.layer} of {name}, {stairs.channels_in} channels read"
            pictures.append(
                plot_staircase(f"staircase-{name.replace('@', '-')}", title, stairs.points, 0.02)
            )
        found = inversion(name)
        pictures.append(
            plot_order(
                f"order-{name.replace('@', '-')}",
                f"{name}, {len(found.points)} plans of equal predicted loss",
                found.points,
                found.correlation,
                ("operations, share of dense", "latency, share of dense"),
            )
        )
    return pictures


def _print(found: Comparison, console: Console) -> None:
    view = Table(
        "method",
        "share of the best gain, IQM [95 %]",
        "speed-up [95 %]",
        "evaluations",
        "fresh trials",
        title=f"{len(found.scores.cases)} cases of {found.n_problems} problems",
    )
    for s in found.standings:
        share, speedup = (f"{i.value:.3f} [{i.low:.3f}, {i.high:.3f}]" for i in (s.iqm, s.speedup))
        view.add_row(
            s.method,
            share,
            speedup,
            f"{s.cost['accuracy_evaluations']:.0f}",
            f"{s.cost['fresh_trials']:.0f}",
        )
    console.print(view)
    for caveat in found.caveats:
        console.print(caveat, markup=False, highlight=False)
