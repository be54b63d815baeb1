"""`cprune-rl record`: a problem measured once, to be searched anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cprune_rl.cli.options import given, read_options, with_options

__all__ = ["register"]

_OPTIONS = (
    "model",
    "weights",
    "data",
    "change",
    "importance",
    "freeze",
    "keep",
    "effort",
    "seed",
    "oracle",
    "train_device",
    "device",
    "storage",
    "cache",
)
_OLD = ("fast", "schemes", "curves_of")


def register(app: typer.Typer) -> None:
    """Add the command."""
    from cprune_rl.pipeline.config import RunConfig

    app.command("record")(with_options(record, RunConfig, only=_OPTIONS, old=_OLD))


def record(
    to: Annotated[Path, typer.Argument(help="File to write, e.g. resnet8@pixel.json.gz.")],
    minutes: Annotated[
        float,
        typer.Option(
            min=0.1,
            help="Time for visiting plans, after tuning and calibration.",
            rich_help_panel="Search",
        ),
    ] = 10.0,
    losses_of: Annotated[
        str | None,
        typer.Option(
            help="Recording of this network on another device: its loss model is taken, and "
            "nothing is trained. Default: none.",
            show_default=False,
            rich_help_panel="Training and judging",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML file with any of these options; flags override it. Default: none.",
            show_default=False,
            rich_help_panel="Files",
        ),
    ] = None,
    **flags: Any,
) -> None:
    """Record a problem: measure what searches of a network can reach on a device."""
    from cprune_rl.pipeline.progress import ProgressLog
    from cprune_rl.pipeline.record_problem import record as run
    from cprune_rl.pipeline.setup import check_names

    flags = given(flags)
    old = flags.pop("curves_of", None)
    if old is not None:
        _warn_of_curves()
    options = read_options(config, flags)
    check_names(options)
    run(options, minutes, to, ProgressLog(), losses_of or old)


def _warn_of_curves() -> None:
    import warnings

    from cprune_rl.pipeline.old_options import OldOptionWarning

    warnings.warn("--curves-of is an old spelling: use --losses-of", OldOptionWarning, stacklevel=3)
