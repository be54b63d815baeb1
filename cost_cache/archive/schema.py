"""The lines of a recording, as they must be:

every one is checked against these before anything is believed.

A recording comes from anywhere. Text is text of bounded length, a number is finite and in a range
that
every database takes, a program is a schedule trace of listed instructions (`traces.py`) whose
digest is its
name; nothing is unpickled and nothing is run.
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
    ValidationError,
    model_validator,
)

from cprune_rl.cost_cache.archive.safe_traces import trace_problem

__all__ = [
    "LINES", "MAX_LINE_BYTES", "AccuracyLine", "ContentLine", "EndLine", "Header", "Kind", "OperatorFields",
    "ProgramLine", "ProvenanceFields", "TrialLine", "TuningLine", "WorkloadLine", "is_program", "problem_of",
]  # fmt: skip

MAX_LINE_BYTES = 8 * 2**20
_DIGEST = re.compile(r"[0-9a-f]{20}")


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character")
    return text


def _is_trace(text: str) -> str:
    if problem := trace_problem(text):
        raise ValueError(problem)
    return text


Kind = Literal["workload", "program", "trial", "tuning", "accuracy"]
Name = Annotated[str, Field(max_length=2000), AfterValidator(_no_nul)]
Text = Annotated[str, Field(max_length=MAX_LINE_BYTES), AfterValidator(_no_nul)]
Count = Annotated[int, Field(ge=0, lt=2**62)]
SmallCount = Annotated[int, Field(ge=0, lt=2**31)]
Seconds = Annotated[float, Field(ge=0, lt=1e11)]  # a duration, or a moment since the epoch
Sample = Annotated[float, Field(gt=0, lt=1e6)]


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ProvenanceFields(_Fields):
    """Who measured."""

    version: Name
    processor: Name
    os: Name
    python: Name


class OperatorFields(_Fields):
    """See `table.OperatorKind`."""

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
    """See `table.Workload`."""

    kind: Literal["workload"] = "workload"
    key: Text
    family: Text
    channels_in: Count
    channels_out: Count
    macs: Count
    operator: OperatorFields


class ProgramLine(_Fields):
    """A program under its digest, or under a plain name (the reference workload has one)."""

    kind: Literal["program"] = "program"
    digest: Name
    trace: Annotated[Text, AfterValidator(_is_trace)]

    @model_validator(mode="after")
    def _is_what_it_is_called(self) -> ProgramLine:
        if not is_program(self.digest, self.trace):
            raise ValueError(f"the program is not the one that {self.digest} names")
        return self


class TrialLine(_Fields):
    """One program timed on one workload;

    context and provenance are positions in the header's lists.
    """

    kind: Literal["trial"] = "trial"
    context: SmallCount
    workload: Text
    program: Name
    provenance: SmallCount
    samples_s: Annotated[list[Sample], Field(max_length=100_000)]
    error: Text | None
    reference_s: Seconds
    created: Seconds


class TuningLine(_Fields):
    """A recipe carried through."""

    kind: Literal["tuning"] = "tuning"
    context: SmallCount
    workload: Text
    recipe: Name
    programs: Annotated[list[Name], Field(max_length=100_000)]
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


ContentLine = WorkloadLine | ProgramLine | TrialLine | TuningLine | AccuracyLine
LINES: TypeAdapter[ContentLine | EndLine] = TypeAdapter(
    Annotated[
        WorkloadLine | ProgramLine | TrialLine | TuningLine | AccuracyLine | EndLine,
        Field(discriminator="kind"),
    ]
)


def is_program(digest: str, trace: str) -> bool:
    """Whether a digest, where it is one, is that of the program."""
    return (
        _DIGEST.fullmatch(digest) is None
        or hashlib.sha256(trace.encode()).hexdigest()[:20] == digest
    )


def problem_of(error: ValidationError) -> str:
    """The first thing that is wrong with a line."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]
