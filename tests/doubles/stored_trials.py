"""Trials of a cost cache, in one line each."""

from typing import Any

from cprune_rl.core.protocols import Measurement
from cprune_rl.core.workload import OperatorKind, Workload
from cprune_rl.cost_cache import StoredTrial

CONV = Workload(
    key="conv",
    family="conv3x3",
    channels_in=3,
    channels_out=8,
    macs=216,
    operator=OperatorKind(name="conv2d", kernel=3, stride=1, height=8),
)


def trial(
    workload: str, trace_digest: str, *samples_s: float, error: str | None = None, **others: Any
) -> StoredTrial:
    """A trial of a schedule without instructions, unless `trace_json` says otherwise."""
    values = {"trace_json": "[]", "measurement": Measurement(samples_s, error), **others}
    return StoredTrial(workload=workload, trace_digest=trace_digest, **values)
