"""What a network is to a search: groups, subgraphs, and the plans that change them.

Plain values: a recorded problem, an environment and a policy need no compiler and no torch.
Lowering makes a `Network`; everything downstream reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter

from cprune_rl.core.scheme import PATTERN_KERNEL, Scheme
from cprune_rl.core.workload import Subgraph, Workload
from cprune_rl.errors import PlanError

__all__ = ["Group", "Network", "Plan"]

_NO_SCHEMES: dict[int, Scheme] = {}
_MAX_CHECKED_SCHEMES = (
    4096  # plans whose schemes are remembered: a search asks for few of them again
)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Channels that are pruned together.

    Attributes:
        name: the layer that the dependency analysis found it at.
        channels: width in the dense network. Where channels only go in units, as the groups of a
            grouped convolution do, it is the number of units.
        minimum: width below which it is not pruned.
        layers: layers that write these channels.
    """

    name: str
    channels: int
    minimum: int
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What is kept. With the network, it is the whole state of an episode.

    Attributes:
        widths: channels kept, in the order of `Network.groups`.
        schemes: scheme of each layer that is not dense, as `(layer, scheme)`; sorted, so that equal
            plans are equal.
    """

    widths: tuple[int, ...]
    schemes: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.schemes:
            object.__setattr__(self, "schemes", tuple(sorted(self.schemes)))

    def with_width(self, group: int, width: int) -> Plan:
        """The same with another width of the group at a position."""
        return replace(self, widths=(*self.widths[:group], width, *self.widths[group + 1 :]))


@dataclass(frozen=True, kw_only=True)
class Network:
    """A lowered network: what a search may change, and what that does to the tasks.

    Attributes:
        name: the model's name.
        groups: what can be pruned.
        subgraphs: every occurrence of every task, in the order of execution.
        unprunable: layers left whole, with the reason.
    """

    name: str
    groups: tuple[Group, ...]
    subgraphs: tuple[Subgraph, ...]
    unprunable: tuple[tuple[str, str], ...] = ()

    @cached_property
    def group_index(self) -> dict[str, int]:
        """Position of each group by name."""
        return {g.name: i for i, g in enumerate(self.groups)}

    @cached_property
    def dense(self) -> Plan:
        """The plan that keeps everything."""
        return Plan(tuple(g.channels for g in self.groups))

    def uniform(self, ratio: float) -> Plan:
        """The plan that keeps the same share of every group, no less than its minimum."""
        return Plan(tuple(max(g.minimum, round(g.channels * ratio)) for g in self.groups))

    def widths(self, plan: Plan) -> dict[str, int]:
        """Width of each group by name.

        Raises:
            PlanError: the plan has another number of groups, or a width outside its group.
        """
        if len(plan.widths) != len(self.groups):
            raise PlanError(
                f"the plan has {len(plan.widths)} groups, {self.name} has {len(self.groups)}"
            )
        for group, width in zip(self.groups, plan.widths, strict=True):
            if not 1 <= width <= group.channels:
                raise PlanError(
                    f"group {group.name!r} of {self.name} has 1 to {group.channels} channels, "
                    f"the plan keeps {width}"
                )
        return {g.name: w for g, w in zip(self.groups, plan.widths, strict=True)}

    @cached_property
    def touched_groups(self) -> tuple[tuple[int, ...], ...]:
        """For each subgraph the positions of the groups that its shape depends on."""
        touched = []
        for subgraph in self.subgraphs:
            extents = (*subgraph.extents, subgraph.channels_in, subgraph.channels_out)
            names = {name for extent in extents for name, _ in extent.terms}
            touched.append(self._positions(names))
        return tuple(touched)

    @cached_property
    def written_groups(self) -> tuple[tuple[int, ...], ...]:
        """For each subgraph the positions of the groups that its layers produce."""
        return tuple(self._positions(subgraph.writes) for subgraph in self.subgraphs)

    def _positions(self, groups: Iterable[str]) -> tuple[int, ...]:
        return tuple(sorted(self.group_index[name] for name in groups))

    @cached_property
    def channel_multipliers(self) -> tuple[Mapping[int, int], ...]:
        """For each subgraph, by position of a group, channels written for each of the group's."""
        multipliers = []
        for subgraph in self.subgraphs:
            terms = subgraph.channels_out.terms
            multipliers.append({self.group_index[name]: by for name, by in terms})
        return tuple(multipliers)

    def shaped_by(self, groups: tuple[int, ...]) -> tuple[int, ...]:
        """Positions of the subgraphs whose shape depends on any of some groups, ascending."""
        shaped = self._shaped_by.get(groups)
        if shaped is None:
            touched = enumerate(self.touched_groups)
            shaped = tuple(at for at, by in touched if not set(groups).isdisjoint(by))
            self._shaped_by[groups] = shaped
        return shaped

    @cached_property
    def _shaped_by(self) -> dict[tuple[int, ...], tuple[int, ...]]:
        return {}

    @cached_property
    def scheme_layers(self) -> dict[str, int]:
        """The layers that a scheme may prune, with the positions of their subgraphs."""
        subgraphs = enumerate(self.subgraphs)
        return {s.block_sparse.layer: at for at, s in subgraphs if s.block_sparse is not None}

    @cached_property
    def layer_index(self) -> dict[str, int]:
        """Position of each of `scheme_layers` by name."""
        return {layer: at for at, layer in enumerate(self.scheme_layers)}

    @cached_property
    def layer_channels(self) -> tuple[int, ...]:
        """Channels that each of `scheme_layers` writes in the dense network."""
        dense = self.widths(self.dense)
        subgraphs = [self.subgraphs[at] for at in self.scheme_layers.values()]
        return tuple(subgraph.channels_out.at(dense) for subgraph in subgraphs)

    def has_3x3_kernels(self, subgraph: int) -> bool:
        """Whether a scheme can keep whole 3x3 kernels or patterns of a subgraph's layer."""
        block_sparse = self.subgraphs[subgraph].block_sparse
        return (
            block_sparse is not None
            and block_sparse.entries == PATTERN_KERNEL
            and self.subgraphs[subgraph].template.operator.kernel == 3
        )

    def schemes(self, plan: Plan) -> dict[int, Scheme]:
        """The schemes of a plan by the positions of their subgraphs.

        Raises:
            PlanError: the plan prunes a layer by a scheme that cannot prune it, or its text is no
                scheme.
        """
        schemes = self._checked_schemes.get(plan.schemes)
        if schemes is None:
            if len(self._checked_schemes) >= _MAX_CHECKED_SCHEMES:
                self._checked_schemes.clear()
            schemes = self._checked_schemes[plan.schemes] = self._check_schemes(plan)
        return schemes

    @cached_property
    def _checked_schemes(self) -> dict[tuple[tuple[str, str], ...], dict[int, Scheme]]:
        return {}

    def _check_schemes(self, plan: Plan) -> dict[int, Scheme]:
        schemes = {}
        for layer, text in plan.schemes:
            if layer not in self.scheme_layers:
                raise PlanError(
                    f"layer {layer!r} of {self.name} cannot be pruned by a scheme: "
                    f"{', '.join(self.scheme_layers) or 'none'} can"
                )
            at = self.scheme_layers[layer]
            schemes[at] = Scheme.parse(text)
            if schemes[at].kind != "block" and not self.has_3x3_kernels(at):
                raise PlanError(
                    f"layer {self.subgraphs[at].name!r} of {self.name} has no 3x3 kernels: "
                    f"{schemes[at]} cannot prune it"
                )
        return schemes

    def schemes_by_layer(self, plan: Plan) -> dict[str, Scheme]:
        """The schemes of a plan by the names of their layers; raises what `schemes` raises."""
        self.schemes(plan)
        return {layer: Scheme.parse(text) for layer, text in plan.schemes}

    def workloads_of(self, subgraphs: Iterable[int], plan: Plan) -> list[Workload]:
        """The tasks that some subgraphs are by a plan, remembered because searches ask again."""
        caches = self._workload_caches
        plan_widths = plan.widths
        schemes = self.schemes(plan) if plan.schemes else _NO_SCHEMES
        workloads = []
        for subgraph in subgraphs:
            select, cache = caches[subgraph]
            scheme = schemes.get(subgraph)
            key = select(plan_widths) if scheme is None else (select(plan_widths), scheme)
            workload = cache.get(key)
            if workload is None:
                workload = self.subgraphs[subgraph].workload(self.widths(plan), scheme)
                cache[key] = workload
            workloads.append(workload)
        return workloads

    @cached_property
    def _workload_caches(
        self,
    ) -> tuple[tuple[Callable[[tuple[int, ...]], object], dict[object, Workload]], ...]:
        """For each subgraph, what selects the widths that shape it, and its tasks by those widths.

        Where a scheme prunes the layer, it is part of the key.
        """
        return tuple(
            (itemgetter(*groups) if groups else _no_width, {}) for groups in self.touched_groups
        )

    def workload(self, subgraph: int, plan: Plan) -> Workload:
        """The task that one subgraph is by a plan."""
        return self.workloads_of((subgraph,), plan)[0]

    def workloads(self, plan: Plan) -> list[Workload]:
        """The task of each subgraph, in the order of `subgraphs`."""
        return self.workloads_of(range(len(self.subgraphs)), plan)

    def macs(self, plan: Plan) -> int:
        """Multiply-accumulates of the whole network."""
        return sum(w.macs for w in self.workloads(plan))


def _no_width(_: tuple[int, ...]) -> None:
    """Selects no width: the subgraph has one shape."""
