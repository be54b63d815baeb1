"""CPrune as its authors coded it (Kim et al., ECCV 2022; their `c_pruner.py`).

Its cost is counted by their protocol. Tasks are walked in the order of their time, the slowest
first. The layers of each are narrowed by its program's step, added to what they were narrowed by
before, accepted or not; past a cap they are left alone. A candidate that is not faster than `beta`
times the current latency leaves the walk at the next task, and the task one step further the next
time. One that loses more than `alpha` allows is banned. An accepted candidate starts the walk anew.

As coded: a step is the largest that a producer of the group asks for, which breaks the tilings of
the others (`cprune` takes the least common multiple), and every task of every candidate is tuned
anew, by 70 trials each. Here the source tunes a task once, and better; the trials that the protocol
would make are charged.

The code ends in a KeyError where a walk accepts nothing; here it ends with what it has. It goes on
while the last accepted plan keeps the floor by a margin of `alpha`. A plan below the floor, which
it would export, is not an answer here.
"""

from __future__ import annotations

from dataclasses import dataclass

from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.core.legal_steps import channel_granularity
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchStep
from cprune_rl.core.subgraph_table import SubgraphTable, TaskRow

__all__ = ["PublishedCPrune"]

_TRIALS_A_TASK = 70  # at least 10, and a round of 60


@dataclass(frozen=True)
class PublishedCPrune(SessionSearcher):
    """Walks the tasks by their time, as the published code does.

    Attributes:
        alpha: share of the current accuracy that a step must keep, in (0, 1].
        beta: share of the current latency that a step must get below, in (0, 1].
        cap: share of a group's channels that may go.
    """

    alpha: float = 0.995
    beta: float = 0.99
    cap: float = 0.8

    name = "cprune-published"

    def run(self, session: SearchSession) -> None:
        """Walk again and again until a walk accepts nothing."""
        problem = session.problem
        walk = _Walk(session, self)
        plan = problem.network.dense
        accuracy = problem.dense_accuracy
        while not session.is_spent and not walk.is_over and problem.holds(self.alpha * accuracy):
            costs = problem.latency.measure(plan)
            table = SubgraphTable.from_costs(problem.network, plan, costs)
            step = walk.next_accepted(table, accuracy)
            if step is None or step.accuracy is None:
                break
            plan = step.plan
            accuracy = step.accuracy


class _Walk:
    """How far each layer was narrowed, accepted or not, and what may follow.

    Attributes:
        is_over: whether a candidate was good enough for `alpha` and not for the floor: there the
            code ends.
    """

    def __init__(self, session: SearchSession, settings: PublishedCPrune) -> None:
        self._session = session
        self._settings = settings
        self._network = session.problem.network
        self._shares = [0.0] * len(self._network.subgraphs)
        self.is_over = False

    def next_accepted(self, table: SubgraphTable, accuracy: float) -> SearchStep | None:
        """Find the first candidate that is accepted; None where none is."""
        dense = self._network.dense.widths
        shares = [step / width for step, width in zip(_published_steps(table), dense, strict=True)]
        for row in sorted((r for r in table.rows if r.groups), key=lambda r: -r.total_s):
            if self._session.is_spent or self.is_over:
                return None
            for at in row.subgraphs:
                groups = self._network.written_groups[at]
                self._shares[at] += max((shares[g] for g in groups), default=0.0)
            if max(self._shares[at] for at in row.subgraphs) > self._settings.cap:
                continue
            step = self._try(table, row, accuracy)
            if step.accepted:
                return step
            if step.accuracy is not None:
                for at in row.subgraphs:
                    self._shares[at] = 1.0  # past the cap for good
        return None

    def _try(self, table: SubgraphTable, row: TaskRow, accuracy: float) -> SearchStep:
        """Tune a candidate, charge the protocol's trials, and evaluate it if it is fast enough."""
        session = self._session
        plan = self._narrowed(table, row)
        self._charge_protocol(plan)
        least_accuracy = self._settings.alpha * accuracy
        step = session.try_plan(
            plan,
            self._network.subgraphs[row.subgraphs[0]].name,
            only_if_faster_than=0.0 if session.is_spent else self._settings.beta * table.latency_s,
            least_accuracy=least_accuracy,
        )
        if step.accuracy is not None:
            self.is_over = least_accuracy <= step.accuracy < session.problem.floor
        return step

    def _charge_protocol(self, plan: Plan) -> None:
        """Charge what the protocol would try beyond what the source tries to measure a plan."""
        spending = self._session.problem.latency.spending
        before = spending.fresh_trials
        self._session.problem.latency.measure(plan)
        made = spending.fresh_trials - before
        tasks = {w.key for w in self._network.workloads(plan)}
        self._session.charge(max(_TRIALS_A_TASK * len(tasks) - made, 0))

    def _narrowed(self, table: SubgraphTable, row: TaskRow) -> Plan:
        """Narrow what the row's layers write by their share of it; never make it wider."""
        widths = list(table.plan.widths)
        for at in row.subgraphs:
            for g in self._network.written_groups[at]:
                group = self._network.groups[g]
                kept = max(round(group.channels * (1 - self._shares[at])), group.minimum)
                widths[g] = min(widths[g], kept)
        return Plan(tuple(widths), table.plan.schemes)


def _published_steps(table: SubgraphTable) -> list[int]:
    """The most channels that one of a group's producers' programs keeps together, by group."""
    steps = [1] * len(table.plan.widths)
    for row in table.rows:
        if row.tile_factors:
            for g in row.groups:
                steps[g] = max(steps[g], channel_granularity(row.tile_factors, row.lanes))
    return steps
