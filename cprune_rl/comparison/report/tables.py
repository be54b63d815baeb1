"""Tables of a comparison, each once as cells, so that the page and its CSV file cannot differ."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cprune_rl.comparison.compiler_evidence import Proxies
from cprune_rl.comparison.statistics import Cell, Comparison
from cprune_rl.core.intervals import Interval

__all__ = [
    "NOTHING",
    "Column",
    "Table",
    "costs_table",
    "fronts_table",
    "overall_table",
    "pairs_table",
    "problem_tables",
    "proxies_table",
    "shares_table",
]

Value = str | float | Interval | None
NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class Column:
    """A heading and how its numbers are written.

    Attributes:
        title: heading.
        digits: after the point.
        scale: 100 for percentages.
        has_interval: whether its values are intervals, which take three columns of a CSV file.
    """

    title: str
    digits: int = 0
    scale: float = 1.0
    has_interval: bool = False

    def text(self, value: Value) -> str:
        """A value as the page shows it."""
        if isinstance(value, Interval):
            low, high = self._number(value.low), self._number(value.high)
            return (
                self._number(value.value)
                if NOTHING in (low, high)
                else f"{self._number(value.value)} [{low}, {high}]"
            )
        return value if isinstance(value, str) else self._number(value)

    def fields(self, value: Value) -> list[str]:
        """A value as fields of a CSV file, with the digits that the page shows."""
        if not self.has_interval:
            return [self.text(value).replace(NOTHING, "")]
        parts = (
            (value.value, value.low, value.high)
            if isinstance(value, Interval)
            else (None, None, None)
        )
        return [self._number(part).replace(NOTHING, "") for part in parts]

    def key(self, value: Value) -> str:
        """What a browser sorts by."""
        bare = value.value if isinstance(value, Interval) else value
        return (
            bare
            if isinstance(bare, str)
            else ""
            if bare is None or math.isnan(bare)
            else repr(float(bare))
        )

    def _number(self, value: float | None) -> str:
        if value is None or math.isnan(value):
            return NOTHING
        text = f"{value * self.scale:.{self.digits}f}"
        return text.removeprefix("-") if float(text) == 0 else text


@dataclass(frozen=True)
class Table:
    """A table; the first column has the row's name.

    Attributes:
        name: of its CSV file, less the ending.
        caption: above it.
        columns: headings.
        rows: values, one for each column.
        own: name of the row that is emphasised.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    own: str = ""

    def cells(self) -> list[list[tuple[str, str]]]:
        """Text and sorting key of each cell."""
        return [
            [(c.text(v), c.key(v)) for c, v in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]

    def csv(self) -> str:
        """The file's text."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(
            [
                t
                for c in self.columns
                for t in (
                    [c.title, f"{c.title}, low", f"{c.title}, high"]
                    if c.has_interval
                    else [c.title]
                )
            ]
        )
        writer.writerows(
            [f for c, v in zip(self.columns, row, strict=True) for f in c.fields(v)]
            for row in self.rows
        )
        return buffer.getvalue()


def overall_table(found: Comparison) -> Table:
    """Every method over all cases."""
    columns = [
        Column("method"),
        Column("rank"),
        Column("share of the best gain, IQM", 3, has_interval=True),
        Column("the same, over seeds alone", 3, has_interval=True),
    ]
    columns += [
        Column("speed-up, geometric mean", 2, has_interval=True),
        Column("mean share", 3, has_interval=True),
    ]
    rows: list[list[Value]] = [
        [s.method, s.rank, s.iqm, s.iqm_seeds, s.speedup, s.share] for s in found.standings
    ]
    if any(s.beats_agent for s in found.standings):
        a = found.agent
        columns += [
            Column(f"beats {a}, % of cases", 0, 100, True),
            Column(f"{a}'s share over it", 3, has_interval=True),
            Column(f"faster than {a}, %", 0, 100),
        ]
        columns += [Column(f"slower than {a}, %", 0, 100)]
        rows = [
            [*row, s.beats_agent, s.agent_over, s.faster, s.slower]
            for row, s in zip(rows, found.standings, strict=True)
        ]
    if any(s.gap for s in found.standings):
        columns.append(Column("optimality gap", 3, has_interval=True))
        rows = [[*row, s.gap] for row, s in zip(rows, found.standings, strict=True)]
    columns += [Column("cases"), Column("failed"), Column("floor missed")]
    rows = [
        [*row, s.n_cases, s.n_errors, s.n_broken]
        for row, s in zip(rows, found.standings, strict=True)
    ]
    return _table(
        "overall",
        "All methods over all cases, best first; 95 % intervals over problems and seeds unless said",
        columns,
        rows,
        found.agent,
    )


def costs_table(found: Comparison) -> Table:
    """What each method spent, means over cases."""
    columns = [
        Column("method"),
        *_COST_COLUMNS,
        Column("training the policy, s", 1),
        Column("in all, s"),
    ]
    rows: list[list[Value]] = [
        [s.method, *_costs(s.cost), s.cost["policy_s"], s.cost["wall_s"]] for s in found.standings
    ]
    return _table("costs", "What a run cost, mean over cases", columns, rows, found.agent)


def fronts_table(found: Comparison) -> Table:
    """Speed-up and accuracy at each floor, and the hypervolume."""
    floors = next(iter(found.fronts.values())).floors
    columns = [Column("method"), Column("hypervolume", 2, has_interval=True)]
    columns += [
        c
        for f in floors
        for c in (
            Column(f"speed-up at {_floor(f)}", 2, has_interval=True),
            Column(f"accuracy at {_floor(f)}", 2, has_interval=True),
        )
    ]
    rows: list[list[Value]] = []
    for front in (found.fronts[s.method] for s in found.standings):
        rows.append(
            [
                front.hypervolume,
                *(v for pair in zip(front.speedup, front.points, strict=True) for v in pair),
            ]
        )
    rows = sorted(
        ([s.method, *row] for s, row in zip(found.standings, rows, strict=True)),
        key=lambda row: -row[1].value if isinstance(row[1], Interval) else 0.0,
    )
    return _table(
        "fronts",
        "Speed-up, and change of accuracy in points, at each floor; largest hypervolume first",
        columns,
        rows,
        found.agent,
    )


def pairs_table(found: Comparison) -> Table:
    """Probability that the row's method beats the column's."""
    names = [s.method for s in found.standings]
    rows: list[list[Value]] = [
        [n, *(None if i == j else Interval(*map(float, v)) for j, v in enumerate(of))]
        for i, (n, of) in enumerate(zip(names, found.improvement, strict=True))
    ]
    return _table(
        "pairs",
        "Chance, in %, that the row's method ends faster than the column's on a case",
        [Column("method"), *(Column(n, 0, 100, True) for n in names)],
        rows,
        found.agent,
    )


def proxies_table(found: Sequence[Proxies]) -> Table:
    """How well what is free ranks plans."""
    columns = [
        Column("problem"),
        Column("operations with latency", 2, has_interval=True),
        Column("predicted latency with latency", 2, has_interval=True),
    ]
    columns += [Column("loss shown with true loss", 2, has_interval=True)]
    rows: list[list[Value]] = [[p.problem, p.macs, p.latency, p.loss] for p in found]
    return _table(
        "proxies",
        "Rank correlation of what is free with the truth, on random plans that are predicted to use a half to all of the slack",
        columns,
        rows,
        "",
    )


def shares_table(found: Comparison) -> Table:
    """Mean share of each method on each problem, floors and seeds together."""
    problems = sorted({c.problem for c in found.cells})
    rows: list[list[Value]] = []
    for standing in found.standings:
        of = {
            p: [c for c in found.cells if c.problem == p and c.method == standing.method]
            for p in problems
        }
        rows.append(
            [
                standing.method,
                *(
                    sum(c.share.value * c.n for c in own) / sum(c.n for c in own) if own else None
                    for own in of.values()
                ),
            ]
        )
    return _table(
        "shares",
        "Mean share of the best gain, by problem",
        [Column("method"), *(Column(p, 2) for p in problems)],
        rows,
        found.agent,
    )


def problem_tables(found: Comparison) -> list[Table]:
    """One table for each problem: every method at every floor, intervals over seeds."""
    columns = [
        Column("method"),
        Column("floor, points", 1, 100),
        Column("losses"),
        Column("speed-up", 2, has_interval=True),
        Column("share of the best gain", 3, has_interval=True),
    ]
    columns += [
        Column("best is"),
        Column("accuracy, points", 2),
        *_COST_COLUMNS,
        Column("seeds"),
        Column("failed"),
    ]
    tables = []
    for problem in sorted({c.problem for c in found.cells}):
        rows = [_cell(c) for c in found.cells if c.problem == problem]
        tables.append(
            _table(
                f"problem-{re.sub(r'[^A-Za-z0-9_.@-]+', '-', problem)}",
                problem,
                columns,
                rows,
                found.agent,
            )
        )
    return tables


def _cell(c: Cell) -> list[Value]:
    return [
        c.method,
        c.floor,
        c.losses,
        c.speedup,
        c.share,
        "proven" if c.is_proven else "found",
        c.points,
        *_costs(c.cost),
        c.n,
        c.n_failed,
    ]


_COST_COLUMNS = (
    Column("fresh trials"),
    Column("tasks looked at"),
    Column("accuracy evaluations", 1),
    Column("full fine-tunes", 1),
    Column("measuring, s"),
    Column("fine-tuning, s"),
    Column("thinking, s", 1),
)


def _costs(cost: dict[str, float]) -> list[Value]:
    return [
        cost[name]
        for name in (
            "fresh_trials",
            "tasks",
            "accuracy_evaluations",
            "full_finetunes",
            "measure_s",
            "train_s",
            "think_s",
        )
    ]


def _floor(floor: float) -> str:
    return f"floor {100 * floor:+g}"


def _table(
    name: str, caption: str, columns: Sequence[Column], rows: Sequence[Sequence[Value]], own: str
) -> Table:
    return Table(name, caption, tuple(columns), tuple(map(tuple, rows)), own)
