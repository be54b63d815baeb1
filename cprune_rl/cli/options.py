"""Command-line flags out of models of options: a flag for each field, its help the description."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from cprune_rl.cli.completion import COMPLETIONS

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from cprune_rl.pipeline.config import RunConfig

__all__ = ["given", "read_options", "with_options"]

_HIDDEN_TYPES: Mapping[str, Any] = {
    "fast": bool,
    "rival": bool,
    "no_measure": bool,
    "max_trials": int,
    "max_evaluations": int,
    "max_minutes": float,
}
_NUMBERS = (int, float)
_REPEATED = ("freeze", "keep")


def with_options(
    command: Callable[..., None],
    model: type[BaseModel],
    *,
    only: Iterable[str] | None = None,
    old: Iterable[str] = (),
) -> Callable[..., None]:
    """Give a command one flag for each field, all None where they are not given.

    Args:
        command: takes the flags as keywords.
        model: of the options.
        only: names of the fields to take; all where not given.
        old: options of an older version that are still accepted and not shown.
    """
    kinds = get_type_hints(command, include_extras=True)
    parameters = [
        parameter.replace(annotation=kinds[parameter.name])
        for parameter in inspect.signature(command).parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]
    own = {parameter.name for parameter in parameters}
    for name, field in model.model_fields.items():
        if name not in own and (only is None or name in only):
            parameters.append(_parameter(name, _kind(name, field), _option(name, field)))
    for name in old:
        hidden = typer.Option(_flag(name), hidden=True, show_default=False)
        parameters.append(_parameter(name, _HIDDEN_TYPES.get(name, str), hidden))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the flags that were given."""
    return {name: value for name, value in flags.items() if value is not None and value != []}


def read_options(
    config: Path | None,
    flags: dict[str, Any],
    *,
    defaults: dict[str, Any] | None = None,
    beside: tuple[str, ...] = (),
) -> RunConfig:
    """Join flags with a YAML file, or with the options of a live problem.

    Raises:
        ConfigError: an option is unknown or wrong.
    """
    from cprune_rl.pipeline.config import load_config
    from cprune_rl.pipeline.live_problems import is_live, live_options

    name = str(config)
    if config is not None and not config.is_file() and is_live(name):
        return load_config(None, {**live_options(name), **flags}, defaults, beside)
    return load_config(config, flags, defaults, beside)


def _parameter(name: str, kind: Any, option: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _option(name: str, field: FieldInfo) -> Any:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    return typer.Option(
        _flag(name),
        help=f"{field.description} Default: {_shown_default(field, extra)}.",
        show_default=False,
        rich_help_panel=str(extra.get("panel", "")) or None,
        autocompletion=COMPLETIONS.get(str(extra.get("complete", ""))),
    )


def _shown_default(field: FieldInfo, extra: Mapping[str, Any]) -> str:
    if extra.get("shown"):
        return str(extra["shown"])
    default = field.default
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _kind(name: str, field: FieldInfo) -> Any:
    """Type that the command line reads: lists parted by commas are text."""
    if name in _REPEATED:
        return list[str]
    kinds = getattr(field.annotation, "__args__", (field.annotation,))
    plain = [kind for kind in kinds if kind is not type(None)]
    if plain[0] is Path:
        return Path
    is_number = len(plain) == 1 and plain[0] in _NUMBERS
    return plain[0] if is_number and not isinstance(field.default, tuple) else str


def _flag(name: str) -> str:
    flag = f"--{name.replace('_', '-')}"
    return f"{flag}/--no-{flag[2:]}" if name == "rival" else flag
