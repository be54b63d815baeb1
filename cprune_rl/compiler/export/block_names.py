"""Block names that do not depend on the network that a function was found in.

TVM calls a reduction after the tensor that it reads, and numbers that by its place in the network:
`lv36_red`. A trace names the blocks that it schedules, so one from another network would not apply
to the same task.
"""

from __future__ import annotations

import re
from typing import Any

import tvm

__all__ = ["rename_reduction_blocks", "rename_traced_blocks"]

_NUMBERED = re.compile(r'"(\w+_red)"')


def rename_reduction_blocks(module: tvm.IRModule) -> tvm.IRModule:
    """Rename the reductions of each function: `reduced`, `reduced_1` and so on, in order."""
    for variable, function in module.functions.items():
        if not isinstance(function, tvm.tirx.PrimFunc):
            continue
        text = tvm.ir.save_json(function)
        if _NUMBERED.search(text):
            module.update_func(variable, tvm.ir.load_json(_renamed(text)))
    return module


def _renamed(text: str) -> str:
    names: dict[str, str] = {}
    return _NUMBERED.sub(lambda match: f'"{_renumbered(match[1], names)}"', text)


def rename_traced_blocks(instructions: list[Any]) -> list[Any]:
    """Give the blocks that a trace's instructions ask for the names of `rename_reduction_blocks`.

    Traces that were kept before have the numbered ones.
    """
    names: dict[str, str] = {}
    renamed = []
    for kind, inputs, attributes, *rest in instructions:
        if kind == "GetSBlock" and _is_numbered(attributes):
            attributes = [_renumbered(attributes[0], names), *attributes[1:]]
        renamed.append([kind, inputs, attributes, *rest])
    return renamed


def _is_numbered(attributes: Any) -> bool:
    return bool(attributes) and isinstance(attributes[0], str) and attributes[0].endswith("_red")


def _renumbered(name: str, names: dict[str, str]) -> str:
    """Return the new name of a block, by the order of first use; `names` keeps it."""
    return names.setdefault(name, f"reduced_{len(names)}" if names else "reduced")
