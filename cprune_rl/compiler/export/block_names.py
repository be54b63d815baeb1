"""Names of a function's blocks that do not depend on the network it was found in.

TVM calls a reduction after the tensor that it reads, which is numbered by where it stands in the
network: `lv36_red`. A
program names the blocks that it schedules, so one that was found in another network would not apply
to the same task.
Called by `workload`, for functions, and by `program`, for traces that were kept before.
"""

from __future__ import annotations

import re
from typing import Any

import tvm

__all__ = ["rename_reduction_blocks", "rename_traced_blocks"]

_NUMBERED = re.compile(r'"(\w+_red)"')


def rename_reduction_blocks(module: tvm.IRModule) -> tvm.IRModule:
    """A module whose functions call their reductions `reduced`, `reduced_1` and so on, in order."""
    for variable, function in module.functions.items():
        if isinstance(function, tvm.tirx.PrimFunc) and _NUMBERED.search(
            text := tvm.ir.save_json(function)
        ):
            names: dict[str, str] = {}

            def rename(match: re.Match[str], names: dict[str, str] = names) -> str:
                return f'"{_plain(match[1], names)}"'

            module.update_func(variable, tvm.ir.load_json(_NUMBERED.sub(rename, text)))
    return module


def rename_traced_blocks(instructions: list[Any]) -> list[Any]:
    """Instructions of a trace with the same names for the blocks that they ask for."""
    names: dict[str, str] = {}
    return [[kind, inputs, [_plain(attributes[0], names), *attributes[1:]], *rest] if kind == "GetSBlock" and _is_numbered(attributes) else [kind, inputs, attributes, *rest]
            for kind, inputs, attributes, *rest in instructions]  # fmt: skip


def _is_numbered(attributes: Any) -> bool:
    return bool(attributes) and isinstance(attributes[0], str) and attributes[0].endswith("_red")


def _plain(name: str, names: dict[str, str]) -> str:
    return names.setdefault(name, f"reduced_{len(names)}" if names else "reduced")
