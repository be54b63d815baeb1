"""Command-line flags out of models of options:

a flag for each field, its help the field's description.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["given", "with_options"]

_PATHS = ("out", "weights")


def with_options(
    command: Callable[..., None], models: Mapping[str, type[BaseModel]]
) -> Callable[..., None]:
    """Gives a command one flag for each field, all None where they are not given.

    Args:
        command: takes the flags as keywords.
        models: by the title that their flags have in the help; of a field that two have the first
            one's is taken.
    """
    parameters = [
        p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD
    ]
    for title, model in models.items():
        for name, field in model.model_fields.items():
            if any(p.name == name for p in parameters):
                continue
            kind: Any = (
                list[str]
                if field.default == ()
                else field.annotation
                if field.default is not None
                else Path
                if name in _PATHS
                else _plain(field.annotation)
            )
            default = (
                ""
                if field.default in (None, ()) or field.default is False
                else f" [default: {field.default}]"
            )
            flag = f"--{name.replace('_', '-')}"
            option = typer.Option(
                f"{flag}/--no-{flag[2:]}" if field.default is True else flag,
                help=f"{field.description}{default}",
                show_default=False,
                rich_help_panel=title,
            )
            parameters.append(
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=None,
                    annotation=Annotated[kind | None, option],
                )
            )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it off the function
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _plain(annotation: Any) -> Any:
    """`int` of `int | None`."""
    kinds = [
        kind for kind in getattr(annotation, "__args__", (annotation,)) if kind is not type(None)
    ]
    return kinds[0]


def given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that were given."""
    return {name: value for name, value in flags.items() if value is not None and value != []}
