"""The domain is light: values and arrays, and nothing that takes seconds to import."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import cprune_rl.core

HEAVY = ("torch", "tvm", "sqlalchemy", "sklearn", "optuna")


def test_core_imports_neither_torch_nor_compiler_nor_database() -> None:
    modules = [f"cprune_rl.core.{m.name}" for m in pkgutil.iter_modules(cprune_rl.core.__path__)]
    code = f"import sys, {', '.join(modules)}; print([m for m in {HEAVY} if m in sys.modules])"
    output = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    ).stdout
    assert output.strip() == "[]"
