"""`cprune-rl prune`: each option's help is its description in `RunConfig`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cprune_rl.cli.options import given, read_options, with_options
from cprune_rl.core.sigterm import exit_status
from cprune_rl.errors import ConfigError

if TYPE_CHECKING:
    from cprune_rl.pipeline.run_folder import RunFolder

__all__ = ["Config", "Resume", "register", "run"]

Config = Annotated[
    Path | None,
    typer.Option(
        help="YAML file with any of these options, or a live problem's name; flags override it. "
        "Default: none.",
        show_default=False,
        rich_help_panel="Files",
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        help="Run folder of a run that ended early: go on with it, with its options. "
        "Default: none.",
        show_default=False,
        rich_help_panel="Files",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    from cprune_rl.pipeline.config import RunConfig
    from cprune_rl.pipeline.old_options import OLD_OPTIONS

    app.command("prune")(with_options(prune, RunConfig, old=OLD_OPTIONS))


def prune(config: Config = None, resume: Resume = None, **flags: Any) -> None:
    """Prune a network with a policy that was trained before: the packaged one, or --policy."""
    from cprune_rl.agents.policies import DEFAULT

    run(config, resume, given(flags), defaults={"policy": DEFAULT})


def run(
    config: Path | None,
    resume: Path | None,
    flags: dict[str, Any],
    *,
    defaults: dict[str, Any] | None = None,
    beside: tuple[str, ...] = (),
) -> None:
    """Start a run, or go on with one.

    Args:
        config: file of options, or a live problem's name.
        resume: folder of a run that goes on with its own options.
        flags: options that were given; they override the file's.
        defaults: of options that neither gives.
        beside: methods that the run has beside its own where no option says which.
    """
    from cprune_rl.pipeline.run_folder import RunFolder
    from cprune_rl.pipeline.setup import check_names

    if resume is not None:
        if stray := [*flags, *(["config"] if config is not None else [])]:
            raise ConfigError(
                f"--resume goes on with the options of {resume}: leave "
                f"--{stray[0].replace('_', '-')} out, or start a new run with it"
            )
        _go(RunFolder.resume(resume))
        return
    options = read_options(config, flags, defaults=defaults, beside=beside)
    check_names(options)
    _go(RunFolder.create(options))


def _go(folder: RunFolder) -> None:
    from cprune_rl.api import go_on
    from cprune_rl.pipeline.progress import ProgressLog

    progress = ProgressLog()
    try:
        go_on(folder, progress, by="--resume ")
    except KeyboardInterrupt as stop:
        progress.print(
            f"Stopped. What was measured and trained is kept; go on with --resume {folder.path}"
        )
        raise typer.Exit(exit_status(stop)) from None
