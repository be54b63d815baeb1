"""The parts of the pruning bench, as files: what plans of trained networks lose, as measured.

`benchmarks/pruning_bench.py` makes them. `load` gives subjects, each with its table (`losses`).
"""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.untrusted import DAMAGED, damage
from cprune_rl.errors import DataError, UnknownNameError

__all__ = [
    "FIDELITIES",
    "FOLDER",
    "BenchGroup",
    "BenchPlan",
    "Subject",
    "load",
    "part_file",
    "subject_names",
]

FIDELITIES = ("recalibrate", "finetune:50", "finetune:50:teacher", "finetune:200", "full")
"""Evaluations of a plan, the cheapest first; with `teacher` it learns from the dense network."""
FOLDER = Path(__file__).parents[2] / "docs" / "results" / "pruning-bench"
"""Of the parts that are kept."""
_FORMAT = "cprune-rl pruning bench 1"


@dataclass(frozen=True, kw_only=True)
class BenchGroup:
    """A group of channels that go together.

    Attributes:
        name: of the group.
        channels: of the dense network.
        minimum: that always stay.
        features: see `group_features`.
    """

    name: str
    channels: int
    minimum: int
    features: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class BenchPlan:
    """A plan, and the accuracy that each evaluation found.

    Attributes:
        widths: channels of each group.
        kind: "pace" of plans at random, "least-loss" where optimisers go, "single" of one group.
        accuracy: by a name of `FIDELITIES`, in [0, 1]; not every plan has all.
        correct: which images the fully fine-tuned network is right on, `(n_images,)`; None where it
            was not fine-tuned in full.
    """

    widths: tuple[int, ...]
    kind: str
    accuracy: dict[str, float]
    correct: NDArray[np.bool_] | None = None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained network, its groups, and the plans that were evaluated.

    Attributes:
        name: `NETWORK/DATA/SEED`.
        family: of networks; fits are judged on families that they did not see.
        n_images: that every accuracy is of.
        n_steps: of the full fine-tune.
        dense_accuracy: of the network as it was trained.
        dense_finetuned_accuracy: after the full fine-tune, from which losses are counted.
        dense_correct: which images that one is right on, `(n_images,)`.
        groups: in the order of a plan's widths.
        plans: in the order in which they were drawn.
        macs: of the dense network.
        made: command and system.
    """

    name: str
    family: str
    n_images: int
    n_steps: int
    dense_accuracy: float
    dense_finetuned_accuracy: float
    dense_correct: NDArray[np.bool_]
    groups: tuple[BenchGroup, ...]
    plans: tuple[BenchPlan, ...]
    macs: int
    made: dict[str, Any]

    def losses(self, fidelity: str = "full") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give kept ratios `(n, n_groups)` and losses `(n,)` of the plans with an evaluation.

        Losses are counted from what the dense network has after the full fine-tune.
        """
        channels = np.array([group.channels for group in self.groups])
        plans = [plan for plan in self.plans if fidelity in plan.accuracy]
        kept = np.array([plan.widths for plan in plans]).reshape(-1, len(channels)) / channels
        found = np.array([plan.accuracy[fidelity] for plan in plans])
        return kept, self.dense_finetuned_accuracy - found

    def to_bytes(self) -> bytes:
        """Write the compressed JSON of a part."""
        value = {
            "format": _FORMAT,
            **{name: getattr(self, name) for name in _PLAIN},
            "dense_correct": _pack(self.dense_correct),
            "groups": [vars(group) for group in self.groups],
            "plans": [
                {
                    "widths": plan.widths,
                    "kind": plan.kind,
                    "accuracy": plan.accuracy,
                    "correct": None if plan.correct is None else _pack(plan.correct),
                }
                for plan in self.plans
            ],
        }
        return gzip.compress(json.dumps(value).encode(), mtime=0)

    @staticmethod
    def from_bytes(content: bytes, source: str) -> Subject:
        """Read what `to_bytes` wrote.

        Args:
            content: of the file.
            source: its name, for a message.

        Raises:
            DataError: it is damaged, or of something else.
        """
        try:
            value = json.loads(gzip.decompress(content))
            if value["format"] != _FORMAT:
                raise ValueError(f"its format is {value['format']!r}, not {_FORMAT!r}")
            n_images = int(value["n_images"])
            plans = tuple(
                BenchPlan(
                    widths=tuple(int(width) for width in plan["widths"]),
                    kind=str(plan["kind"]),
                    accuracy={str(k): float(v) for k, v in plan["accuracy"].items()},
                    correct=None if plan["correct"] is None else _unpack(plan["correct"], n_images),
                )
                for plan in value["plans"]
            )
            return Subject(
                **{name: value[name] for name in _PLAIN},
                dense_correct=_unpack(value["dense_correct"], n_images),
                groups=tuple(BenchGroup(**group) for group in value["groups"]),
                plans=plans,
            )
        except (*DAMAGED, zlib.error, EOFError) as error:
            raise DataError(f"{source} is no part of the pruning bench: {damage(error)}") from error


_PLAIN = (
    "name",
    "family",
    "n_images",
    "n_steps",
    "dense_accuracy",
    "dense_finetuned_accuracy",
    "macs",
    "made",
)


def subject_names(folder: Path | None = None) -> list[str]:
    """List the subjects that a folder has; those that are kept where none is given."""
    return sorted(
        path.name.removesuffix(".json.gz").replace("@", "/")
        for path in (folder or FOLDER).glob("*.json.gz")
    )


def load(names: Sequence[str] | None = None, folder: Path | None = None) -> list[Subject]:
    """Read subjects of the bench.

    Args:
        names: `NETWORK/DATA/SEED`; all where not given.
        folder: of the parts; that of those that are kept where not given.

    Raises:
        UnknownNameError: there is no such subject.
        DataError: a part is damaged.
    """
    there = subject_names(folder)
    subjects = []
    for name in there if names is None else names:
        if name not in there:
            raise UnknownNameError("subject", name, there)
        path = (folder or FOLDER) / part_file(name)
        subjects.append(Subject.from_bytes(path.read_bytes(), str(path)))
    return subjects


def part_file(name: str) -> str:
    """Name the file of a subject."""
    return name.replace("/", "@") + ".json.gz"


def _pack(correct: NDArray[np.bool_]) -> str:
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


def _unpack(text: str, n_images: int) -> NDArray[np.bool_]:
    packed = base64.b64decode(text, validate=True)
    if len(packed) != (n_images + 7) // 8:
        raise ValueError(f"{len(packed)} bytes of answers are not of {n_images} images")
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=n_images)
    return bits.astype(bool)
