"""Splits with each class in its proportion, and what is said of labels that cannot be split."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprune_rl.accuracy.data import (
    ArrayFile,
    SplitSettings,
    data_warnings,
    load_data,
    split_images,
)
from cprune_rl.accuracy.data.image_arrays import SelectedRows, hash_images, npy_header
from cprune_rl.errors import DataError


def split(labels: np.ndarray, seed: int = 0, *, has_test: bool = False) -> dict[str, np.ndarray]:
    """The labels of each split."""
    images = np.zeros((len(labels), 1, 1, 1), np.uint8)
    test = (images[:1], labels[:1]) if has_test else None
    data = split_images((images, labels), SplitSettings(name="x", seed=seed), test)
    return {name: part.labels for name, part in data.splits.items()}


@given(st.lists(st.integers(9, 400), min_size=2, max_size=8), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_each_split_has_the_classes_in_their_proportions(counts: list[int], seed: int) -> None:
    counts[0] += 50
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    for part in split(labels, seed).values():
        expected = np.array(counts) * len(part) / sum(counts)
        found = np.bincount(part, minlength=len(counts))
        assert np.abs(found - expected).max() <= 2


@pytest.mark.parametrize("has_test", [True, False])
@pytest.mark.parametrize("n_images", [1, 2, 3, 4])
def test_a_class_of_a_few_images_is_trained_on_and_then_judged(
    n_images: int, has_test: bool
) -> None:
    """At 0.2, 2 of 20 seeds refused a class of three: it had no image to train on by bad luck."""
    for seed in range(20):
        labels = np.r_[np.repeat([0, 1], 200), np.full(n_images, 2)]
        found = {
            name: int((part == 2).sum())
            for name, part in split(labels, seed, has_test=has_test).items()
        }
        assert found["train"] >= 1
        assert found["gate"] >= (1 if n_images > 1 else 0)


def test_a_seed_gives_one_split_and_another_seed_another() -> None:
    labels = np.arange(300) % 3
    images = np.arange(300, dtype=np.uint16).view(np.uint8).reshape(300, 2, 1, 1)
    first, again, other = (
        split_images((images, labels), SplitSettings(name="x", seed=seed)).fingerprint
        for seed in (0, 0, 1)
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        (np.r_[np.zeros(60, int), 3], r"of class 1, 2; labels must be .* 2 different .* 0 to 3"),
        (1 + np.arange(60) % 3, r"of class 0; labels must be .*Yours begin at 1: subtract 1"),
        (np.r_[np.arange(60) % 2, 10**9], r"of class 2, 3, .* and 999999990 more"),
        (np.arange(60), r"of class .* of one of them there are 1 images in all"),
    ],
)
def test_labels_out_of_range_are_named(labels: np.ndarray, what: str) -> None:
    with pytest.raises(DataError, match=what):
        split(labels)


def test_a_label_that_test_images_alone_have_is_named(tmp_path: Path) -> None:
    x = np.full((60, 1, 4, 4), 7, np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(60) % 3, x_test=x, y_test=np.arange(60) % 4)
    with pytest.raises(DataError, match="its test images have the label 3, the others go up to 2"):
        load_data(f"npz:{tmp_path / 'a.npz'}")


@pytest.mark.parametrize(
    ("x", "what"),
    [
        (np.ones((60, 1, 4, 4), np.uint8), r"no pixel above 1, as if it was scaled"),
        (np.ones((60, 1, 4, 4), np.float32) / 2, r"from 0.5 to 0.5: \(255 \* x\)"),
        (np.full((60, 1, 4, 4), 200.0), r"from 200 to 200: x.round"),
        (np.full((60, 1, 4, 4), -1.5), r"it was normalised. .*\?mean="),
        (np.ones((60, 1, 4, 4), np.uint16), r"\(x / 257\)"),
        (np.ones((60, 4, 4), np.uint8), r"x\[:, None\]"),
    ],
)
def test_pixels_of_another_scale_say_how_to_scale_them(
    x: np.ndarray, what: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(60) % 3)
    with pytest.raises(DataError, match=what):
        load_data(f"npz:{tmp_path / 'a.npz'}")


def test_one_class_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.full((60, 1, 4, 4), 9, np.uint8), y=np.zeros(60, int))
    with pytest.raises(DataError, match="one class alone"):
        load_data(f"npz:{tmp_path / 'a.npz'}")


def test_classes_that_the_gate_hardly_sees_are_named(tmp_path: Path) -> None:
    y = np.r_[np.repeat([0, 1], 500), np.full(9, 2)]
    x = np.random.default_rng(0).integers(0, 256, (len(y), 1, 4, 4), np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=y)
    data = load_data(f"npz:{tmp_path / 'a.npz'}")
    (warning,) = data_warnings(data)
    n_few = int((data.gate.labels == 2).sum())
    assert f"1 of 3 classes have fewer than 10 of the gate's {len(data.gate)} images" in warning
    assert f"class 2 {n_few}" in warning
    named = dataclasses.replace(data, class_names=("cat", "dog", "yak"))
    assert f"yak {n_few}" in data_warnings(named)[0]


def test_splits_of_0_2_can_be_asked_for(tmp_path: Path) -> None:
    """They are those of one permutation: gate, search, test, train."""
    x = np.arange(400, dtype=np.uint16).view(np.uint8).reshape(400, 1, 2, 1)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(400) % 4)
    data = load_data(f"npz:{tmp_path / 'a.npz'}?stratify=off")
    order = np.random.default_rng(0).permutation(400)
    for part, rows in (
        (data.gate, order[:80]),
        (data.search, order[80:120]),
        (data.test, order[120:180]),
        (data.train, order[180:]),
    ):
        np.testing.assert_array_equal(part.images, x[rows])


def test_a_sample_of_an_npz_is_split(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (900, 1, 4, 4), np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=np.repeat([0, 1, 2], [600, 240, 60]))
    data = load_data(f"npz:{tmp_path / 'a.npz'}?train=300")
    labels = np.concatenate([s.labels for s in data.splits.values()])
    assert np.bincount(labels).tolist() == [200, 80, 20]


# --- rows of arrays and of files


def test_rows_of_a_file_are_those_of_the_array(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (50, 2, 3, 4), np.uint8)
    np.save(tmp_path / "x.npy", array)
    rows = np.random.default_rng(1).permutation(50)[:20]
    file = ArrayFile(tmp_path / "x.npy")
    for lazy, expected in ((file, array), (SelectedRows(file, rows), array[rows])):
        assert (lazy.shape, lazy.dtype, len(lazy)) == (expected.shape, np.uint8, len(expected))
        for index in (3, -1, slice(2, 9), slice(None, None, -3), [4, 0, 4], (slice(None), 1, 2)):
            np.testing.assert_array_equal(lazy[index], expected[index])
        np.testing.assert_array_equal(np.asarray(lazy), expected)
        np.testing.assert_array_equal(list(lazy), expected)
        with pytest.raises(IndexError):
            lazy[50]


def test_the_images_of_a_file_are_hashed_by_the_files_own_hash(tmp_path: Path) -> None:
    """Reading all of ImageNet once more would take minutes."""
    np.save(tmp_path / "x.npy", np.zeros((50, 4), np.uint8))
    first = ArrayFile(tmp_path / "x.npy", digest="a hash")
    rows = SelectedRows(SelectedRows(first, np.arange(9, 40)), np.array([3, 1]))
    assert rows.rows.tolist() == [12, 10]
    digests = []
    for images in (rows, SelectedRows(first, np.array([10, 12]))):
        digest = hashlib.sha256()
        hash_images(images, digest)
        digests.append(digest.hexdigest())
    expected = hashlib.sha256(b"a hash" + np.array([12, 10]).tobytes())
    assert digests[0] == expected.hexdigest() != digests[1]


def test_a_file_that_is_cut_or_no_array_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((5, 4), np.uint8))
    whole = path.read_bytes()
    objects = npy_header((1,), np.dtype(object)) + b"\0" * 8
    for content in (b"", whole[:20], whole[:-1], whole + b"\0", objects, b"\x93NUMPY\x09\x00ab"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"x\.npy"):
            ArrayFile(path)
    path.write_bytes(whole)
    file = ArrayFile(path)
    with path.open("r+b") as opened:
        opened.truncate(len(whole) - 6)
    with pytest.raises(DataError, match="was cut while it was read"):
        file[:]


def test_figures_of_version_0_2_have_the_same_images() -> None:
    """Accuracies and trained networks are cached under the fingerprint."""
    data = load_data("digits")
    digest = hashlib.sha256(repr((data.train.normalisation, False, 1)).encode())
    for part in data.splits.values():
        digest.update(np.asarray(part.images).tobytes())
        digest.update(part.labels.tobytes())
    assert data.fingerprint == digest.hexdigest()[:16]
