"""`cprune-rl problems`: training problems by name, and what a user adds to them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the group of commands."""
    group = typer.Typer(
        help="Problems: a network, a device, an accuracy oracle and a floor. Agents are trained on recorded ones, and prune live ones.",
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
    from rich.table import Table

    from cprune_rl.envs.problems.registry import (
        describe_recorded,
        problems_folder,
        read_recording,
        recorded_names,
    )
    from cprune_rl.pipeline.live_problems import live_names, live_options

    packaged = set(recorded_names())
    view = Table(
        title="Problems",
        caption=f"A name may end in a floor: resnet8@znver4-1t:-0.02. Your own are kept in {problems_folder()}",
    )
    for column, justify in (
        ("problem", "left"),
        ("images", "left"),
        ("groups", "right"),
        ("tasks", "right"),
        ("dense, ms", "right"),
        ("dense accuracy", "right"),
        ("schemes", "left"),
    ):
        view.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]  # rich's literal type
    view.add_column("")
    for name in recorded_names(with_added=True):
        said, recording = describe_recorded(name), read_recording(name)
        own = "" if name in packaged else "yours"
        view.add_row(
            name,
            said.data,
            str(len(recording.network.groups)),
            str(said.n_tasks),
            f"{said.dense_latency_s * 1e3:.3f}",
            f"{recording.dense_accuracy:.2%}",
            "yes" if recording.has_schemes else "",
            own,
        )
    console = Console()
    console.print(view)
    if live := live_names():
        told = Table(title="Live problems", caption="Prune one: cprune-rl prune --config NAME")
        for column in ("problem", "options"):
            told.add_column(column, overflow="fold")
        for name in live:
            told.add_row(
                name, ", ".join(f"{key} {value}" for key, value in live_options(name).items())
            )
        console.print(told)


def show(
    name: Annotated[
        str,
        typer.Argument(help="A problem, or the path of a recording; may end in a floor, :-0.02."),
    ],
) -> None:
    """Show what a problem is made of:

    where its latencies and accuracies come from, and its groups.
    """
    from rich.console import Console
    from rich.table import Table

    from cprune_rl.envs.problems.registry import describe_recorded, open_recorded
    from cprune_rl.pipeline.live_problems import is_live, live_options

    if is_live(name):
        print(f"{name}: live, measured as it is pruned")
        for key, value in live_options(name).items():
            print(f"  {key}: {value}")
        return
    said, problem = describe_recorded(name), open_recorded(name)
    console = Console(highlight=False)
    console.print(
        f"{name}: {said.network} on {said.data}, floor {problem.floor:.4f} (dense {problem.dense_accuracy:.4f})"
    )
    console.print(f"  latencies: {said.source}")
    console.print(
        f"  dense estimate: {said.dense_latency_s * 1e3:.3f} ms; accuracy: a loss model fitted to the oracle's answers"
    )
    console.print(f"  made by: {said.command}")
    view = Table("group", "channels", "at least", "loss of accuracy at half of it", "layers")
    loss_model = problem.loss_model
    for at, group in enumerate(problem.network.groups):
        half = float(loss_model.scale[at] * 0.5 ** loss_model.power[at])
        view.add_row(
            group.name,
            str(group.channels),
            str(group.minimum),
            f"{half:.2%}",
            ", ".join(group.layers),
        )
    console.print(view)


def add(
    file: Annotated[
        Path,
        typer.Argument(
            help="A recording (`cprune-rl record`), the folder of a run, or a YAML file of a run's options: a live problem."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            help="MODEL@CLASS, e.g. resnet8@pixel8; the file's own where not given.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Give a recording a name, so that agents can be trained and tried on it;

    or a run's options, so that they can be opened and pruned by name.
    """
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

    (remove_live_problem if is_live(name) else remove_problem)(name)
    print(f"{name} is removed.")
