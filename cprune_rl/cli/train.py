"""`cprune-rl train`: every option's help is its description in `RunConfig`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from cprune_rl.errors import ConfigError, CPruneError, DeviceError, StoreError, ToolchainError

__all__ = ["register"]

_INTERRUPTED = 130


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("train")(_with_run_options(train))


def _with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command one flag for each field of `RunConfig`."""
    from cprune_rl.job.config import RunConfig

    parameters = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
    for name, field in RunConfig.model_fields.items():
        kind = list[str] if field.default == () else field.annotation if field.default is not None else Path if name in ("out", "weights") else str
        default = "" if field.default in (None, ()) else f" [default: {field.default}]"
        flag = f"--{name.replace('_', '-')}"
        option = typer.Option(flag, help=f"{field.description}{default}", show_default=False)
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[Optional[kind], option]))  # noqa: UP045  # built at run time
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def train(
    config: Annotated[Optional[Path], typer.Option(help="YAML file with any of the options below; flags override it.", show_default=False)] = None,  # noqa: UP045
    resume: Annotated[Optional[Path], typer.Option(help="Run folder of a run that ended early: go on with it, with its options.", show_default=False)] = None,  # noqa: UP045
    **flags: Any,
) -> None:
    """Train a pruning agent for a network on a device, and prune the network with it."""
    from cprune_rl.job.config import load_config
    from cprune_rl.job.folder import RunFolder

    flags = {name: None if value == [] else value for name, value in flags.items()}
    if resume is not None:
        if given := [name for name, value in {"config": config, **flags}.items() if value is not None]:
            raise ConfigError(f"--resume goes on with the options of {resume}: leave --{given[0].replace('_', '-')} out, or start a new run with it")
        folder = RunFolder.resume(resume)
    else:
        options = load_config(config, flags)
        options.check_names()
        folder = RunFolder.create(options)
    from cprune_rl.job.progress import Reporter
    from cprune_rl.job.run import run

    reporter = Reporter()
    try:
        run(folder, reporter)
    except KeyboardInterrupt:
        reporter.say(f"Stopped. What was measured and trained is kept; go on with --resume {folder.path}")
        raise typer.Exit(_INTERRUPTED) from None
    except (DeviceError, StoreError, ToolchainError) as error:
        raise type(error)(f"{str(error).rstrip('.')}. What was measured and trained is kept; go on with --resume {folder.path}") from error
    except CPruneError:
        folder.discard_if_empty()
        raise
    except OSError as error:  # a full disk, a folder that went away
        raise OSError(f"{error}. Go on with --resume {folder.path}") from error
