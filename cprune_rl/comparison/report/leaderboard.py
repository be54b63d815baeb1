"""A ranking of methods from records that were validated, and from no others."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from rich.console import Console

from cprune_rl.agents.registry import METHODS
from cprune_rl.comparison.compare import MethodComparison, compare
from cprune_rl.comparison.records import read_record
from cprune_rl.comparison.report.tables import leaderboard_table
from cprune_rl.comparison.validation import is_valid
from cprune_rl.errors import ConfigError
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.reporting.html import Command, list_commands, write_html

__all__ = ["CONTROLS", "print_standings", "rank", "write_leaderboard"]

CONTROLS = tuple(name for name, method in METHODS.items() if method.role == "control")


def rank(folder: Path, progress: ProgressLog) -> MethodComparison:
    """Run every record's search again, and rank methods by those that came to the same.

    Args:
        folder: of the comparison.
        progress: shows what is going on.

    Raises:
        ConfigError: no record holds.
    """
    paths = sorted((folder / "rows").glob("*.json"))
    valid: set[Path] = set()
    with progress.track("Running every search again", len(paths)) as advance:
        for n_done, path in enumerate(paths, start=1):
            if is_valid(path):
                valid.add(path)
            advance(n_done)
    return write_leaderboard(folder, valid.__contains__, progress.console)


def write_leaderboard(
    folder: Path,
    is_validated: Callable[[Path], bool],
    console: Console,
    controls: Collection[str] = CONTROLS,
) -> MethodComparison:
    """Print a ranking and write `leaderboard.html` and `leaderboard.csv`.

    Args:
        folder: of a comparison; its `rows/*.json` are asked for one by one.
        is_validated: whether the record in a file was validated.
        console: to print on.
        controls: methods that get no rank.

    Raises:
        ConfigError: none was validated, or one that was is damaged.
    """
    paths = sorted((folder / "rows").glob("*.json"))
    records = [read_record(path) for path in paths if is_validated(path)]
    if not records:
        raise ConfigError(
            f"none of {len(paths)} rows in {folder / 'rows'} was validated: "
            "a leaderboard takes no others."
        )
    comparison = compare(records, controls=controls)
    left_out = f"{len(records)} of {len(paths)} runs were validated; the rest are left out."
    table = leaderboard_table(comparison)
    print_standings(comparison, console, note=left_out)
    (folder / "leaderboard.csv").write_text(table.csv(), encoding="utf-8")
    check = Command(
        f"cprune-rl validate {folder.resolve().name}/rows/NAME.json",
        "Checks one run of this ranking anew.",
    )
    write_html(
        folder / "leaderboard.html",
        "leaderboard.html",
        comparison=comparison,
        standings=table,
        left_out=left_out,
        commands=list_commands([f"cprune-rl leaderboard {folder.resolve().name}"], check),
    )
    return comparison


def print_standings(comparison: MethodComparison, console: Console, note: str = "") -> None:
    """Print the ranking, with a note, and what a reader must know before believing it."""
    console.print(leaderboard_table(comparison).for_terminal(note=note))
    for caveat in comparison.caveats:
        console.print(caveat, markup=False, highlight=False)
