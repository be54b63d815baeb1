"""Says in words what a plan prunes, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from cprune_rl.core.network import Group, Network, Plan
from cprune_rl.core.search_result import SearchStep
from cprune_rl.core.subgraph_table import SubgraphTable, TaskRow

__all__ = ["ExplainedPlan"]

_N_LAYERS = 4  # named of a group
_LONGEST_WHY = 120  # characters: a search's own log has the longer ones
_SMALL_SHARE = 0.02  # of the latency: narrowing such a group gains next to nothing


@dataclass(frozen=True, kw_only=True)
class ExplainedPlan:
    """A plan with what the compiler and the search know of it.

    Attributes:
        dense: subgraph table of the dense network.
        pruned: of the plan.
        history: every candidate of the search that found it.
    """

    dense: SubgraphTable
    pruned: SubgraphTable
    history: Sequence[SearchStep] = field(default=(), repr=False)

    @property
    def network(self) -> Network:
        """Description of the dense network."""
        return self.dense.network

    @property
    def plan(self) -> Plan:
        """What is kept."""
        return self.pruned.plan

    @property
    def channels(self) -> dict[str, tuple[int, int]]:
        """Channels of each group in the dense network, and those that are kept."""
        widths = self.network.widths(self.plan)
        return {group.name: (group.channels, widths[group.name]) for group in self.network.groups}

    @property
    def schemes(self) -> dict[str, str]:
        """Scheme of each layer that is not dense."""
        return dict(self.plan.schemes)

    def __str__(self) -> str:
        return self.explain()

    def explain(self) -> str:
        """Say what is pruned and why, a paragraph for each group, the slowest first.

        Shares and latencies are estimates: sums of tasks.
        """
        groups = sorted(range(len(self.network.groups)), key=lambda at: -self._share(at))
        narrowed = [at for at in groups if self._is_narrowed(at)]
        whole = [at for at in groups if not self._is_narrowed(at)]
        lines = [self._summary(len(narrowed))]
        lines += [self._explain_narrowed(at) for at in narrowed]
        lines += [self._explain_scheme(layer, scheme) for layer, scheme in self.plan.schemes]
        lines += [self._explain_whole(at) for at in whole]
        lines += [
            f"{layer} cannot be pruned: {reason}." for layer, reason in self.network.unprunable
        ]
        return "\n".join(lines)

    def _summary(self, n_narrowed: int) -> str:
        before_ms = self.dense.latency_s * 1e3
        after_ms = self.pruned.latency_s * 1e3
        macs = self.network.macs(self.plan) / self.network.macs(self.network.dense)
        text = (
            f"{self.network.name}: {n_narrowed} of {len(self.network.groups)} groups of channels "
            f"are narrower. The sum of its tasks goes from {before_ms:.3f} to {after_ms:.3f} ms, "
            f"{before_ms / after_ms:.2f} times as fast, with {macs:.0%} of the operations."
        )
        at = next((i for i, s in enumerate(self.history) if s.plan == self.plan), None)
        if at is None:
            return text
        step = self.history[at]
        why = f": {step.why}" if 0 < len(step.why) <= _LONGEST_WHY else ""
        return f"{text} It is candidate {at + 1} of {len(self.history)}, from {step.what}{why}."

    def _explain_narrowed(self, at: int) -> str:
        group = self.network.groups[at]
        width = self.plan.widths[at]
        rows = self._rows(at)
        before_s = sum(row.total_s for row in rows)
        after_s = sum(row.total_s for row in self.pruned.rows if at in row.groups)
        return (
            f"{_named(group)}: {width} of {group.channels} channels are kept. The tasks that write "
            f"them took {before_s * 1e3:.3f} ms, {self._share(at):.0%} of the dense network's "
            f"latency, and take {after_s * 1e3:.3f} ms now. {self._step_text(at, rows)}"
        )

    def _step_text(self, at: int, rows: Sequence[TaskRow]) -> str:
        step = self.dense.steps[at]
        tilings = [_tiling(row) for row in rows if row.tile_factors]
        if not tilings:
            return f"The compiler tiles no loop over them; a step was {_channels(step)}."
        listed = ", ".join(dict.fromkeys(tilings))
        return (
            f"The fastest schedules tile them as {listed}, "
            f"so that the compiler's step was {_channels(step)}."
        )

    def _explain_scheme(self, layer: str, scheme: str) -> str:
        rows = [
            row
            for row in self.dense.rows
            if any(layer in self.network.subgraphs[i].layers for i in row.subgraphs)
        ]
        share = sum(row.total_s for row in rows) / self.dense.latency_s
        return f"{layer}: pruned within its channels as {scheme}; its task took {share:.0%}."

    def _explain_whole(self, at: int) -> str:
        group = self.network.groups[at]
        share = self._share(at)
        return (
            f"{_named(group)}: all {_channels(group.channels)} are kept. The tasks that write them "
            f"took {share:.0%} of the latency. {self._why_whole(at, share)}"
        )

    def _why_whole(self, at: int, share: float) -> str:
        group = self.network.groups[at]
        if group.minimum >= group.channels:
            return "It is to keep them all."
        tried = [step for step in self.history if step.plan.widths[at] < group.channels]
        judged = [step for step in tried if step.accuracy is not None]
        n_accepted = sum(step.accepted for step in judged)
        if n_accepted:
            return (
                f"{_counted(n_accepted, 'candidate')} with fewer of them held the floor in the "
                "search, but another plan was faster or passed the final gate."
            )
        if judged:
            return (
                f"{_counted(len(judged), 'candidate')} with fewer of them lost too much accuracy."
            )
        if tried:
            return (
                f"{_counted(len(tried), 'candidate')} with fewer of them "
                "did not gain enough to have its accuracy asked for."
            )
        if share < _SMALL_SHARE:
            return "That is too little for the search to have tried fewer."
        return "No candidate of the search had fewer."

    def _is_narrowed(self, at: int) -> bool:
        return self.plan.widths[at] < self.network.groups[at].channels

    def _rows(self, at: int) -> list[TaskRow]:
        """Tasks of the dense network that write a group's channels."""
        return [row for row in self.dense.rows if at in row.groups]

    def _share(self, at: int) -> float:
        """Share of the dense latency of the tasks that write a group's channels."""
        return math.fsum(row.total_s for row in self._rows(at)) / self.dense.latency_s


def _named(group: Group) -> str:
    """Name a group by its layers."""
    shown = ", ".join(group.layers[:_N_LAYERS]) or group.name
    rest = len(group.layers) - _N_LAYERS
    return f"{shown} and {rest} more" if rest > 0 else shown


def _tiling(row: TaskRow) -> str:
    """Write a split of the loop over channels, with the channels that one iteration computes."""
    factors = "x".join(map(str, row.tile_factors))
    return f"{factors} of {row.lanes} lanes" if row.lanes > 1 else factors


def _channels(number: int) -> str:
    return _counted(number, "channel")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
