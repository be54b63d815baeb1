"""Names of this project's own implementations of an operator, as a task's family carries them.

A name ends with the version of the function. Raise it where the function changes, or how it is
timed: trials of the old one would count for the new one.
"""

from __future__ import annotations

import re

__all__ = [
    "BLOCK_SPARSE",
    "DEPTHWISE",
    "GROUPED",
    "PACKED",
    "SPARSE_WINOGRAD",
    "WINOGRAD",
    "implementation_attribute",
    "implementation_of",
]

PACKED = "packed1"
DEPTHWISE = "depthwise1"
GROUPED = "grouped1"
WINOGRAD = "winograd2"
BLOCK_SPARSE = "block3"
SPARSE_WINOGRAD = "winogradkernel1"

# The key in the text is 0.2's: cost caches hold it.
_ATTRIBUTE = re.compile(r"form=(\w+) from ")


def implementation_attribute(name: str, data_layout: str) -> str:
    """Write an implementation, and the layout of the map that it reads, as an operator's attribute."""
    return f", form={name} from {data_layout}"


def implementation_of(family: str) -> str:
    """Read the implementation off a task's family; empty where the operator is TVM's own."""
    match = _ATTRIBUTE.search(family)
    return match[1] if match else ""
