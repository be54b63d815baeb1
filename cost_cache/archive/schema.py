"""The lines of an archive: each is checked against these before anything is believed.

An archive may come from anywhere. Texts have a bounded length; numbers are finite and in a range
that every database takes. A schedule is a trace of listed instructions (`safe_traces`) whose digest
is its name. Nothing is unpickled, and nothing is run.

Names on disk are those of format 1: 0.2 called a schedule a program, and a tuning key a recipe.
Where Python has another name, the one on disk is the field's alias.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    model_validator,
)

from cprune_rl.cost_cache.archive.safe_traces import trace_problem

__all__ = [
    "LINES",
    "MAX_LINE_BYTES",
    "AccuracyLine",
    "ContentLine",
    "EndLine",
    "Header",
    "Kind",
    "OperatorFields",
    "ProvenanceFields",
    "ScheduleLine",
    "TrialLine",
    "TuningLine",
    "WorkloadLine",
    "digest_fits",
]

MAX_LINE_BYTES = 8 * 2**20
_DIGEST = re.compile(r"[0-9a-f]{20}")


def _has_no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character")
    return text


def _is_safe_trace(text: str) -> str:
    if problem := trace_problem(text):
        raise ValueError(problem)
    return text


Kind = Literal["workload", "program", "trial", "tuning", "accuracy"]
Name = Annotated[str, Field(max_length=2000), AfterValidator(_has_no_nul)]
Text = Annotated[str, Field(max_length=MAX_LINE_BYTES), AfterValidator(_has_no_nul)]
Count = Annotated[int, Field(ge=0, lt=2**62)]
SmallCount = Annotated[int, Field(ge=0, lt=2**31)]
Seconds = Annotated[float, Field(ge=0, lt=1e11)]  # a duration, or a moment since the epoch
SampleSeconds = Annotated[float, Field(gt=0, lt=1e6)]


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ProvenanceFields(_Fields):
    """Who measured."""

    version: Name
    processor: Name
    os: Name
    python: Name


class OperatorFields(_Fields):
    """A `core.workload.OperatorKind`."""

    name: Name
    kernel: SmallCount
    stride: SmallCount
    height: SmallCount


class Header(_Fields):
    """The first line: what the file is, and how much of everything follows."""

    kind: Literal["cprune-rl recording"] = "cprune-rl recording"
    format: Literal[1] = 1
    created: Seconds
    writer: ProvenanceFields
    contexts: Annotated[list[Name], Field(max_length=10_000)]
    provenances: Annotated[list[ProvenanceFields], Field(max_length=10_000)]
    counts: dict[Kind, Count]


class WorkloadLine(_Fields):
    """A `core.workload.Workload`."""

    kind: Literal["workload"] = "workload"
    key: Text
    family: Text
    channels_in: Count
    channels_out: Count
    macs: Count
    operator: OperatorFields


class ScheduleLine(_Fields):
    """A schedule trace under its digest, or under a plain name, as the reference workload's is."""

    kind: Literal["program"] = "program"
    digest: Name
    trace: Annotated[Text, AfterValidator(_is_safe_trace)]

    @model_validator(mode="after")
    def _digest_fits(self) -> ScheduleLine:
        if not digest_fits(self.digest, self.trace):
            raise ValueError(f"the schedule is not the one that {self.digest} names")
        return self


class TrialLine(_Fields):
    """One schedule timed on one workload.

    Context and provenance are positions in the header's lists.
    """

    kind: Literal["trial"] = "trial"
    context: SmallCount
    workload: Text
    trace_digest: Name = Field(alias="program")
    provenance: SmallCount
    samples_s: Annotated[list[SampleSeconds], Field(max_length=100_000)]
    error: Text | None
    reference_s: Seconds
    created: Seconds


class TuningLine(_Fields):
    """A way of tuning that was completed."""

    kind: Literal["tuning"] = "tuning"
    context: SmallCount
    workload: Text
    tuning_key: Name = Field(alias="recipe")
    trace_digests: Annotated[list[Name], Field(max_length=100_000)] = Field(alias="programs")
    seconds: Seconds
    created: Seconds


class AccuracyLine(_Fields):
    """An oracle's answer."""

    kind: Literal["accuracy"] = "accuracy"
    key: Name
    value: float
    standard_error: float
    n_images: SmallCount
    cost_s: Seconds
    created: Seconds


class EndLine(_Fields):
    """The last line: SHA-256 of all bytes before it."""

    kind: Literal["end"] = "end"
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


ContentLine = WorkloadLine | ScheduleLine | TrialLine | TuningLine | AccuracyLine
LINES: TypeAdapter[ContentLine | EndLine] = TypeAdapter(
    Annotated[ContentLine | EndLine, Field(discriminator="kind")]
)


def digest_fits(digest: str, trace: str) -> bool:
    """Whether a digest is that of the trace; a plain name fits any."""
    if _DIGEST.fullmatch(digest) is None:
        return True
    return hashlib.sha256(trace.encode()).hexdigest()[:20] == digest
