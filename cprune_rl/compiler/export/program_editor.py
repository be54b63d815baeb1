"""An exported program whose parameters are replaced by others that are computed from them.

What depends on weights alone is known at build time. Where it is more than another shape of one
weight, and no group's width changes it, it becomes a parameter of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument

from cprune_rl.compiler.export.weight_sources import State, WeightSource
from cprune_rl.core.workload import Extent

__all__ = ["ProgramEditor", "fixed_extents"]

_aten = torch.ops.aten
# What the lowering follows to other widths by itself, and does at build time.
_LAYOUT_ONLY = {
    _aten.alias.default,
    _aten.clone.default,
    _aten.expand.default,
    _aten.permute.default,
    _aten.select.int,
    _aten.slice.Tensor,
    _aten.squeeze.dim,
    _aten.squeeze.dims,
    _aten.t.default,
    _aten.transpose.int,
    _aten.unsqueeze.default,
    _aten.view.default,
}


# Tensors of one number, which the lowering writes down by itself.
_FILLS = {_aten.full.default, _aten.scalar_tensor.default}


def fixed_extents(shape: Sequence[int]) -> tuple[Extent, ...]:
    """Give the extents of a shape that no group changes."""
    return tuple(Extent(length) for length in shape)


@dataclass(frozen=True, kw_only=True)
class _Constant:
    """A node that depends on weights alone.

    Attributes:
        source: its values.
        is_computed: whether it is more than another shape of one weight.
    """

    source: WeightSource
    is_computed: bool = False


class ProgramEditor:
    """Edits the graph of an exported program in place.

    Args:
        program: in evaluation mode, decomposed.
        axes: extents of the parameters' axes; a parameter that is missing keeps its shape.

    Attributes:
        graph: to be changed by the caller.
        sources: of the parameters, by the names of their placeholders.
    """

    def __init__(self, program: ExportedProgram, axes: Mapping[str, tuple[Extent, ...]]) -> None:
        self.graph = program.graph
        self.sources: dict[str, WeightSource] = {}
        self._program = program
        self._constants: dict[fx.Node, _Constant] = {}
        # Those that depend on nothing at all: they become a part of what is computed from weights.
        self._free: dict[fx.Node, WeightSource] = {}
        specs = program.graph_signature.input_specs
        given = {s.arg.name: s for s in specs if s.kind is not InputKind.USER_INPUT}
        for node in self.graph.find_nodes(op="placeholder"):
            if (spec := given.get(node.name)) is not None:
                source = _given(program, spec, axes)
                self.sources[node.name] = source
                self._constants[node] = _Constant(source=source)
        inputs = self.graph.find_nodes(op="placeholder")
        self._image = next(node for node in inputs if node.name not in given)

    def drop_asserts(self) -> None:
        """Erase checks of values and types: they compute nothing, and held for the example."""
        for node in list(self.graph.nodes):
            if getattr(node.target, "__name__", "").startswith("_assert") and not node.users:
                self.graph.erase_node(node)

    def find_constants(self) -> None:
        """Find the nodes that depend on weights alone and keep their shape at every width."""
        for node in self.graph.nodes:
            if node.op == "call_function" and (constant := self._constant(node)) is not None:
                self._constants[node] = constant

    def source(self, node: Any) -> WeightSource | None:
        """Give the values of a node that depends on weights alone, or on nothing; else None."""
        if node in self._free:
            return self._free[node]
        constant = self._constants.get(node)
        return None if constant is None else constant.source

    def value(self, source: WeightSource) -> torch.Tensor:
        """Compute the value that a parameter has in the network that was exported."""
        with torch.no_grad():
            return source.compute(self._program.state_dict).detach()

    def add_parameter(self, name: str, source: WeightSource) -> fx.Node:
        """Add a parameter, and give its placeholder.

        Args:
            name: of the placeholder; a number is added where it is taken.
            source: of its values.
        """
        value = nn.Parameter(self.value(source).contiguous(), requires_grad=False)
        with self.graph.inserting_before(self._image):
            node: fx.Node = self.graph.placeholder(name)
        node.target = node.name  # with a number where the name was taken
        node.meta["val"] = self._image.meta["val"].fake_mode.from_tensor(value)
        self._program.state_dict[node.name] = value
        spec = InputSpec(InputKind.PARAMETER, TensorArgument(node.name), node.name)
        specs = self._program.graph_signature.input_specs
        first_input = next(at for at, s in enumerate(specs) if s.kind is InputKind.USER_INPUT)
        specs.insert(first_input, spec)
        self.sources[node.name] = source
        self._constants[node] = _Constant(source=source)
        return node

    def call(self, operator: Callable[..., Any], *args: Any) -> fx.Node:
        """Add a call of an operator at the graph's insertion point."""
        node: fx.Node = self.graph.call_function(operator, args)
        values = fx.map_arg(args, lambda read: read.meta["val"])
        with self._image.meta["val"].fake_mode:
            node.meta["val"] = operator(*values)
        return node

    def finish(self) -> None:
        """Make parameters of what was computed from weights, and drop what nothing reads."""
        for node, constant in list(self._constants.items()):
            is_read = any(user not in self._constants for user in node.users)
            is_tensor = isinstance(node.meta["val"], torch.Tensor)
            if constant.is_computed and is_read and is_tensor:
                name = constant.source.label.replace(".", "_")
                node.replace_all_uses_with(self.add_parameter(name, constant.source))
        self._keep_free()
        self.graph.eliminate_dead_code()
        self._drop_unread_inputs()
        self.graph.lint()
        self._program.graph_module.recompile()

    def _keep_free(self) -> None:
        """Make parameters of what depends on nothing, such as the places of a map."""
        for node, source in list(self._free.items()):
            value = node.meta["val"]
            readers = [u for u in node.users if u not in self._free and u not in self._constants]
            if not readers or node.target in _FILLS or not isinstance(value, torch.Tensor):
                continue
            if value.is_floating_point():
                parameter = self.add_parameter(source.label, source)
                for reader in readers:
                    reader.replace_input_with(node, parameter)

    def _drop_unread_inputs(self) -> None:
        """Keep the inputs that are read, all weights among them as parameters."""
        placeholders = {node.name: node for node in self.graph.find_nodes(op="placeholder")}
        signature = self._program.graph_signature
        kept = []
        values = {}
        for spec in signature.input_specs:
            name = spec.arg.name
            if spec.kind is InputKind.USER_INPUT:
                kept.append(spec)
            elif not placeholders[name].users:
                self.graph.erase_node(placeholders[name])
            else:
                values[name] = nn.Parameter(self.value(self.sources[name]), requires_grad=False)
                kept.append(InputSpec(InputKind.PARAMETER, TensorArgument(name), name))
        signature.input_specs[:] = kept
        self._program.constants.clear()
        self._program.state_dict.clear()
        self._program.state_dict.update(values)

    def _constant(self, node: fx.Node) -> _Constant | None:
        inputs = node.all_input_nodes
        known = [self._constants[read] for read in inputs if read in self._constants]
        is_random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        is_known = all(read in self._constants or read in self._free for read in inputs)
        if is_random or not is_known or any(read.source.is_prunable for read in known):
            return None
        if not known:
            self._free[node] = self._computed(node, "computed")
            return None
        owner = known[0].source.label.partition(".parametrizations.")[0]
        if owner == known[0].source.label:
            owner = owner.rpartition(".")[0]
        source = self._computed(node, f"{owner}.computed" if owner else "computed")
        is_computed = node.target not in _LAYOUT_ONLY or any(read.is_computed for read in known)
        return _Constant(source=source, is_computed=is_computed)

    def _computed(self, node: fx.Node, label: str) -> WeightSource:
        extents = fixed_extents(getattr(node.meta["val"], "shape", ()))
        return WeightSource(label=label, extents=extents, compute=self._computation(node))

    def _computation(self, node: fx.Node) -> Callable[[State], Any]:
        """Give what computes a node from a state_dict; the node itself may be gone by then."""
        operator = node.target
        args = node.args
        kwargs = node.kwargs
        sources = {
            read: self._free.get(read) or self._constants[read].source
            for read in node.all_input_nodes
        }
        assert callable(operator)

        def compute(state: State) -> Any:
            values = {read: source.compute(state) for read, source in sources.items()}
            return operator(
                *fx.map_arg(args, values.__getitem__), **fx.map_arg(kwargs, values.__getitem__)
            )

        return compute


def _given(
    program: ExportedProgram, spec: InputSpec, axes: Mapping[str, tuple[Extent, ...]]
) -> WeightSource:
    """Give the source of one of the network's own weights, statistics or constants."""
    target = str(spec.target)
    if target in program.state_dict:
        shape = program.state_dict[target].shape
        extents = axes.get(target) or fixed_extents(shape)
        return WeightSource(label=target, extents=extents, compute=lambda state: state[target])
    # What is in no state_dict is the same in every network of the kind.
    value = program.constants[target].detach()
    return WeightSource(label=target, extents=fixed_extents(value.shape), compute=lambda _: value)
