"""The pruning bench: parts are read as they were written, and refused where they are damaged."""

import gzip
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from cprune_rl.accuracy.trainer import ImageTrainer
from cprune_rl.errors import DataError, UnknownNameError
from cprune_rl.models.registry import build_model
from cprune_rl.pruning.groups import find_groups
from tests.doubles.images import contours_data

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A file of the benchmarks, which are no package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("bench_study.parts")


def made(parts: ModuleType) -> Any:
    rng = np.random.default_rng(0)
    return parts.Subject(
        name="toy/drawn/0",
        family="toy",
        n_images=21,
        n_steps=10,
        dense_accuracy=0.9,
        dense_finetuned_accuracy=0.92,
        dense_correct=rng.random(21) < 0.9,
        groups=(parts.BenchGroup(name="a", channels=16, minimum=4, features={"depth": 0.5}),),
        plans=(
            parts.BenchPlan(
                widths=(8,),
                kind="pace",
                accuracy={"recalibrate": 0.5, "full": 0.9},
                correct=rng.random(21) < 0.8,
            ),
            parts.BenchPlan(widths=(12,), kind="single", accuracy={"recalibrate": 0.7}),
        ),
        macs=1000,
        made={"command": "by hand"},
    )


def test_a_part_is_read_as_it_was_written(parts: ModuleType, tmp_path: Path) -> None:
    subject = made(parts)
    (tmp_path / parts.part_file(subject.name)).write_bytes(subject.to_bytes())
    assert parts.subject_names(tmp_path) == ["toy/drawn/0"]
    (again,) = parts.load(folder=tmp_path)
    assert again.to_bytes() == subject.to_bytes()
    assert (again.dense_correct == subject.dense_correct).all()
    assert again.plans[1].correct is None
    kept, losses = again.losses()
    assert kept.tolist() == [[0.5]]
    assert losses == pytest.approx([0.02])
    assert again.losses("recalibrate")[0].shape == (2, 1)
    with pytest.raises(UnknownNameError, match="toy/drawn/0"):
        parts.load(["toy/drawn/1"], tmp_path)


def test_a_damaged_part_is_one_line(parts: ModuleType, tmp_path: Path) -> None:
    whole = made(parts).to_bytes()
    value = json.loads(gzip.decompress(whole))
    damaged = {
        "cut": whole[:-9],
        "other": gzip.compress(b"[1]"),
        "format": gzip.compress(json.dumps({**value, "format": "x"}).encode()),
        "bits": gzip.compress(json.dumps({**value, "dense_correct": "!"}).encode()),
        "empty": b"",
    }
    for name, content in damaged.items():
        path = tmp_path / parts.part_file(name)
        path.write_bytes(content)
        with pytest.raises(DataError, match="is no part of the pruning bench"):
            parts.load([name], tmp_path)


def test_groups_are_described_by_place_shape_and_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    group_features = importlib.import_module("bench_study.group_features").group_features
    data = contours_data()
    model = build_model("resnet8-w8", 10, seed=0)
    example = torch.zeros(data.input_shape)
    coupled = find_groups(model, example)
    described = group_features(model, coupled, example, ImageTrainer(data).accumulate_gradients)
    assert len(described) == len(coupled.groups)
    for group, features in zip(coupled.groups, described, strict=True):
        assert features["log_channels"] == pytest.approx(np.log(group.channels))
        assert 0 <= features["depth"] <= 1
        assert 0 <= features["taylor_half"] <= 0.5
        assert features["weight_q10"] <= features["weight_q50"] <= features["weight_q90"]
        assert all(np.isfinite(value) for value in features.values())
    assert len({tuple(sorted(features.items())) for features in described}) == len(described)
