"""`cprune-rl check`: will a network go the whole way?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cprune_rl.cli.options import given, read_options, with_options
from cprune_rl.cli.tables import new_table
from cprune_rl.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from cprune_rl.pipeline.preflight.report import NetworkReport

__all__ = ["register"]

_OPTIONS = (
    "model",
    "weights",
    "data",
    "labels",
    "task",
    "freeze",
    "keep",
    "seed",
    "storage",
    "cache",
)
_OF_IMAGES = ("data", "labels", "task")
_NO_DEVICE = "none"
_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    from cprune_rl.pipeline.config import RunConfig

    app.command("check")(with_options(check, RunConfig, only=_OPTIONS))


def check(
    input_shape: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="Channels, height and width of an image, e.g. 3,32,32: no images are read. "
            "Default: those of --data.",
            show_default=False,
            rich_help_panel="What to prune",
        ),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Classes, with --input. Default: 10.",
            show_default=False,
            rich_help_panel="What to prune",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="Where every task is run once: local, rpc://host:port/key, or none to compile "
            "alone. Default: local.",
            show_default=False,
            rich_help_panel="Device and measuring",
        ),
    ] = "local",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the findings as JSON.", show_default=False)
    ] = False,
    **flags: Any,
) -> None:
    """Check whether a network can be pruned and compiled, before anything is trained."""
    from cprune_rl.core.folders import use_cache_folder
    from cprune_rl.pipeline.preflight.run import CheckSettings, check_network
    from cprune_rl.pipeline.progress import ProgressLog
    from cprune_rl.pipeline.run_settings import load_settings
    from cprune_rl.pipeline.setup import check_names

    flags = given(flags)
    config = read_options(None, flags if device == _NO_DEVICE else {**flags, "device": device})
    of_images = [f"--{name}" for name in _OF_IMAGES if name in flags]
    if input_shape is not None and of_images:
        raise ConfigError(f"--input is for a check without images: leave it or {of_images[0]} out")
    check_names(config)
    if device.startswith("recorded:"):
        raise ConfigError("a recording runs nothing: give --device local, or none")
    if input_shape is None and classes is not None:
        raise ConfigError("--classes goes with --input; --data knows its own classes")
    if config.cache is not None:
        use_cache_folder(config.cache)
    settings = CheckSettings(
        network=config.network_name,
        weights=config.weights,
        data=None if input_shape is not None else config.data,
        input_shape=_read_shape(input_shape) if input_shape is not None else None,
        n_classes=classes or 10 if input_shape is not None else None,
        labels=config.labels,
        task=config.task,
        groups=load_settings(config).groups,
        device=None if device == _NO_DEVICE else device,
        storage=config.storage,
        seed=config.seed,
    )
    report = check_network(settings, ProgressLog())
    if as_json:
        print(json.dumps(report.as_json(), indent=1))
    else:
        _print(report)
    if not report.passes:
        raise typer.Exit(1)


def _read_shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise ConfigError(f"--input {text}: give channels, height and width, e.g. 3,32,32")
    return shape


def _print(report: NetworkReport) -> None:
    from rich.console import Console

    console = Console()
    shape = "x".join(map(str, report.input_shape))
    console.print(
        f"{report.network}, images {shape}, {report.n_classes} classes: {report.n_rows} subgraphs, "
        f"{report.n_tasks} tasks in {len(report.forms)} forms, {len(report.prunable_layers)} of "
        f"{len(report.layers)} layers prunable",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_table(report))
    for layer, reason in report.left_whole.items():
        line = f"  left whole: {layer}: {reason}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if report.minutes:
        minutes = ", ".join(f"{effort} {value:.0f}" for effort, value in report.minutes.items())
        console.print(f"A rough guess at the minutes of `cprune-rl prune`, by --effort: {minutes}")
    failure = report.first_failure
    verdict = "goes the whole way" if failure is None else f"does not: {failure.what}"
    console.print(f"{report.network} {verdict}", highlight=False, soft_wrap=True)


def _table(report: NetworkReport) -> Table:
    table = new_table([("checked", "left"), ("", "left"), ("found", "left")])
    for finding in report.findings:
        style = _STYLES[finding.status]
        table.add_row(finding.what, f"[{style}]{finding.status}[/]", finding.found)
    return table
