"""Tables of the command line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from rich.table import Table

__all__ = ["new_table"]

Side = Literal["left", "right"]


def new_table(
    columns: Iterable[tuple[str, Side]], *, title: str | None = None, caption: str | None = None
) -> Table:
    """Make an empty table.

    Args:
        columns: heading and side of each.
        title: above it.
        caption: below it.
    """
    table = Table(title=title, caption=caption)
    for heading, side in columns:
        table.add_column(heading, justify=side, overflow="fold")
    return table
