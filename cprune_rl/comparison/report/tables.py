"""Tables of a comparison: standings, costs, fronts, pairs, problems."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

from cprune_rl.comparison.compare import MethodComparison
from cprune_rl.comparison.profiles import Front
from cprune_rl.comparison.statistics import Standing
from cprune_rl.core.intervals import Interval
from cprune_rl.reporting.html import count
from cprune_rl.reporting.tables import Column, Table, Value

__all__ = [
    "costs_table",
    "fronts_table",
    "leaderboard_table",
    "overall_table",
    "pairs_table",
    "problem_tables",
    "shares_table",
]


def overall_table(comparison: MethodComparison) -> Table:
    """Show every method over all cases."""
    agent = comparison.agent
    columns = [
        _METHOD,
        Column(title="rank", value=attrgetter("rank")),
        _interval("share of the best gain, IQM", attrgetter("iqm"), 3),
        _interval("the same, over seeds alone", attrgetter("iqm_seeds"), 3),
        _interval("speed-up, geometric mean", attrgetter("speedup"), 2),
        _interval("mean share", attrgetter("share"), 3),
    ]
    if any(s.beats_agent for s in comparison.standings):
        columns += [
            _interval(f"beats {agent}, % of cases", attrgetter("beats_agent"), 0, scale=100),
            _interval(f"{agent}'s share over it", attrgetter("agent_over"), 3),
            Column(title=f"faster than {agent}, %", value=attrgetter("faster"), scale=100),
            Column(title=f"slower than {agent}, %", value=attrgetter("slower"), scale=100),
        ]
    if any(s.gap for s in comparison.standings):
        columns.append(_interval("optimality gap", attrgetter("gap"), 3))
    columns += [
        Column(title="cases", value=attrgetter("n_cases")),
        Column(title="failed", value=attrgetter("n_errors")),
        Column(title="floor missed", value=attrgetter("n_broken")),
    ]
    return Table(
        name="overall",
        caption="All methods over all cases, best first; 95 % intervals over problems and seeds "
        "unless said",
        columns=columns,
        items=comparison.standings,
        own=agent,
    )


def costs_table(comparison: MethodComparison) -> Table:
    """Show what each method spent, as means over cases."""
    columns = [
        _METHOD,
        *_COST_COLUMNS,
        _cost("policy_s", "training the policy, s", 1),
        _cost("wall_s", "in all, s"),
    ]
    return Table(
        name="costs",
        caption="What a run cost, mean over cases",
        columns=columns,
        items=comparison.standings,
        own=comparison.agent,
    )


class _MethodFront(NamedTuple):
    method: str
    front: Front


def fronts_table(comparison: MethodComparison) -> Table:
    """Show speed-up and accuracy at each floor, and the hypervolume."""
    columns = [_METHOD, _interval("hypervolume", attrgetter("front.hypervolume"), 2)]
    for at, floor in enumerate(next(iter(comparison.fronts.values())).floors):
        where = f"at floor {100 * floor:+g}"
        columns += [
            _interval(f"speed-up {where}", _entry("front.speedup", at), 2),
            _interval(f"accuracy {where}", _entry("front.points", at), 2),
        ]
    fronts = [_MethodFront(s.method, comparison.fronts[s.method]) for s in comparison.standings]
    return Table(
        name="fronts",
        caption="Speed-up, and change of accuracy in points, at each floor; largest hypervolume "
        "first",
        columns=columns,
        items=sorted(fronts, key=lambda entry: -entry.front.hypervolume.value),
        own=comparison.agent,
    )


def pairs_table(comparison: MethodComparison) -> Table:
    """Show the probability that the row's method beats the column's."""
    names = [s.method for s in comparison.standings]
    columns = [Column(title="method", value=itemgetter(0))]
    for at, name in enumerate(names, start=1):
        columns.append(_interval(name, itemgetter(at), 0, scale=100))
    items: list[list[Value]] = []
    for i, (name, improvement) in enumerate(zip(names, comparison.improvement, strict=True)):
        chances = [Interval(*map(float, ends)) for ends in improvement]
        items.append([name, *chances[:i], None, *chances[i + 1 :]])
    return Table(
        name="pairs",
        caption="Chance, in %, that the row's method ends faster than the column's on a case",
        columns=columns,
        items=items,
        own=comparison.agent,
    )


def shares_table(comparison: MethodComparison) -> Table:
    """Show the mean share of each method on each problem, floors and seeds together."""
    columns = [_METHOD]
    for problem in comparison.problems:
        value = partial(_mean_share, comparison, problem)
        columns.append(Column(title=problem, value=value, digits=2))
    return Table(
        name="shares",
        caption="Mean share of the best gain, by problem",
        columns=columns,
        items=comparison.standings,
        own=comparison.agent,
    )


def _mean_share(comparison: MethodComparison, problem: str, standing: Standing) -> float | None:
    own = [
        s
        for s in comparison.problem_standings
        if (s.problem, s.method) == (problem, standing.method)
    ]
    n = sum(s.n for s in own)
    return sum(s.share.value * s.n for s in own) / n if own else None


def problem_tables(comparison: MethodComparison) -> list[Table]:
    """Show each problem: every method at every floor, with intervals over seeds."""
    columns = [
        _METHOD,
        Column(title="floor, points", value=attrgetter("floor"), digits=1, scale=100),
        Column(title="losses", value=attrgetter("losses")),
        _interval("speed-up", attrgetter("speedup"), 2),
        _interval("share of the best gain", attrgetter("share"), 3),
        Column(title="best is", value=lambda s: "proven" if s.is_proven else "found"),
        Column(title="accuracy, points", value=attrgetter("points"), digits=2),
        *_COST_COLUMNS,
        Column(title="seeds", value=attrgetter("n")),
        Column(title="failed", value=attrgetter("n_failed")),
    ]
    tables = []
    for problem in comparison.problems:
        name = re.sub(r"[^A-Za-z0-9_.@-]+", "-", problem)
        table = Table(
            name=f"problem-{name}",
            caption=problem,
            columns=columns,
            items=[s for s in comparison.problem_standings if s.problem == problem],
            own=comparison.agent,
        )
        tables.append(table)
    return tables


def leaderboard_table(comparison: MethodComparison) -> Table:
    """Rank the methods."""
    n_cases = count(len(comparison.scores.cases), "case")
    n_problems = count(comparison.n_problems, "problem")
    columns = [
        _METHOD,
        Column(title="rank", value=attrgetter("rank")),
        _interval("share of the best gain, IQM", attrgetter("iqm"), 3),
        _interval("speed-up", attrgetter("speedup"), 2),
        _cost("accuracy_evaluations", "accuracy evaluations", 1),
        _cost("fresh_trials", "fresh trials"),
        Column(title="cases", value=attrgetter("n_cases")),
    ]
    return Table(
        name="leaderboard",
        caption=f"Methods on {n_cases} of {n_problems}; 95 % over problems and seeds",
        columns=columns,
        items=comparison.standings,
        own=comparison.agent,
    )


def _interval(title: str, value: Callable[[Any], Value], digits: int, scale: float = 1.0) -> Column:
    return Column(title=title, value=value, digits=digits, scale=scale, has_interval=True)


def _entry(name: str, at: int) -> Callable[[Any], Value]:
    """Take an attribute's entry at a position."""
    sequence = attrgetter(name)
    return lambda item: sequence(item)[at]


def _cost(name: str, title: str, digits: int = 0) -> Column:
    return Column(title=title, value=lambda standing: standing.cost[name], digits=digits)


_METHOD = Column(title="method", value=attrgetter("method"))
_COST_COLUMNS: Sequence[Column] = (
    _cost("fresh_trials", "fresh trials"),
    _cost("tasks", "tasks looked at"),
    _cost("accuracy_evaluations", "accuracy evaluations", 1),
    _cost("full_finetunes", "full fine-tunes", 1),
    _cost("measure_s", "measuring, s"),
    _cost("train_s", "fine-tuning, s"),
    _cost("think_s", "thinking, s", 1),
)
