"""JSON text: one form for one value, and lists read back from a cell of a database."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["dump_json", "parse_list"]


def dump_json(value: Any) -> str:
    """Writes JSON with sorted keys, so that a file's hash is stable."""
    return json.dumps(value, sort_keys=True, indent=1)


def parse_list(text: object, kind: type) -> list[Any]:
    """Read a JSON list whose values are all of one kind.

    Args:
        text: should be a string; a damaged database may hold anything.
        kind: of the values; whole numbers pass as `float`.

    Raises:
        ValueError: it is no such list.
    """
    try:
        values = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        values = None
    kinds = (float, int) if kind is float else kind
    if not isinstance(values, list) or not all(isinstance(value, kinds) for value in values):
        raise ValueError(f"{str(text)[:40]!r} is no JSON list of {kind.__name__}")
    return values
