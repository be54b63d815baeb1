"""A ranking of methods from rows that were validated, and from no others."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from jinja2 import Environment, PackageLoader
from rich.console import Console
from rich.markup import escape
from rich.table import Table as View

from cprune_rl.comparison.records import read_record
from cprune_rl.comparison.report.tables import Column, Table
from cprune_rl.comparison.scores import UNRANKED
from cprune_rl.comparison.statistics import Comparison, compare
from cprune_rl.errors import ConfigError

__all__ = ["write_leaderboard"]


def write_leaderboard(
    folder: Path,
    validated: Callable[[Path], bool],
    console: Console | None = None,
    controls: Collection[str] = (),
    unranked: Collection[str] = UNRANKED,
) -> Comparison:
    """Prints a ranking and writes `leaderboard.html` and `leaderboard.csv`.

    Args:
        folder: of a comparison; its `rows/*.json` are asked for one by one.
        validated: whether the row in a file was validated.
        console: to print on.
        controls: methods that are shown without a rank.
        unranked: methods that only serve as a reference.

    Returns:
        What the ranking is from.

    Raises:
        ConfigError: none was validated, or one that was is damaged.
    """
    paths = sorted((folder / "rows").glob("*.json"))
    rows = [read_record(path) for path in paths if validated(path)]
    if not rows:
        raise ConfigError(
            f"none of {len(paths)} rows in {folder / 'rows'} was validated: a leaderboard takes no others."
        )
    found = compare(rows, unranked=unranked, controls=controls)
    left_out = f"{len(rows)} of {len(paths)} runs were validated; the rest are left out."
    table = _table(found)
    _print(table, left_out, found, console or Console())
    (folder / "leaderboard.csv").write_text(table.csv(), encoding="utf-8")
    template = Environment(
        loader=PackageLoader("cprune_rl.reporting"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("leaderboard.html")
    (folder / "leaderboard.html").write_text(
        template.render(table=table, left_out=left_out, found=found), encoding="utf-8"
    )
    return found


def _table(found: Comparison) -> Table:
    columns = [
        Column("method"),
        Column("rank"),
        Column("share of the best gain, IQM", 3, has_interval=True),
        Column("speed-up", 2, has_interval=True),
    ]
    columns += [Column("accuracy evaluations", 1), Column("fresh trials"), Column("cases")]
    rows = tuple(
        (
            s.method,
            s.rank,
            s.iqm,
            s.speedup,
            s.cost["accuracy_evaluations"],
            s.cost["fresh_trials"],
            s.n_cases,
        )
        for s in found.standings
    )
    return Table(
        "leaderboard",
        f"Methods on {len(found.scores.cases)} cases of {found.n_problems} problems; 95 % over problems and seeds",
        tuple(columns),
        rows,
        found.agent,
    )


def _print(table: Table, left_out: str, found: Comparison, console: Console) -> None:
    view = View(title=table.caption, caption=left_out)
    for at, column in enumerate(table.columns):
        view.add_column(column.title, justify="right" if at else "left")
    for row in table.cells():
        view.add_row(
            *(escape(text) for text, _ in row), style="bold" if row[0][0] == table.own else None
        )
    console.print(view)
    for caveat in found.caveats:
        console.print(caveat, markup=False, highlight=False)
