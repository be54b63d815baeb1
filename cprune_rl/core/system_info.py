"""This machine and the versions on it, for run folders and recordings."""

from __future__ import annotations

import platform
import re
import shlex
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

__all__ = ["command_line", "describe_system", "now_utc", "processor_model", "processor_name"]

_PACKAGES = (
    "cprune-rl",
    "torch",
    "apache-tvm",
    "apache-tvm-ffi",
    "stable-baselines3",
    "sb3-contrib",
    "gymnasium",
    "torch-pruning",
    "numpy",
)


def describe_system() -> dict[str, Any]:
    """Describe processor, cores, memory, operating system, Python and packages."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "os": _operating_system(),
        "processor": processor_name(),
        "n_cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "packages": {package: _version(package) for package in _PACKAGES},
    }


def processor_model() -> str:
    """Return the model that the processor gives itself; empty where it gives none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, names), "")


def processor_name() -> str:
    """Return the processor's model, or its architecture where it gives none."""
    return processor_model() or platform.processor() or platform.machine()


def command_line() -> str:
    """Return the command that started this process, for a file that others will read.

    Paths are cut to their last part, and passwords are left out.
    """
    return shlex.join([Path(sys.argv[0]).name, *map(_public, sys.argv[1:])])


def now_utc() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _public(argument: str) -> str:
    scheme, mark, rest = argument.partition("://")
    if not mark:
        return re.sub(r"(^|[:=])~?/(?:[^/]*/)*", r"\1", argument)
    if scheme.endswith("sqlite"):
        return f"{scheme}:///{rest.rpartition('/')[2]}"
    login, at, place = rest.rpartition("@")
    return f"{scheme}://{login.partition(':')[0]}{at}{place}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _operating_system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name} ({platform.release()})"
