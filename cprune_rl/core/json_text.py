"""JSON text: one form for one value."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["dump_json"]


def dump_json(value: Any) -> str:
    """Writes JSON with sorted keys, so that a file's hash is stable."""
    return json.dumps(value, sort_keys=True, indent=1)
