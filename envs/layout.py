"""What of an observation depends only on which subgraphs share a task, and not on widths or latencies.

Worked out once for each such sharing: most steps of an episode narrow groups and leave it as it was. Called by
`envs.observation` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cprune_rl.table import Network, TaskRow

__all__ = ["Layout"]

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Layout:
    """The rows of a table as matrices over `n` rows and `n_groups` groups.

    Attributes:
        membership: `(n, n_groups)` 1 where the row writes the group.
        members: `(n,)` groups that the row writes, at least 1.
        written: `(n, n_groups)` times kept ratios: the mean kept ratio of the groups that the row writes.
        read: `(n, n_groups)` times kept ratios: the same of the groups that it reads.
        whole: `(n, 2)` kept ratio read and written where no group decides it: 1, else 0.
        weight: `(n,)` subgraphs that share the task.
        facts: `(n, 6)` groups, depthwise, dense, 3x3, stride and height as the observation shows them.
    """

    membership: Matrix
    members: Matrix
    written: Matrix
    read: Matrix
    whole: Matrix
    weight: Matrix
    facts: Matrix

    @staticmethod
    def of(network: Network, rows: Sequence[TaskRow]) -> Layout:
        """Reads a table's rows."""
        n, n_groups = len(rows), len(network.groups)
        membership, read = np.zeros((n, n_groups)), np.zeros((n, n_groups))
        for r, row in enumerate(rows):
            membership[r, list(row.groups)] = 1.0
            read[r, [g for g in network.touched_groups[row.subgraphs[0]] if g not in row.groups]] = 1.0
        n_written, n_read = membership.sum(axis=1), read.sum(axis=1)
        members = np.maximum(n_written, 1)
        operators = [row.workload.operator for row in rows]
        facts = np.array([(o.name == "depthwise", o.name == "dense", o.kernel == 3, o.stride - 1, np.log2(max(o.height, 1)) / 3) for o in operators], float)
        return Layout(
            membership,
            members,
            membership / members[:, None],
            read / np.maximum(n_read, 1)[:, None],
            np.stack([n_read == 0, n_written == 0], axis=1).astype(float),
            np.array([row.weight for row in rows], float),
            np.concatenate([n_written[:, None] / 3, facts], axis=1),
        )
