"""The mixed-integer program behind `halp`, `mdp` and `exact`:

a width for each group, of least loss within a latency or the other way round.

A plan's latency is a sum of tables, each over the widths of the groups that the shape of some
subgraphs depends on. Each group takes
one of its legal widths; a table of several groups has a variable for each combination, and the
groups' choices are its marginals:
the convex hull of the table, so that HiGHS has little to branch on, and no variable but a group's
choices need be an integer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Plan
from cprune_rl.envs.problem import Problem

__all__ = ["Effort", "Solution", "WidthProgram"]

_MOST_COMBINATIONS = 4096  # of a table: two groups of 64 widths, or four of 8
_TIGHTER = (
    2e-6  # of the largest coefficient: a limit is drawn in by what the solver lets a plan pass it
)


@dataclass(frozen=True)
class Effort:
    """When the solver may stop.

    Attributes:
        time_limit_s: seconds; a solution found by then is given, and not called optimal.
        relative_gap: between the objective and its bound, at which a solution counts as optimal.
    """

    time_limit_s: float = 20.0
    relative_gap: float = 1e-3


@dataclass(frozen=True)
class Solution:
    """A plan that solves a program.

    Attributes:
        plan: a width for each group.
        latency_s: by the program's tables.
        loss: by the program's losses, in accuracy.
        bound: of what was minimised, in its unit: no plan does better.
        is_optimal: proven, within the gap that was asked for.
    """

    plan: Plan
    latency_s: float
    loss: float
    bound: float
    is_optimal: bool


@dataclass(frozen=True, eq=False)
class WidthProgram:
    """Choices of widths, what each loses, and what they cost together.

    Attributes:
        widths: of each group, those that it may take.
        losses: of each group, the loss at each of its widths, in accuracy.
        tables: by positions of groups, seconds at each combination of their widths, one axis for
            each group; infinite for
            a combination that is not to be chosen. That of no group is what nothing changes.
    """

    widths: tuple[tuple[int, ...], ...]
    losses: tuple[NDArray[np.float64], ...]
    tables: Mapping[tuple[int, ...], NDArray[np.float64]]

    @staticmethod
    def of(
        problem: Problem,
        widths: tuple[tuple[int, ...], ...],
        loss_model: LossModel,
        plan: Plan,
        varied: Sequence[tuple[int, ...]],
    ) -> WidthProgram:
        """The program of a problem by its cheap looks.

        Args:
            problem: whose latencies are read.
            widths: of each group, those that it may take.
            loss_model: what each group loses.
            plan: the width of whatever is not varied.
            varied: of each subgraph, positions of the groups whose widths its latency is a function
                of. Where their combinations are
                too many, it is the sum of functions of one group each, the others at their width in
                `plan`.
        """
        tables: dict[tuple[int, ...], NDArray[np.float64]] = {}
        for subgraph, groups in enumerate(varied):
            if math.prod(len(widths[g]) for g in groups) <= _MOST_COMBINATIONS:
                parts = {groups: _seconds(problem, subgraph, groups, widths, plan)}
            else:
                base = _seconds(problem, subgraph, (), widths, plan)
                with np.errstate(
                    invalid="ignore"
                ):  # where nothing is known of the subgraph, the program has no solution
                    parts = {(): base} | {
                        (g,): _seconds(problem, subgraph, (g,), widths, plan) - base for g in groups
                    }
            for at, seconds in parts.items():
                tables[at] = tables[at] + seconds if at in tables else seconds
        dense = problem.network.dense.widths
        losses = (
            LossModel(loss_model.scale[[g]], loss_model.power[[g]]).group_losses(
                np.array(w)[:, None] / dense[g]
            )[:, 0]
            for g, w in enumerate(widths)
        )
        return WidthProgram(widths, tuple(losses), tables)

    def least_loss(self, latency_s: float, effort: Effort | None = None) -> Solution | None:
        """The plan that loses least within a latency; None where none is found.

        Args:
            latency_s: that no plan may pass.
            effort: of the solver.
        """
        columns = self._columns
        return self._solve(
            columns.losses, columns.seconds, latency_s - self._fixed_s, 0.0, effort or Effort()
        )

    def least_latency(self, loss: float, effort: Effort | None = None) -> Solution | None:
        """The fastest plan that loses no more than that; None where none is found.

        Args:
            loss: in accuracy.
            effort: of the solver.
        """
        columns = self._columns
        return self._solve(columns.seconds, columns.losses, loss, self._fixed_s, effort or Effort())

    @property
    def _fixed_s(self) -> float:
        return float(self.tables[()]) if () in self.tables else 0.0

    @cached_property
    def _columns(self) -> _Columns:
        return _Columns.of(self)

    def _solve(
        self,
        objective: NDArray[np.float64],
        limited: NDArray[np.float64],
        limit: float,
        fixed: float,
        effort: Effort,
    ) -> Solution | None:
        if not (math.isfinite(limit) and math.isfinite(self._fixed_s)):
            return None
        columns, unit, limited_unit = (
            self._columns,
            _largest(objective),
            _largest(limited),
        )  # the solver's tolerances are absolute
        found = milp(
            objective / unit,
            integrality=columns.is_integer,
            bounds=Bounds(0.0, columns.upper),
            constraints=[
                LinearConstraint(columns.equalities, columns.right_side, columns.right_side),
                LinearConstraint(
                    limited[None, :] / limited_unit, -np.inf, limit / limited_unit - _TIGHTER
                ),
            ],
            options={"time_limit": effort.time_limit_s, "mip_rel_gap": effort.relative_gap},
        )
        if found.x is None:
            return None
        chosen = [
            int(found.x[start : start + len(w)].argmax())
            for start, w in zip(columns.starts, self.widths, strict=True)
        ]
        latency_s = sum(
            float(table[tuple(chosen[g] for g in groups)]) for groups, table in self.tables.items()
        )
        loss = sum(float(of_group[at]) for of_group, at in zip(self.losses, chosen, strict=True))
        plan = Plan(tuple(w[at] for w, at in zip(self.widths, chosen, strict=True)))
        return Solution(
            plan, latency_s, loss, float(found.mip_dual_bound) * unit + fixed, found.status == 0
        )


@dataclass(frozen=True, eq=False)
class _Columns:
    """The variables of a program:

    the choices of each group, then the combinations of each table of several groups.

    Attributes:
        starts: the first choice of each group.
        losses: of each variable.
        seconds: of each variable.
        upper: 0 for what is not to be chosen.
        is_integer: 1 for a choice, 0 for a combination.
        equalities: left side: one choice for each group, and choices that are the marginals of
            combinations.
        right_side: of the same.
    """

    starts: tuple[int, ...]
    losses: NDArray[np.float64]
    seconds: NDArray[np.float64]
    upper: NDArray[np.float64]
    is_integer: NDArray[np.int64]
    equalities: Any
    right_side: NDArray[np.float64]

    @staticmethod
    def of(program: WidthProgram) -> _Columns:
        starts = [sum(len(w) for w in program.widths[:g]) for g in range(len(program.widths))]
        n_choices = sum(len(w) for w in program.widths)
        of_choices = np.zeros(n_choices)
        entries = [
            (g, starts[g] + at, 1.0) for g, w in enumerate(program.widths) for at in range(len(w))
        ]
        n_rows, n_columns, seconds = len(starts), n_choices, [of_choices]
        for groups, table in program.tables.items():
            if len(groups) == 1:
                of_choices[starts[groups[0]] : starts[groups[0]] + len(table)] += table
            elif groups:
                combinations = n_columns + np.arange(table.size).reshape(table.shape)
                for axis, g in enumerate(groups):
                    for at in range(table.shape[axis]):
                        entries += [
                            (n_rows, int(column), 1.0)
                            for column in np.take(combinations, at, axis).ravel()
                        ]
                        entries.append((n_rows, starts[g] + at, -1.0))
                        n_rows += 1
                n_columns += table.size
                seconds.append(table.ravel())
        rows, columns, values = (np.array(column) for column in zip(*entries, strict=True))
        all_seconds = np.concatenate(seconds)
        is_able = np.isfinite(all_seconds)
        n_combinations = n_columns - n_choices
        return _Columns(
            tuple(starts),
            np.concatenate([*program.losses, np.zeros(n_combinations)]),
            np.where(is_able, all_seconds, 0.0),
            is_able.astype(float),
            np.repeat((1, 0), (n_choices, n_combinations)),
            csr_array((values, (rows, columns)), shape=(n_rows, n_columns)),
            np.repeat((1.0, 0.0), (len(starts), n_rows - len(starts))),
        )


def _seconds(
    problem: Problem,
    subgraph: int,
    groups: tuple[int, ...],
    widths: Sequence[Sequence[int]],
    plan: Plan,
) -> NDArray[np.float64]:
    """Cheap looks at a subgraph, one axis for each group."""
    at, workloads = list(plan.widths), []
    for chosen in product(*(widths[g] for g in groups)):
        for g, width in zip(groups, chosen, strict=True):
            at[g] = width
        workloads.append(problem.network.workload(subgraph, Plan(tuple(at))))
    return np.array([c.latency_s for c in problem.latency.predict(workloads)]).reshape(
        [len(widths[g]) for g in groups]
    )


def _largest(values: NDArray[np.float64]) -> float:
    return float(np.abs(values).max()) or 1.0
