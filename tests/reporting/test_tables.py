"""The one type of table: the same values on a page, in a terminal and in a CSV file."""

import io
import math
from operator import itemgetter

from rich.console import Console

from cprune_rl.core.intervals import Interval
from cprune_rl.reporting.tables import NOTHING, Cell, Column, Table

SPEEDUP = Column(title="speed-up", value=itemgetter(1), digits=2, has_interval=True)
CHANGE = Column(title="change, %", value=itemgetter(2), digits=1, scale=100, is_signed=True)
TABLE = Table(
    name="speedups",
    caption="Speed-ups",
    columns=[Column(title="method", value=itemgetter(0)), SPEEDUP, CHANGE],
    items=[
        ("agent", Interval(2.0, 1.9, 2.126), 0.012),
        ("[b]", Interval(1.0, math.nan, math.nan), -0.0001),
        ("none", "no gain", None),
    ],
    own="agent",
)


def test_a_page_gets_value_interval_and_sorting_key() -> None:
    assert list(TABLE.rows()) == [
        [
            Cell("agent", "", "agent"),
            Cell("2.00", "[1.90, 2.13]", "2.0"),
            Cell("+1.2", "", "0.012"),
        ],
        [Cell("[b]", "", "[b]"), Cell("1.00", "", "1.0"), Cell("0.0", "", "-0.0001")],
        [Cell("none", "", "none"), Cell("no gain", "", "no gain"), Cell(NOTHING, "", "")],
    ]


def test_a_csv_file_has_three_columns_for_an_interval() -> None:
    assert TABLE.csv().splitlines() == [
        'method,speed-up,"speed-up, low","speed-up, high","change, %"',
        "agent,2.00,1.90,2.13,+1.2",
        "[b],1.00,,,0.0",
        "none,no gain,,,",
    ]


def test_a_terminal_shows_what_it_is_asked_for_and_reads_no_markup() -> None:
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(TABLE.for_terminal(without=["change, %"], note="a note"))
    text = console.export_text()
    for part in ("Speed-ups", "speed-up [95 %]", "2.00 [1.90, 2.13]", "[b]", "a note"):
        assert part in text
    assert "change" not in text
