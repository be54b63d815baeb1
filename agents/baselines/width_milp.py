"""The mixed-integer linear program behind `halp`, `mdp` and `exact`.

It finds a width for each group, of least loss within a latency or the other way round. A plan's
latency is a sum of tables, each over the widths of the groups that the shape of some subgraphs
depends on. Each group takes one of its legal widths. A table of several groups has a variable for
each combination, and the groups' choices are its marginals: the convex hull of the table. So HiGHS
has little to branch on, and only the groups' choices need be integers.
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

__all__ = ["Solution", "SolverLimits", "WidthProgram"]

Tables = dict[tuple[int, ...], NDArray[np.float64]]
Widths = Sequence[Sequence[int]]

_MAX_COMBINATIONS = 4096  # of a table: two groups of 64 widths, or four of 8
# A limit is drawn in by as much as the solver lets a plan pass it, as a share of the largest
# coefficient.
_TOLERANCE = 2e-6


@dataclass(frozen=True)
class SolverLimits:
    """When the solver may stop.

    Attributes:
        time_limit_s: seconds; a solution found by then is given, and not called optimal.
        relative_gap: between the objective and its bound, at which a solution counts as optimal.
    """

    time_limit_s: float = 20.0
    relative_gap: float = 1e-3


@dataclass(frozen=True, kw_only=True)
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
            each group; infinite for a combination that is not to be chosen. The table of no group
            is what nothing changes.
    """

    widths: tuple[tuple[int, ...], ...]
    losses: tuple[NDArray[np.float64], ...]
    tables: Mapping[tuple[int, ...], NDArray[np.float64]]

    @staticmethod
    def from_problem(
        problem: Problem,
        widths: tuple[tuple[int, ...], ...],
        loss_model: LossModel,
        *,
        plan: Plan,
        varied: Sequence[tuple[int, ...]],
    ) -> WidthProgram:
        """Make the program of a problem by its predicted latencies.

        Args:
            problem: whose latencies are read.
            widths: of each group, those that it may take.
            loss_model: what each group loses.
            plan: the width of whatever is not varied.
            varied: of each subgraph, positions of the groups whose widths its latency is a function
                of. Where their combinations are too many, it is the sum of functions of one group
                each, the others at their width in `plan`.
        """
        reader = _TableReader(problem, widths, plan)
        tables: Tables = {}
        for subgraph, groups in enumerate(varied):
            for at, seconds in reader.tables(subgraph, groups).items():
                tables[at] = tables[at] + seconds if at in tables else seconds
        losses = []
        for g, (legal, dense) in enumerate(zip(widths, problem.network.dense.widths, strict=True)):
            of_group = LossModel(loss_model.scale[[g]], loss_model.power[[g]])
            losses.append(of_group.group_losses(np.array(legal)[:, None] / dense)[:, 0])
        return WidthProgram(widths, tuple(losses), tables)

    def least_loss(self, latency_s: float, limits: SolverLimits | None = None) -> Solution | None:
        """Find the plan that loses least within a latency; None where none is found.

        Args:
            latency_s: that no plan may pass.
            limits: of the solver.
        """
        variables = self._variables
        return self._solve(
            minimized=variables.losses,
            limited=variables.seconds,
            limit=latency_s - self._fixed_s,
            limits=limits,
        )

    def least_latency(self, loss: float, limits: SolverLimits | None = None) -> Solution | None:
        """Find the fastest plan that loses no more than that; None where none is found.

        Args:
            loss: in accuracy.
            limits: of the solver.
        """
        variables = self._variables
        return self._solve(
            minimized=variables.seconds,
            limited=variables.losses,
            limit=loss,
            constant=self._fixed_s,
            limits=limits,
        )

    @property
    def _fixed_s(self) -> float:
        return float(self.tables[()]) if () in self.tables else 0.0

    @cached_property
    def _variables(self) -> _Variables:
        return _Variables.from_program(self)

    def _solve(
        self,
        *,
        minimized: NDArray[np.float64],
        limited: NDArray[np.float64],
        limit: float,
        constant: float = 0.0,
        limits: SolverLimits | None,
    ) -> Solution | None:
        if not (math.isfinite(limit) and math.isfinite(self._fixed_s)):
            return None
        limits = limits or SolverLimits()
        variables = self._variables
        # The solver's tolerances are absolute, so coefficients are brought to about 1.
        unit = _largest(minimized)
        limited_unit = _largest(limited)
        result = milp(
            minimized / unit,
            integrality=variables.is_integer,
            bounds=Bounds(0.0, variables.upper),
            constraints=[
                LinearConstraint(variables.equalities, variables.right_side, variables.right_side),
                LinearConstraint(
                    limited[None, :] / limited_unit, -np.inf, limit / limited_unit - _TOLERANCE
                ),
            ],
            options={"time_limit": limits.time_limit_s, "mip_rel_gap": limits.relative_gap},
        )
        if result.x is None:
            return None
        chosen = [
            int(result.x[start : start + len(legal)].argmax())
            for start, legal in zip(variables.starts, self.widths, strict=True)
        ]
        widths = tuple(w[at] for w, at in zip(self.widths, chosen, strict=True))
        lost = [float(losses[at]) for losses, at in zip(self.losses, chosen, strict=True)]
        return Solution(
            plan=Plan(widths),
            latency_s=self._latency_s(chosen),
            loss=sum(lost),
            bound=float(result.mip_dual_bound) * unit + constant,
            is_optimal=result.status == 0,
        )

    def _latency_s(self, chosen: Sequence[int]) -> float:
        latency_s = 0.0
        for groups, table in self.tables.items():
            latency_s += float(table[tuple(chosen[g] for g in groups)])
        return latency_s


