"""The parameters of a Relax function that is emitted anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from tvm import relax

from cprune_rl.compiler.export.fused_calls import shape_of
from cprune_rl.compiler.kernels.implementations import Implementation

__all__ = ["DerivedParameter", "ParameterTable"]


@dataclass(frozen=True, kw_only=True)
class DerivedParameter:
    """A parameter that is computed from a trained one, at build time.

    Attributes:
        source: name of the trained parameter.
        compute: the value, from the source's.
        logical_shape: what a task's key says of it: its source's shape where it is packed, else
            its own.
        is_packed: whether it is an argument of one of this project's implementations.
        prune: for a layer that is pruned by a scheme: keeps as many entries of any weights as the
            layer keeps. A trial reads such weights.
    """

    source: str
    compute: Callable[[NDArray[Any]], NDArray[Any]]
    logical_shape: tuple[int, ...]
    is_packed: bool = False
    prune: Callable[[NDArray[Any]], NDArray[Any]] | None = None


class ParameterTable:
    """The parameters of a function while it is emitted anew.

    Attributes:
        variables: the parameters, in order.
        derived: those that are computed from others, by name.
    """

    def __init__(self) -> None:
        self.variables: list[Any] = []
        self.derived: dict[str, DerivedParameter] = {}
        self._constants: set[Any] = set()

    def add_image(self, image: Any) -> Any:
        """Add the image, which alone is not known at build time."""
        return self._add(image.name, shape_of(image), image.ty.dtype)

    def add_weights(self, weights: Any, shape: tuple[int, ...]) -> Any:
        """Add trained weights at another shape."""
        return self._add_constant(weights.name, shape, weights.ty.dtype)

    def add_moved(
        self,
        name: str,
        source: Any,
        shape: tuple[int, ...],
        move: Callable[[NDArray[Any]], NDArray[Any]],
    ) -> Any:
        """Add a parameter that is another one reshaped or transposed.

        Args:
            name: of the new parameter.
            source: may itself be computed.
            shape: of the new parameter.
            move: makes its value from the source's.
        """
        first = self.derived.get(source.name)
        self.derived[name] = DerivedParameter(
            source=source.name if first is None else first.source,
            compute=move if first is None else lambda value: move(first.compute(value)),
            logical_shape=shape,
        )
        return self._add_constant(name, shape, source.ty.dtype)

    def add_packed(self, weights: Any, implementation: Implementation) -> list[Any]:
        """Add the arguments that an implementation computes from trained weights."""
        added = []
        for packing in implementation.packings:
            name = f"{weights.name}_{packing.suffix}"
            self.derived[name] = DerivedParameter(
                source=weights.name,
                compute=packing.compute,
                logical_shape=shape_of(weights),
                is_packed=True,
                prune=implementation.prune,
            )
            dtype = packing.dtype or weights.ty.dtype
            added.append(self._add_constant(name, packing.shape, dtype))
        return added

    def is_constant(self, value: Any) -> bool:
        """Whether a value is a parameter that is known at build time."""
        return value in self._constants

    def source_of(self, parameter: Any) -> Any:
        """Return the trained parameter that a parameter is, or is computed from."""
        derived = self.derived.get(parameter.name)
        name = parameter.name if derived is None else derived.source
        return next(variable for variable in self.variables if variable.name == name)

    def _add_constant(self, name: str, shape: tuple[int, ...], dtype: str) -> Any:
        variable = self._add(name, shape, dtype)
        self._constants.add(variable)
        return variable

    def _add(self, name: str, shape: tuple[int, ...], dtype: str) -> Any:
        variable = relax.Var(name, relax.TensorType(list(shape), dtype))
        self.variables.append(variable)
        return variable
