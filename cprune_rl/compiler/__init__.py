"""Everything that imports tvm: lowering, programs, devices, tuning and deployment."""

import os
import tempfile
from pathlib import Path


def _import_tvm_without_a_home() -> None:
    """Import tvm where the user is a number alone: it looks for a home folder as it is loaded."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.gettempdir()
        try:
            import tvm  # noqa: F401  # once loaded, it asks no more
        finally:
            del os.environ["HOME"]


_import_tvm_without_a_home()