@dataclass(frozen=True, eq=False, kw_only=True)
class _Variables:
    """The variables of a program: choices of groups, then combinations of tables of several groups.

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
    def from_program(program: WidthProgram) -> _Variables:
        """Lay the variables out, and the equalities between them."""
        starts = np.cumsum([0, *map(len, program.widths)]).tolist()
        n_choices = starts.pop()
        of_choices = np.zeros(n_choices)
        seconds = [of_choices]
        n_variables = n_choices
        # Entries of the left side, `(row, column, value)`: one choice for each group comes first.
        entries = [
            (g, column, 1.0)
            for g, legal in enumerate(program.widths)
            for column in range(starts[g], starts[g] + len(legal))
        ]
        n_rows = len(starts)
        for groups, table in program.tables.items():
            if len(groups) == 1:
                start = starts[groups[0]]
                of_choices[start : start + len(table)] += table
            elif groups:
                combinations = n_variables + np.arange(table.size).reshape(table.shape)
                for axis, g in enumerate(groups):
                    for at, of_width in enumerate(np.moveaxis(combinations, axis, 0)):
                        entries += [(n_rows, column, 1.0) for column in of_width.ravel().tolist()]
                        entries.append((n_rows, starts[g] + at, -1.0))
                        n_rows += 1
                n_variables += table.size
                seconds.append(table.ravel())
        rows, columns, values = zip(*entries, strict=True)
        all_seconds = np.concatenate(seconds)
        is_allowed = np.isfinite(all_seconds)
        n_combinations = n_variables - n_choices
        return _Variables(
            starts=tuple(starts),
            losses=np.concatenate([*program.losses, np.zeros(n_combinations)]),
            seconds=np.where(is_allowed, all_seconds, 0.0),
            upper=is_allowed.astype(float),
            is_integer=np.repeat((1, 0), (n_choices, n_combinations)),
            equalities=csr_array((values, (rows, columns)), shape=(n_rows, n_variables)),
            right_side=np.repeat((1.0, 0.0), (len(starts), n_rows - len(starts))),
        )


@dataclass(frozen=True)
class _TableReader:
    """Reads predicted latencies of a subgraph over widths of groups.

    Attributes:
        problem: whose latencies are read.
        widths: of each group, those that it may take.
        plan: the width of whatever is not varied.
    """

    problem: Problem
    widths: Widths
    plan: Plan

    def tables(self, subgraph: int, groups: tuple[int, ...]) -> Tables:
        """Read tables whose sum is a subgraph's latency."""
        if math.prod(len(self.widths[g]) for g in groups) <= _MAX_COMBINATIONS:
            return {groups: self._table(subgraph, groups)}
        base = self._table(subgraph, ())
        tables: Tables = {(): base}
        # Where nothing is known of the subgraph, the program has no solution.
        with np.errstate(invalid="ignore"):
            for g in groups:
                tables[g,] = self._table(subgraph, (g,)) - base
        return tables

    def _table(self, subgraph: int, groups: tuple[int, ...]) -> NDArray[np.float64]:
        """Read a table with one axis for each group."""
        widths = list(self.plan.widths)
        workloads = []
        for chosen in product(*(self.widths[g] for g in groups)):
            for g, width in zip(groups, chosen, strict=True):
                widths[g] = width
            workloads.append(self.problem.network.workload(subgraph, Plan(tuple(widths))))
        seconds = np.array([c.latency_s for c in self.problem.latency.predict(workloads)])
        return seconds.reshape([len(self.widths[g]) for g in groups])


def _largest(values: NDArray[np.float64]) -> float:
    return float(np.abs(values).max()) or 1.0
