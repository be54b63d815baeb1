"""A user's own function by name, `file.py:function` or `package.module:function`.

Networks and data sets may be named so.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from cprune_rl.core.folders import expanded
from cprune_rl.errors import ConfigError

__all__ = ["is_factory", "load_factory"]


def is_factory(name: str) -> bool:
    """Whether a name means a user's function, not something registered."""
    module, colon, function = name.rpartition(":")
    if not colon or not function.isidentifier():
        return False
    if module.endswith(".py"):
        return True
    return "." in module and all(part.isidentifier() for part in module.split("."))


def load_factory(kind: str, name: str) -> Callable[..., Any]:
    """The function behind a name. Its module is imported: this runs code, which is the user's own.

    Args:
        kind: what it is for, in errors: "model" or "data".
        name: `file.py:function` or `package.module:function`.

    Raises:
        ConfigError: there is no such file, module or function, or importing it fails.
    """
    module_name, _, function_name = name.rpartition(":")
    is_file = module_name.endswith(".py")
    try:
        module = _from_file(Path(module_name)) if is_file else _from_package(module_name)
    except FileNotFoundError as error:
        raise ConfigError(f"{kind} {name!r}: {error}") from error
    except Exception as error:  # the user's own module raises anything
        raise ConfigError(
            f"{kind} {name!r}: importing {module_name} fails: {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigError(
            f"{kind} {name!r}: {module_name} has no function {function_name!r}. "
            f"It has: {', '.join(_function_names(module)) or 'none'}."
        )
    return function  # type: ignore[no-any-return]  # whatever the user wrote


def _function_names(module: ModuleType) -> list[str]:
    """What a module defines itself, and does not import."""
    return sorted(
        name
        for name, value in vars(module).items()
        if callable(value)
        and not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
    )


def _from_package(name: str) -> ModuleType:
    """An installed package, or one in the working folder, as `python -m` finds it."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


def _from_file(path: Path) -> ModuleType:
    path = expanded(path).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    name = f"cprune_rl_user.{path.stem}_{abs(hash(path)):x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles of the user's look their module up
    sys.path.insert(0, str(path.parent))  # a file imports its neighbours, as a script does
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module
