"""`cprune-rl record`: a problem measured once, to be searched anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(record)


def record(
    to: Annotated[Path, typer.Argument(help="File to write, e.g. resnet8@pixel.json.gz.")],
    model: Annotated[str, typer.Option(help="Network, by name.")] = "resnet8",
    data: Annotated[str, typer.Option(help="Data set it is trained and judged on.")] = "contours",
    device: Annotated[str, typer.Option(help="Where its tasks are timed.")] = "local",
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Time for visiting plans, after tuning and calibration.")
    ] = 10.0,
    effort: Annotated[
        str | None,
        typer.Option(
            help="full, light or quick: how many trials, how coarse a calibration. [default: full]",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of training and programs.")] = 0,
    storage: Annotated[
        str | None,
        typer.Option(help="Cost cache; the default one where not given.", show_default=False),
    ] = None,
    curves_of: Annotated[
        str | None,
        typer.Option(
            help="Recording of this network on another device: its loss curves are taken, nothing is trained.",
            show_default=False,
        ),
    ] = None,
    schemes: Annotated[
        str,
        typer.Option(
            help="channel: narrower groups; block: schemes of layers too, for the agents that choose among them."
        ),
    ] = "channel",
    fast: Annotated[bool, typer.Option(help="Small budgets: to try it, not to keep it.")] = False,
) -> None:
    """Record a problem: measure what searches of a network can reach on a device, for environments
    that need neither.
    """
    from cprune_rl.pipeline.config import load_config
    from cprune_rl.pipeline.progress import ProgressLog
    from cprune_rl.pipeline.record import record as run

    options = load_config(
        None,
        {
            "model": model,
            "data": data,
            "device": device,
            "seed": seed,
            "storage": storage,
            "schemes": schemes,
            "fast": fast,
            "effort": effort,
        },
    )
    from cprune_rl.pipeline.setup import check_names

    check_names(options)
    run(options, minutes, to, ProgressLog(), curves_of)
