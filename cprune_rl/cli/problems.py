"""`cprune-rl problems`: training problems by name, and what a user adds to them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cprune_rl.cli.tables import new_table

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(
        help="Problems: a network, a device, an accuracy oracle and a floor. Agents are trained "
        "on recorded ones, and prune live ones.",
        no_args_is_help=True,
    )
    group.command("list")(list_problems)
    group.command("show")(show)
    group.command("add")(add)
    group.command("remove")(remove)
    app.add_typer(group, name="problems")


def list_problems() -> None:
    """List the problems by name: the packaged ones, and your own."""
    from rich.console import Console

    from cprune_rl.pipeline.live_problems import live_names, live_options

    console = Console(markup=False)
    console.print(_recorded_table())
    names = live_names()
    if not names:
        return
    table = new_table(
        [("problem", "left"), ("options", "left")],
        title="Live problems",
        caption="Prune one: cprune-rl prune --config NAME",
    )
    for name in names:
        options = ", ".join(f"{key} {value}" for key, value in live_options(name).items())
        table.add_row(name, options)
    console.print(table)


def _recorded_table() -> Table:
    from cprune_rl.envs.problems.registry import (
        describe_recorded,
        problems_folder,
        read_recording,
        recorded_names,
    )

    table = new_table(
        [
            ("problem", "left"),
            ("images", "left"),
            ("groups", "right"),
            ("tasks", "right"),
            ("dense, ms", "right"),
            ("dense accuracy", "right"),
            ("schemes", "left"),
            ("", "left"),
        ],
        title="Problems",
        caption="A name may end in a floor: resnet8@znver4-1t:-0.02. "
        f"Your own are kept in {problems_folder()}",
    )
    packaged = set(recorded_names())
    for name in recorded_names(with_added=True):
        description = describe_recorded(name)
        recording = read_recording(name)
        table.add_row(
            name,
            description.data,
            str(len(recording.network.groups)),
            str(description.n_tasks),
            f"{description.dense_latency_s * 1e3:.3f}",
            f"{recording.dense_accuracy:.2%}",
            "yes" if recording.has_schemes else "",
            "" if name in packaged else "yours",
        )
    return table


def show(
    name: Annotated[
        str,
        typer.Argument(help="A problem, or the path of a recording; may end in a floor, :-0.02."),
    ],
) -> None:
    """Show what a problem is made of: its latencies, its accuracies and its groups."""
    from rich.console import Console

    from cprune_rl.envs.problems.registry import describe_recorded, open_recorded
    from cprune_rl.pipeline.live_problems import is_live, live_options

    if is_live(name):
        print(f"{name}: live, measured as it is pruned")
        for key, value in live_options(name).items():
            print(f"  {key}: {value}")
        return
    description = describe_recorded(name)
    problem = open_recorded(name)
    console = Console(highlight=False, markup=False)
    console.print(
        f"{name}: {description.network} on {description.data}, floor {problem.floor:.4f} "
        f"(dense {problem.dense_accuracy:.4f})"
    )
    console.print(f"  latencies: {description.source}")
    console.print(
        f"  dense estimate: {description.dense_latency_s * 1e3:.3f} ms; accuracy: a loss model "
        "fitted to the oracle's answers"
    )
    console.print(f"  made by: {description.command}")
    table = new_table(
        [
            ("group", "left"),
            ("channels", "left"),
            ("at least", "left"),
            ("loss of accuracy at half of it", "left"),
            ("layers", "left"),
        ]
    )
    losses = problem.loss_model
    for at, group in enumerate(problem.network.groups):
        loss_at_half = float(losses.scale[at] * 0.5 ** losses.power[at])
        table.add_row(
            group.name,
            str(group.channels),
            str(group.minimum),
            f"{loss_at_half:.2%}",
            ", ".join(group.layers),
        )
    console.print(table)


def add(
    file: Annotated[
        Path,
        typer.Argument(
            help="A recording (`cprune-rl record`), the folder of a run, or a YAML file of a "
            "run's options: a live problem."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            help="MODEL@CLASS, e.g. resnet8@pixel8. Default: the file's own.", show_default=False
        ),
    ] = None,
) -> None:
    """Give a recording or a run's options a name, to open and prune them by."""
    from cprune_rl.envs.problems.registry import add_problem
    from cprune_rl.pipeline.live_problems import add_live_problem

    if file.suffix in (".yaml", ".yml"):
        added = add_live_problem(file, name or file.stem)
        print(f"{added} is added. Prune it: cprune-rl prune --config {added}")
        return
    added = add_problem(file, name)
    print(f"{added} is added. Try it: cprune-rl problems show {added}")


def remove(name: Annotated[str, typer.Argument(help="A problem that you added.")]) -> None:
    """Take a problem that you added away."""
    from cprune_rl.envs.problems.registry import remove_problem
    from cprune_rl.pipeline.live_problems import is_live, remove_live_problem

    if is_live(name):
        remove_live_problem(name)
    else:
        remove_problem(name)
    print(f"{name} is removed.")
