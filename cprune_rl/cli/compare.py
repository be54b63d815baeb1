"""`cprune-rl compare` and `cprune-rl leaderboard`: every method at equal cost, and a ranking."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cprune_rl.cli.completion import COMPLETIONS

__all__ = ["register"]

Losses = Literal["drawn", "recorded"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(compare)
    app.command()(leaderboard)


def compare(  # noqa: PLR0913  # each argument is an option
    problems: Annotated[
        str,
        typer.Option(
            help="Recorded problems, parted by commas, each with a floor if it is to have "
            "another: resnet8@znver4-2t:-0.02. `all` packaged ones, or `all-schemes`.",
            autocompletion=COMPLETIONS["problems"],
        ),
    ] = "resnet8,vgg-small",
    methods: Annotated[
        str,
        typer.Option(
            help="Methods, parted by commas, or `all`; --list says which there are.",
            autocompletion=COMPLETIONS["methods"],
        ),
    ] = "agent,cprune,proxy-greedy,surrogate,random",
    fronts: Annotated[
        str,
        typer.Option(
            help="Further floors of one recording of each network, parted by commas, for "
            "accuracy-latency fronts: --fronts=-0.005,-0.03."
        ),
    ] = "",
    seeds: Annotated[
        int,
        typer.Option(min=1, help="Draws of the true losses, each with a search of every method."),
    ] = 5,
    first_seed: Annotated[
        int, typer.Option(min=0, help="The first of them: other seeds are other draws.")
    ] = 0,
    budget: Annotated[
        str,
        typer.Option(
            help="Of each search: trials=N, evaluations=N, finetunes=N, minutes=N, parted by "
            "commas; what is left out is no limit."
        ),
    ] = "trials=20000,evaluations=200",
    losses: Annotated[
        Losses,
        typer.Option(help="True losses: drawn around the predicted ones, or the recording's own."),
    ] = "drawn",
    gate_images: Annotated[
        int,
        typer.Option(
            min=0,
            help="Images that the final gate judges finished networks on, drawn for each. 0: the "
            "truth decides, as in version 0.2.",
        ),
    ] = 50_000,
    out: Annotated[
        Path,
        typer.Option(help="Folder of rows and page; a comparison that is there already goes on."),
    ] = Path("comparison"),
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Processes. Default: one for each core.", show_default=False),
    ] = None,
    backend: Annotated[
        str, typer.Option(help="Where runs go: processes of this machine, or ray, a cluster.")
    ] = "processes",
    timesteps: Annotated[
        int, typer.Option(min=1000, help="Training of a policy on other families' problems.")
    ] = 100_000,
    own_timesteps: Annotated[
        int, typer.Option(min=1000, help="Training of a policy in a model of one problem.")
    ] = 20_000,
    show: Annotated[bool, typer.Option("--list", help="List all methods and end.")] = False,
) -> None:
    """Compare search methods on recorded problems within equal budgets, and write a page."""
    from cprune_rl.agents.registry import METHODS, compared_methods
    from cprune_rl.pipeline.progress import ProgressLog

    progress = ProgressLog()
    if show:
        for name, method in METHODS.items():
            uses = {"compare": method.is_compared, "runs": method.is_in_runs}
            where = ", ".join(use for use, fits in uses.items() if fits)
            progress.print(f"  {name:22} {where:14} {method.description}")
        return
    from cprune_rl.agents.core.searcher import parse_budget
    from cprune_rl.comparison.cases import make_cases
    from cprune_rl.comparison.report.page import write_report
    from cprune_rl.comparison.runner import Experiment, run_experiment

    names = _problem_names(problems, fronts)
    experiment = Experiment(
        folder=out,
        cases=tuple(
            make_cases(names, range(first_seed, first_seed + seeds), losses, gate_images or None)
        ),
        methods=tuple(compared_methods(split_commas(methods))),
        budget=parse_budget(budget),
        n_jobs=jobs,
        backend=backend,
        timesteps=timesteps,
        own_timesteps=own_timesteps,
    )
    run_experiment(experiment, progress)
    write_report(out, progress)


def leaderboard(folder: Annotated[Path, typer.Argument(help="Folder of a comparison.")]) -> None:
    """Rank methods by the rows of a comparison that hold when their searches are run again."""
    from cprune_rl.comparison.report.leaderboard import rank
    from cprune_rl.pipeline.progress import ProgressLog

    rank(folder, ProgressLog())


def split_commas(text: str) -> list[str]:
    """Split text at its commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _problem_names(problems: str, fronts: str) -> list[str]:
    """Names of the problems, with one recording of each network at every further floor."""
    from cprune_rl.comparison.compiler_evidence import one_per_network
    from cprune_rl.envs.problems.registry import has_schemes, recorded_names

    with_schemes = {"all": False, "all-schemes": True}
    if problems in with_schemes:
        wanted = with_schemes[problems]
        names = [name for name in recorded_names() if has_schemes(name) == wanted]
    else:
        names = split_commas(problems)
    floors = split_commas(fronts)
    return names + [f"{name}:{floor}" for name in one_per_network(names) for floor in floors]
