"""One type of table for pages, terminals and CSV files, so that they cannot differ."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from rich.markup import escape
from rich.table import Table as TerminalTable

from cprune_rl.core.intervals import Interval

__all__ = ["NOTHING", "Cell", "Column", "Table"]

Value = str | float | Interval | None
NOTHING = "\N{EN DASH}"


class Cell(NamedTuple):
    """What a page shows of a value.

    Attributes:
        text: the value.
        interval: its interval in brackets; empty where it has none.
        key: what a browser sorts by.
    """

    text: str
    interval: str
    key: str


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column takes a value from each item of a table and knows how to write it.

    Attributes:
        title: heading.
        value: takes the value from an item.
        digits: after the point.
        scale: 100 for percentages.
        has_interval: whether values are intervals, which take three columns of a CSV file.
        is_signed: whether gains have a plus sign.
        is_prose: whether a page may wrap its text; other cells stay on one line.
    """

    title: str
    value: Callable[[Any], Value]
    digits: int = 0
    scale: float = 1.0
    has_interval: bool = False
    is_signed: bool = False
    is_prose: bool = False

    def cell(self, item: Any) -> Cell:
        """Write an item's value for a page or a terminal."""
        value = self.value(item)
        if isinstance(value, str):
            return Cell(value, "", value)
        middle, low, high = _parts(value)
        text = self._number(middle)
        if middle is None or text == NOTHING:
            return Cell(NOTHING, "", "")
        ends = [self._number(low), self._number(high)]
        interval = "" if NOTHING in ends else f"[{', '.join(ends)}]"
        return Cell(text, interval, repr(float(middle)))

    def fields(self, item: Any) -> list[str]:
        """Write an item's value for a CSV file, with the digits that a page shows."""
        value = self.value(item)
        if isinstance(value, str):
            return [value, "", ""] if self.has_interval else [value]
        parts = _parts(value) if self.has_interval else _parts(value)[:1]
        return [self._number(part).replace(NOTHING, "") for part in parts]

    def headings(self) -> list[str]:
        """Name the columns of a CSV file."""
        if not self.has_interval:
            return [self.title]
        return [self.title, f"{self.title}, low", f"{self.title}, high"]

    def _number(self, value: float | None) -> str:
        if value is None or math.isnan(value):
            return NOTHING
        text = f"{value * self.scale:.{self.digits}f}"
        if float(text) == 0:
            return text.removeprefix("-")
        return f"+{text}" if self.is_signed and value > 0 else text


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table has a row for each item; its first column names the row.

    Attributes:
        name: of its CSV file, less the ending.
        caption: above it.
        columns: take their values from an item.
        items: anything that the columns can read.
        own: name of the row that is emphasised.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    items: Sequence[Any]
    own: str = ""

    def rows(self) -> Iterator[list[Cell]]:
        """Write the cells of each row."""
        for item in self.items:
            yield [column.cell(item) for column in self.columns]

    def csv(self) -> str:
        """Write the text of the CSV file."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(chain.from_iterable(column.headings() for column in self.columns))
        for item in self.items:
            writer.writerow(chain.from_iterable(column.fields(item) for column in self.columns))
        return buffer.getvalue()

    def for_terminal(self, without: Collection[str] = (), note: str = "") -> TerminalTable:
        """Make the table that a terminal prints.

        Args:
            without: titles of columns that are left out.
            note: below the table.
        """
        columns = [column for column in self.columns if column.title not in without]
        view = TerminalTable(title=escape(self.caption), caption=escape(note))
        for at, column in enumerate(columns):
            title = f"{column.title} [95 %]" if column.has_interval else column.title
            view.add_column(escape(title), justify="left" if at == 0 else "right")
        for item in self.items:
            cells = [column.cell(item) for column in columns]
            texts = [escape(f"{cell.text} {cell.interval}".strip()) for cell in cells]
            view.add_row(*texts, style="bold" if cells[0].text == self.own else None)
        return view


def _parts(value: float | Interval | None) -> tuple[float | None, float | None, float | None]:
    if isinstance(value, Interval):
        return value.value, value.low, value.high
    return value, None, None
