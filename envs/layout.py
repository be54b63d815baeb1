"""What of an observation depends only on which subgraphs share a task, and not on widths or
latencies.

Worked out once for each such sharing: most steps of an episode narrow groups and leave it as it
was. Called by
`envs.observation` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.network import Network
from cprune_rl.core.subgraph_table import TaskRow

__all__ = ["Layout"]

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Layout:
    """The rows of a table as matrices over `n` rows, `n_groups` groups and `n_units` units of the
    loss model.

    Attributes:
        membership: `(n, n_units)` 1 where changes of the row touch the unit.
        members: `(n,)` units that they touch, at least 1.
        written: `(n, n_groups)` times kept ratios: the mean kept ratio of the groups that the row
            writes.
        read: `(n, n_groups)` times kept ratios: the same of the groups that it reads.
        whole: `(n, 2)` kept ratio read and written where no group decides it: 1, else 0.
        weight: `(n,)` subgraphs that share the task.
        facts: `(n, 6)` groups, depthwise, dense, 3x3, stride and height as the observation shows
            them.
    """

    membership: Matrix
    members: Matrix
    written: Matrix
    read: Matrix
    whole: Matrix
    weight: Matrix
    facts: Matrix

    @staticmethod
    def of(
        network: Network, rows: Sequence[TaskRow], units: Sequence[tuple[int, ...]], n_units: int
    ) -> Layout:
        """Reads a table's rows.

        Args:
            network: of the table.
            rows: of the table.
            units: that changes of each row touch.
            n_units: of the loss model.
        """
        n, n_groups = len(rows), len(network.groups)
        membership, written, read = (
            np.zeros((n, n_units)),
            np.zeros((n, n_groups)),
            np.zeros((n, n_groups)),
        )
        for r, row in enumerate(rows):
            membership[r, list(units[r])] = 1.0
            written[r, list(row.groups)] = 1.0
            read[
                r, [g for g in network.touched_groups[row.subgraphs[0]] if g not in row.groups]
            ] = 1.0
        n_written, n_read = written.sum(axis=1), read.sum(axis=1)
        operators = [row.workload.operator for row in rows]
        facts = np.array(
            [
                (
                    o.name == "depthwise",
                    o.name == "dense",
                    o.kernel == 3,
                    o.stride - 1,
                    np.log2(max(o.height, 1)) / 3,
                )
                for o in operators
            ],
            float,
        )
        return Layout(
            membership,
            np.maximum(membership.sum(axis=1), 1),
            written / np.maximum(n_written, 1)[:, None],
            read / np.maximum(n_read, 1)[:, None],
            np.stack([n_read == 0, n_written == 0], axis=1).astype(float),
            np.array([row.weight for row in rows], float),
            np.concatenate([n_written[:, None] / 3, facts], axis=1),
        )
