"""An option with its help, for the command line, the YAML file and the docs alike."""

from __future__ import annotations

from typing import Any

from pydantic import Field

__all__ = ["PANELS", "option"]

PANELS = (
    "What to prune",
    "How much accuracy may go",
    "Search",
    "Training and judging",
    "Device and measuring",
    "Files",
)
"""Titles under which the help shows options."""


def option(panel: str, default: Any, text: str, *, shown: str = "", **more: Any) -> Any:
    """Describe an option.

    Args:
        panel: one of `PANELS`.
        default: where it is not given.
        text: its help.
        shown: the default in words, where the value does not say it.
        more: bounds, as pydantic has them; `complete` names what the shell completes it with.
    """
    extra = {"panel": panel, "shown": shown, "complete": more.pop("complete", "")}
    return Field(default, description=text, json_schema_extra=extra, **more)
