"""`cprune-rl compare` and `cprune-rl leaderboard`:

every method at equal cost, and a ranking of rows that were checked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(compare)
    app.command()(leaderboard)


def compare(
    problems: Annotated[
        str,
        typer.Option(
            help="Recorded problems, parted by commas, each with a floor if it is to have another: resnet8@znver4-2t:-0.02. `all` packaged ones, or `all-schemes`."
        ),
    ] = "resnet8,vgg-small",
    methods: Annotated[
        str,
        typer.Option(
            help="Methods, parted by commas, or `all`; `cprune-rl compare --list` says which there are."
        ),
    ] = "agent,cprune,proxy-greedy,surrogate,random",
    fronts: Annotated[
        str,
        typer.Option(
            help="Further floors of one recording of each network, parted by commas, for accuracy-latency fronts: --fronts=-0.005,-0.03."
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
            help="Of each search: trials=N, evaluations=N, minutes=N, parted by commas; what is left out is no limit."
        ),
    ] = "trials=20000,evaluations=200",
    losses: Annotated[
        str,
        typer.Option(
            help="True losses: drawn around the curve that searches are shown, or recorded, the recording's own."
        ),
    ] = "drawn",
    out: Annotated[
        Path,
        typer.Option(help="Folder of rows and page; a comparison that is there already goes on."),
    ] = Path("comparison"),
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes; one for each core where not given.", show_default=False
        ),
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
    show: Annotated[bool, typer.Option("--list", help="List the methods and end.")] = False,
) -> None:
    """Compare search methods on recorded problems within equal budgets, and write a page about it."""
    from cprune_rl.agents.registry import METHODS, compared_methods
    from cprune_rl.pipeline.progress import ProgressLog

    progress = ProgressLog()
    if show:
        for name in compared_methods():
            progress.print(f"  {name:18} {METHODS[name].description}")
        return
    from cprune_rl.comparison.cases import make_cases
    from cprune_rl.comparison.compiler_evidence import one_per_network
    from cprune_rl.comparison.report.page import write_report
    from cprune_rl.comparison.runner import Experiment, parse_budget, run_experiment
    from cprune_rl.envs.problems.registry import has_schemes, recorded_names

    if losses not in ("drawn", "recorded"):
        raise typer.BadParameter(f"{losses!r}: drawn or recorded", param_hint="--losses")
    every = {"all": False, "all-schemes": True}
    names = (
        [n for n in recorded_names() if has_schemes(n) == every[problems]]
        if problems in every
        else _parts(problems)
    )
    names += [f"{name}:{floor}" for name in one_per_network(names) for floor in _parts(fronts)]
    cases = make_cases(
        names,
        range(first_seed, first_seed + seeds),
        "recorded" if losses == "recorded" else "drawn",
    )
    chosen = compared_methods(_parts(methods))
    experiment = Experiment(
        folder=out,
        cases=tuple(cases),
        methods=tuple(chosen),
        budget=parse_budget(budget),
        n_jobs=jobs,
        backend=backend,
        timesteps=timesteps,
        own_timesteps=own_timesteps,
    )
    run_experiment(experiment, progress)
    write_report(out, progress)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def leaderboard(folder: Annotated[Path, typer.Argument(help="Folder of a comparison.")]) -> None:
    """Rank methods by the rows of comparisons that hold when their searches are run again."""
    from cprune_rl.comparison.report.leaderboard import rank
    from cprune_rl.pipeline.progress import ProgressLog

    rank(folder, ProgressLog())
