"""Schemes: fine-grained structured pruning of a layer, such as `block(8,0.25)`.

The output channels of a convolution or of a fully connected layer go in blocks. Each block keeps
entries of its own, (input channel, row, column), and each keeps the same number. So a compiled
layer is regular: for each block a table of what it reads, and weights for that alone. A block of 1
is unstructured pruning; a block of all channels prunes input channels.

- `pattern(4,0.44)`: each 3x3 kernel keeps four of its nine entries, in one of a few patterns, or
  nothing (Niu et al., ASPLOS 2020).
- `kernel(16,0.25)`: each block keeps whole 3x3 kernels. Winograd's filtering can still compute what
  is left of them, so this pruning begins with the fastest dense form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from cprune_rl.errors import PlanError

__all__ = ["KINDS", "MAX_PATTERN_DENSITY", "PATTERN_ENTRIES", "PATTERN_KERNEL", "Scheme"]

KINDS = ("block", "kernel", "pattern")
PATTERN_ENTRIES = 4  # that a kernel keeps, if it is kept
PATTERN_KERNEL = 9  # entries of a 3x3 kernel
MAX_PATTERN_DENSITY = PATTERN_ENTRIES / PATTERN_KERNEL  # every kernel keeps its pattern
_TEXT = re.compile(rf"({'|'.join(KINDS)})\((\d{{1,9}}),(0\.\d{{1,20}}|1(?:\.0)?)\)")


@dataclass(frozen=True)
class Scheme:
    """How a layer is pruned within its channels.

    Attributes:
        kind: of `KINDS`.
        block: output channels that keep the same entries.
        density: share of entries that are kept, in (0, 1]; of patterns in (0, 4/9].

    Raises:
        PlanError: it is none.
    """

    kind: str
    block: int
    density: float

    def __post_init__(self) -> None:
        max_density = MAX_PATTERN_DENSITY if self.kind == "pattern" else 1.0
        if self.kind not in KINDS or self.block < 1 or not 0 < self.density <= max_density:
            raise PlanError(
                f"{self} is no scheme: a kind of {', '.join(KINDS)}, a block of 1 channel or more, "
                "a density in (0, 1], of patterns in (0, 4/9]"
            )

    def __str__(self) -> str:
        return f"{self.kind}({self.block},{self.density:.5g})"

    @staticmethod
    @lru_cache(maxsize=4096)
    def parse(text: str) -> Scheme:
        """The inverse of `str`.

        Raises:
            PlanError: it is none.
        """
        parts = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if parts is None:
            raise PlanError(
                f"{text!r} is no scheme: write e.g. block(8,0.25), 8 output channels to a block, "
                "a quarter of the entries kept"
            )
        return Scheme(parts[1], int(parts[2]), float(parts[3]))

    def n_kept(self, n_entries: int) -> int:
        """Entries that each block keeps: at least one entry, kernel of nine or pattern of four.

        Args:
            n_entries: input channels times height times width of the kernel.
        """
        if self.kind == "pattern":
            n_patterns = round(n_entries * self.density / PATTERN_ENTRIES)
            return PATTERN_ENTRIES * max(1, min(n_patterns, n_entries // PATTERN_KERNEL))
        if self.kind == "kernel":
            return PATTERN_KERNEL * max(1, round(n_entries * self.density / PATTERN_KERNEL))
        return max(1, round(n_entries * self.density))
