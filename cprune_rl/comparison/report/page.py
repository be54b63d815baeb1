"""The page of a comparison:

one file, pictures inside, nothing loaded from elsewhere; beside it the pictures and tables as
files.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypedDict

from jinja2 import Environment, PackageLoader

from cprune_rl.comparison.compiler_evidence import Proxies
from cprune_rl.comparison.records import RunRecord
from cprune_rl.comparison.report.plots import (
    plot_costs,
    plot_fronts,
    plot_iqm,
    plot_pairs,
    plot_profiles,
    plot_speedup,
)
from cprune_rl.comparison.report.tables import (
    costs_table,
    fronts_table,
    overall_table,
    pairs_table,
    problem_tables,
    proxies_table,
    shares_table,
)
from cprune_rl.comparison.scores import UNRANKED
from cprune_rl.comparison.statistics import AGENT, Comparison, compare
from cprune_rl.reporting.figure import Picture

__all__ = ["About", "write_page"]


class About(TypedDict, total=False):
    """What a page says of how it was made; what is missing is left out.

    Attributes:
        title: heading.
        made: time in UTC.
        commands: exact ones, in order.
        system: as `cprune_rl.core.system_info.describe_system` gives it.
        noise: how far two timings of the same thing differ, a sentence.
        methods: one line on each method, by name.
        problems: one line on each problem, by name: processor, what was recorded.
        notes: further sentences on what is not shown.
        agent: method that the others are set against.
    """

    title: str
    made: str
    commands: Sequence[str]
    system: dict[str, Any]
    noise: str
    methods: dict[str, str]
    problems: dict[str, str]
    notes: Sequence[str]
    agent: str


def write_page(
    folder: Path,
    rows: Sequence[RunRecord],
    about: About,
    why: Sequence[Picture] = (),
    proxies: Sequence[Proxies] = (),
    controls: Collection[str] = (),
    unranked: Collection[str] = UNRANKED,
) -> Comparison:
    """Writes `report.html`, `pictures/` and `tables/`.

    Args:
        folder: of the comparison; made where it is missing.
        rows: of all methods and cases.
        about: how it was made.
        why: further pictures, of why the compiler is asked: `plot_staircase`, `plot_order`.
        proxies: how well what is free ranks plans.
        controls: methods that are shown without a rank.
        unranked: methods that only serve as a reference.

    Returns:
        What the page shows.

    Raises:
        ConfigError: no row is of a ranked method, or two are of the same run.
    """
    found = compare(rows, agent=about.get("agent", AGENT), unranked=unranked, controls=controls)
    main = [plot_iqm(found), plot_speedup(found)]
    depth = [*plot_costs(found), plot_profiles(found), plot_fronts(found), plot_pairs(found)]
    tables = {
        "overall": overall_table(found),
        "costs": costs_table(found),
        "shares": shares_table(found),
        "fronts": fronts_table(found),
        "pairs": pairs_table(found),
    }
    if proxies:
        tables["proxies"] = proxies_table(proxies)
    problems = problem_tables(found)
    for name in ("pictures", "tables"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for picture in (*main, *depth, *why):
        picture.write(folder / "pictures")
    for table in (*tables.values(), *problems):
        (folder / "tables" / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
    template = Environment(
        loader=PackageLoader("cprune_rl.reporting"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("compare.html")
    page = template.render(
        found=found,
        about=about,
        tables=tables,
        problems=problems,
        main=main,
        depth=depth,
        why=why,
        worst=_worst(found),
        runs=_runs(rows),
        verdict=_verdict(found),
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
    return found


def _runs(rows: Sequence[RunRecord]) -> dict[str, Any]:
    """What the rows say of themselves."""
    budgets = sorted(
        {
            ", ".join(
                f"{what} {'unlimited' if limit is None else f'{limit:g}'}"
                for what, limit in r.budget.items()
            )
            for r in rows
        }
    )
    versions = sorted(
        {f"{package} {version}" for r in rows for package, version in r.versions.items()}
    )
    return {
        "n": len(rows),
        "n_seeds": len({r.seed for r in rows}),
        "floors": [f"{100 * f:+g}" for f in sorted({r.floor for r in rows}, reverse=True)],
        "losses": sorted({r.losses for r in rows}),
        "commits": sorted({r.commit for r in rows}),
        "versions": versions,
        "budgets": budgets,
    }


def _verdict(found: Comparison) -> dict[str, Any] | None:
    """How many methods the agent is above, below or not told apart from, by the interval of the
    difference; None without an agent.
    """
    agent = next((s for s in found.standings if s.method == found.agent), None)
    if agent is None:
        return None
    sides: dict[str, list[str]] = {"above": [], "below": [], "level": []}
    for s in found.standings:
        if s.agent_over is not None and s.rank is not None:
            sides[
                "above" if s.agent_over.low > 0 else "below" if s.agent_over.high < 0 else "level"
            ].append(s.method)
    return {"agent": agent, "n_ranked": sum(s.rank is not None for s in found.standings), **sides}


def _worst(found: Comparison) -> float:
    return next(iter(found.fronts.values())).worst
