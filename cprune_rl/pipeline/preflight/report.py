"""What a preflight check found, as records that a table, a page and JSON are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Finding", "NetworkReport", "Status"]

Status = Literal["ok", "warning", "failed"]
"""`failed` stops a run. `warning` does not, but costs speed, accuracy or prunable layers."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: was looked at, in a few words.
        found: what came out, and what to do where something is wrong.
    """

    what: str
    found: str
    status: Status = "ok"


@dataclass(frozen=True, kw_only=True)
class NetworkReport:
    """All that a check found of one network.

    Attributes:
        network: name, as `--model` takes it.
        input_shape: of one image, `(channels, height, width)` of images.
        n_classes: logits.
        findings: in the order in which they were found.
        groups: channels of each group that can be pruned, by its name.
        prunable_layers: layers with weights whose channels can go.
        layers: convolutions and linear layers.
        left_whole: layers that keep all channels, with the reason.
        forms: in which the network can be compiled.
        n_tasks: unique tasks of the dense network, in all forms.
        n_rows: subgraphs, each a row of the table that an agent sees.
        minutes: a rough guess at those of `cprune-rl prune` on this device, by effort; empty where
            nothing was timed.
    """

    network: str
    input_shape: tuple[int, ...]
    n_classes: int
    findings: tuple[Finding, ...]
    groups: Mapping[str, int] = dataclasses.field(default_factory=dict)
    prunable_layers: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    left_whole: Mapping[str, str] = dataclasses.field(default_factory=dict)
    forms: tuple[str, ...] = ()
    n_tasks: int = 0
    n_rows: int = 0
    minutes: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def passes(self) -> bool:
        """Whether nothing failed."""
        return all(finding.status != "failed" for finding in self.findings)

    @property
    def first_failure(self) -> Finding | None:
        """What failed first; later failures may follow from it."""
        failed = (finding for finding in self.findings if finding.status == "failed")
        return next(failed, None)

    def as_json(self) -> dict[str, Any]:
        """Give values that JSON can hold."""
        return {"passes": self.passes, **dataclasses.asdict(self)}
