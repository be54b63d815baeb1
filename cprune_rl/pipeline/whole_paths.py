"""Makes the paths in options absolute: a run folder is read from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["DATA_FROM_PATHS", "with_whole_paths"]

DATA_FROM_PATHS = ("npz", "cifar10", "fashion-mnist", "imagefolder")
"""Kinds of data whose argument is a path."""
_FOLDERS_OR_NAMES = ("policy", "init", "scheme_policy")
_NAMES_WITH_PATHS = ("model", "data", "task")
_PATHS = ("weights", "cache")


def with_whole_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give options with absolute paths.

    Args:
        values: options by name, as a user gave them.
    """
    whole = dict(values)
    for name in _FOLDERS_OR_NAMES:
        if isinstance(whole.get(name), str) and Path(whole[name]).expanduser().is_dir():
            whole[name] = str(Path(whole[name]).expanduser().resolve())
    for name in _NAMES_WITH_PATHS:
        if isinstance(whole.get(name), str):
            whole[name] = _with_whole_path(whole[name])
    for name in _PATHS:
        if whole.get(name) is not None:
            whole[name] = Path(whole[name]).expanduser().resolve()
    return whole


def _with_whole_path(name: str) -> str:
    """Make the path in `npz:mine.npz` or `mynet.py:build` absolute."""
    left, mark, options = name.partition("?")
    first, colon, second = left.rpartition(":") if ".py:" in left else left.partition(":")
    if first.endswith((".py", ".onnx")):
        first = str(Path(first).expanduser().resolve())
    elif first in DATA_FROM_PATHS and second and Path(second).expanduser().exists():
        second = str(Path(second).expanduser().resolve())
    return f"{first}{colon}{second}{mark}{options}"
