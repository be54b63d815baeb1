"""Data sets by name: published layouts in small, splits, and what is said of files that are missing
or damaged.
"""

from __future__ import annotations

import io
import itertools
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cprune_rl.accuracy.data import (
    DATA_SETS,
    NORMALISATIONS,
    ImageData,
    Normalisation,
    Split,
    SplitSettings,
    load_data,
    parse_data,
    split_images,
)
from cprune_rl.accuracy.data.generated import draw_contours
from cprune_rl.errors import ConfigError, DataError, UnknownNameError
from tests.doubles.images import contours_data


def pixels(n: int, shape: tuple[int, ...] = (3, 32, 32), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


# --- names


@pytest.mark.parametrize(
    ("name", "error", "what"),
    [
        ("contour", UnknownNameError, "Did you mean 'contours'"),
        ("contours:odd", ConfigError, "Known: easy, standard, hard"),
        ("contours?seed=1", ConfigError, "unknown option 'seed'"),
        ("npz", ConfigError, "npz:PATH"),
        ("npz:a.npz?seed=x", ConfigError, "whole number"),
        ("npz:a.npz?normalise=odd", ConfigError, "Known: unit, half, plain, imagenet, cifar10"),
        ("npz:a.npz?mean=0.5", ConfigError, "mean= and std= together"),
        ("npz:a.npz?mean=0.5&std=0", ConfigError, "above 0"),
        ("npz:a.npz?mean=a&std=1", ConfigError, "divided by commas"),
        ("npz:a.npz?mean=0,0&std=1,1", ConfigError, "3 channels"),
        ("npz:a.npz?mean=0&std=1&normalise=half", ConfigError, "normalise=NAME, or"),
        ("imagefolder:x?size=2", ConfigError, "at least 8"),
        ("digits:all", ConfigError, "none of its presets"),
        ("missing.py:make", ConfigError, "there is no file"),
        ("no.such.package:make", ConfigError, "importing no.such.package fails"),
    ],
)
def test_a_wrong_name_says_what_is_allowed(
    name: str, error: type[Exception], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x/train/a").mkdir(parents=True)
    Path("x/val").mkdir()
    np.savez("a.npz", x=pixels(60), y=np.arange(60) % 2)
    with pytest.raises(error, match=what):
        load_data(name)


def test_a_name_is_read_without_opening_anything() -> None:
    spec = parse_data("imagefolder:~/pictures?size=96&seed=3&normalise=imagenet")
    assert (
        spec.kind,
        spec.argument,
        spec.integer("seed", 0),
        spec.integer("size", 64),
        spec.normalisation(),
    ) == (
        "imagefolder",
        "~/pictures",
        3,
        96,
        NORMALISATIONS["imagenet"],
    )
    assert parse_data("npz:a.npz?mean=0.1,0.2,0.3&std=2").normalisation() == Normalisation(
        (0.1, 0.2, 0.3), (2.0,)
    )
    assert parse_data("npz:a.npz").normalisation() == NORMALISATIONS["unit"]
    assert (
        parse_data("cifar10:there?normalise=unit").normalisation("cifar10")
        == NORMALISATIONS["unit"]
    )
    assert parse_data("my/data.py:make").kind == "my/data.py:make"
    assert all(kind.summary for kind in DATA_SETS.values())


@pytest.mark.parametrize(("difficulty", "n_classes"), [("easy", 5), ("hard", 24)])
def test_presets_differ_in_more_than_their_names(difficulty: str, n_classes: int) -> None:
    data = load_data(f"contours:{difficulty}", fast=True)
    assert data.n_classes == n_classes
    assert data.input_shape == (1, 3, 32, 32)


def test_contours_are_drawn_alike_from_one_seed_and_apart_from_another() -> None:
    first = draw_contours(16, 1)
    again = draw_contours(16, 1)
    other = draw_contours(16, 2)
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.images != other.images).any()
    assert first.images.shape == (16, 3, 32, 32)
    assert first.images.dtype == np.uint8


@pytest.mark.parametrize("name", ["digits", "contours"])
def test_the_splits_of_a_generated_set_share_no_image(name: str) -> None:
    data = load_data("digits") if name == "digits" else contours_data()
    images = [{image.tobytes() for image in split.images} for split in data.splits.values()]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(images, 2))
    n_images = sum(len(split) for split in data.splits.values())
    assert n_images == (1797 if name == "digits" else 448)


# --- CIFAR-10


class OldArray:
    """Pickles as numpy under Python 2 did: what the published batches hold."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __reduce__(self) -> tuple[object, ...]:
        reconstruct, arguments, _ = self.array.__reduce__()
        return (
            reconstruct,
            arguments,
            (1, self.array.shape, self.array.dtype, False, self.array.tobytes()),
        )


def write_python_version(folder: Path, n: int = 40) -> dict[str, tuple[np.ndarray, list[int]]]:
    written = {}
    folder.mkdir(parents=True)
    for i, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        data, labels = pixels(n, (3072,), i), [k % 10 for k in range(n)]
        batch = {
            b"batch_label": b"a batch",
            b"labels": labels,
            b"data": OldArray(data),
            b"filenames": [b"x.png"] * n,
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
        written[name] = data, labels
    return written


def as_set(data: ImageData) -> set[bytes]:
    return {
        image.tobytes() for split in (data.train, data.search, data.gate) for image in split.images
    }


@pytest.mark.parametrize("inner", ["", "cifar-10-batches-py"])
def test_cifar10_in_the_python_version(inner: str, tmp_path: Path) -> None:
    written = write_python_version(tmp_path / "c" / inner if inner else tmp_path / "c")
    data = load_data(f"cifar10:{tmp_path / 'c'}")
    assert as_set(data) == {
        row.tobytes() for name, (rows, _) in written.items() if name != "test_batch" for row in rows
    }
    np.testing.assert_array_equal(data.test.images.reshape(40, -1), written["test_batch"][0])
    assert data.test.labels.tolist() == written["test_batch"][1]
    assert (data.n_classes, data.class_names[3], data.is_augmented) == (10, "cat", True)


def test_cifar10_in_the_binary_version_is_the_same_images(tmp_path: Path) -> None:
    written = write_python_version(tmp_path / "py")
    binary = tmp_path / "cifar-10-batches-bin"
    binary.mkdir()
    for name, (rows, labels) in written.items():
        (binary / f"{name}.bin").write_bytes(
            b"".join(
                bytes([label]) + row.tobytes() for row, label in zip(rows, labels, strict=True)
            )
        )
    a, b = load_data(f"cifar10:{tmp_path / 'py'}"), load_data(f"cifar10:{tmp_path}")
    assert a.fingerprint == b.fingerprint


class Evil:
    """Runs a command where a pickle's code is run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_no_code_of_a_batch_is_run(tmp_path: Path) -> None:
    write_python_version(tmp_path / "c")
    (tmp_path / "c" / "data_batch_3").write_bytes(
        pickle.dumps({b"labels": [0], b"data": Evil(tmp_path / "ran")}, protocol=2)
    )
    with pytest.raises(DataError, match=r"data_batch_3 is no batch of CIFAR-10: .*posix.mkdir"):
        load_data(f"cifar10:{tmp_path / 'c'}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is no batch"),
        (b"\x80\x02}", "is no batch"),
        (pickle.dumps([1, 2], protocol=2), "is no batch"),
        (
            pickle.dumps(
                {b"labels": [0], b"data": OldArray(np.zeros((1, 10), np.uint8))}, protocol=2
            ),
            "expected \\(n, 3072\\)",
        ),
        (
            pickle.dumps(
                {b"labels": [11], b"data": OldArray(np.zeros((1, 3072), np.uint8))}, protocol=2
            ),
            "expected 0 to 9",
        ),
        (
            pickle.dumps(
                {b"labels": [0], b"data": OldArray(np.zeros((1, 3072), np.float32))}, protocol=2
            ),
            "not rows of bytes",
        ),
    ],
)
def test_a_damaged_batch_is_named(content: bytes, what: str, tmp_path: Path) -> None:
    write_python_version(tmp_path / "c")
    (tmp_path / "c" / "data_batch_2").write_bytes(content)
    with pytest.raises(DataError, match=f"data_batch_2.*{what}"):
        load_data(f"cifar10:{tmp_path / 'c'}")


def test_a_missing_batch_and_a_cut_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no CIFAR-10 in .*cifar-10-batches-bin"):
        load_data(f"cifar10:{tmp_path}")
    write_python_version(tmp_path / "c")
    (tmp_path / "c" / "data_batch_5").unlink()
    with pytest.raises(DataError, match="data_batch_5 cannot be read"):
        load_data(f"cifar10:{tmp_path / 'c'}")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "data_batch_1.bin").write_bytes(b"x" * 3074)
    with pytest.raises(DataError, match="3074 bytes: a batch is records of 1 label"):
        load_data(f"cifar10:{tmp_path / 'b'}")


# --- a file of arrays


def test_an_npz_is_split_by_its_seed(tmp_path: Path) -> None:
    x, y = pixels(400, (3, 16, 20)), np.arange(400) % 4
    np.savez_compressed(tmp_path / "mine.npz", x=x, y=y)
    data, again, other = (
        load_data(f"npz:{tmp_path / 'mine.npz'}{seed}") for seed in ("", "?seed=0", "?seed=1")
    )
    assert (data.n_classes, data.input_shape) == (4, (1, 3, 16, 20))
    assert sum(len(s) for s in data.splits.values()) == 400
    assert data.fingerprint == again.fingerprint != other.fingerprint
    label_of = {image.tobytes(): int(label) for image, label in zip(x, y, strict=True)}
    assert all(
        label_of[image.tobytes()] == label
        for s in data.splits.values()
        for image, label in zip(s.images, s.labels.tolist(), strict=True)
    )


def test_test_images_of_an_npz_stay_test_images(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "mine.npz",
        x=pixels(100),
        y=np.arange(100) % 2,
        x_test=pixels(7, seed=1),
        y_test=np.arange(7) % 2,
    )
    data = load_data(f"npz:{tmp_path / 'mine.npz'}")
    np.testing.assert_array_equal(data.test.images, pixels(7, seed=1))


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"x": pixels(60)}, "has no y"),
        ({"x": pixels(60).astype(np.float32), "y": np.zeros(60, int)}, "x is float32"),
        ({"x": pixels(60, (32, 32, 3)), "y": np.zeros(60, int)}, r"transpose\(0, 3, 1, 2\)"),
        ({"x": pixels(60), "y": np.zeros(59, int)}, "beside 60 images"),
        ({"x": pixels(60), "y": np.zeros(60)}, "y is float64"),
        ({"x": pixels(60), "y": np.full(60, -1)}, "label -1"),
        ({"x": pixels(60), "y": np.full(60, 7)}, "no training image of class 0, 1"),
        ({"x": pixels(10), "y": np.zeros(10, int)}, "at least 50"),
        ({"x": np.array([object()]), "y": np.zeros(1, int)}, "cannot be read as .npz"),
        (
            {"x": pixels(60), "y": np.arange(60) % 2, "x_test": pixels(5)},
            "only one of x_test and y_test",
        ),
        (
            {
                "x": pixels(60),
                "y": np.zeros(60, int),
                "x_test": pixels(2, (3, 8, 8)),
                "y_test": np.zeros(2, int),
            },
            "test images are",
        ),
    ],
)
def test_a_wrong_npz_says_what_was_expected(
    arrays: dict[str, np.ndarray], what: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(DataError, match=f"mine.npz.*{what}"):
        load_data(f"npz:{tmp_path / 'mine.npz'}")


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut", pickle.dumps([1])])
def test_a_missing_or_damaged_npz_is_named(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"mine\.npz cannot be read as \.npz"):
        load_data(f"npz:{tmp_path / 'mine.npz'}")


# --- folders of pictures


def picture(path: Path, colour: tuple[int, int, int], size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Red and blue pictures of several sizes and formats."""
    for n in range(40):
        picture(tmp_path / "train" / "blue" / f"{n}.png", (0, 0, 200), (20 + n, 30))
        picture(tmp_path / "train" / "red" / f"{n}.jpg", (200, 0, 0), (30, 20 + n))
    for n in range(6):
        picture(tmp_path / "val" / "red" / f"{n}.bmp", (200, 0, 0), (16, 16))
    Image.new("L", (25, 25), 128).save(tmp_path / "val" / "red" / "grey.png")
    return tmp_path


def test_an_image_folder_gives_its_classes_in_order(album: Path) -> None:
    seen: list[int] = []
    data = load_data(f"imagefolder:{album}?size=16", advance=seen.append)
    assert data.class_names == ("blue", "red")
    assert data.input_shape == (1, 3, 16, 16)
    assert len(data.test) == 7
    assert seen == [*range(1, 88)]
    for split in (data.train, data.search, data.gate):
        np.testing.assert_array_equal(split.labels, (split.images[:, 0, 8, 8] > 100).astype(int))
    assert len({*data.test.images[:, 0, 0, 0].tolist()}) == 2, "the grey one too"


def test_an_image_folder_that_is_none_says_what_is_missing(album: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs train/<class>/ and val/<class>/"):
        load_data(f"imagefolder:{tmp_path / 'nowhere'}")
    (album / "train" / "red" / "0.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"train/red/0\.jpg cannot be read as a picture"):
        load_data(f"imagefolder:{album}")
    (album / "val" / "green").mkdir()
    with pytest.raises(DataError, match="has the class 'green'"):
        load_data(f"imagefolder:{album}")


# --- a function of one's own

OWN = """
import numpy as np
from helper import N
def pair():
    return np.zeros((N, 1, 8, 8), np.uint8), np.arange(N) % 3
def wrong():
    return 3
def fails():
    raise RuntimeError("no disk")
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A file with functions that give data, and a neighbour that it imports."""
    (tmp_path / "helper.py").write_text("N = 90")
    (tmp_path / "mine.py").write_text(OWN)
    return tmp_path / "mine.py"


def test_a_function_of_ones_own_gives_images(own: Path) -> None:
    data = load_data(f"{own}:pair?augment=on")
    assert (data.n_classes, data.input_shape, data.is_augmented) == (3, (1, 1, 8, 8), True)
    with pytest.raises(DataError, match="gives int; expected a pair"):
        load_data(f"{own}:wrong")
    with pytest.raises(DataError, match="RuntimeError: no disk"):
        load_data(f"{own}:fails")
    with pytest.raises(ConfigError, match=r"no function 'par'. It has: fails, pair, wrong"):
        load_data(f"{own}:par")


# --- splits and batches


@settings(max_examples=40, deadline=None)
@given(st.integers(50, 3000), st.integers(0, 5), st.booleans(), st.booleans())
def test_splits_share_no_image_and_lose_none(n: int, seed: int, has_test: bool, fast: bool) -> None:
    images = np.arange(n, dtype=np.uint32).view(np.uint8).reshape(n, 1, 2, 2)
    test = (images[:5], np.zeros(5, np.int64)) if has_test else None
    settings = SplitSettings(name="x", seed=seed, fast=fast)
    data = split_images((images, np.zeros(n, np.int64)), settings, test)
    seen = [
        {i.tobytes() for i in s.images}
        for name, s in data.splits.items()
        if not (has_test and name == "test")
    ]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(seen, 2))
    assert sum(map(len, seen)) == n
    assert all(len(s) >= 4 for s in data.splits.values())
    assert len(data.train) >= n // 2


def test_large_sets_have_a_gate_that_can_tell_a_point() -> None:
    images = np.zeros((50000, 1, 1, 1), np.uint8)
    data = split_images(
        (images, np.zeros(50000, np.int64)),
        SplitSettings(name="x"),
        (images[:1], np.zeros(1, np.int64)),
    )
    assert len(data.gate) >= 4000
    assert len(data.search) >= 2000
    assert len(data.train) == 40000


def test_a_batch_is_normalised_by_channel() -> None:
    split = Split(
        images=pixels(5), labels=np.zeros(5, np.int64), normalisation=NORMALISATIONS["imagenet"]
    )
    batch = split.batch(torch.tensor([4, 0]))
    expected = (
        split.images[[4, 0]] / 255 - np.array([0.485, 0.456, 0.406])[:, None, None]
    ) / np.array([0.229, 0.224, 0.225])[:, None, None]
    np.testing.assert_allclose(batch.numpy(), expected, atol=1e-5)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_augmentation_shifts_and_flips_and_follows_its_seed() -> None:
    split = Split(
        images=np.arange(1, 65, dtype=np.uint8).reshape(1, 1, 8, 8).repeat(64, 0),
        labels=np.zeros(64, np.int64),
    )
    plain = split.batch(slice(None))
    first, again, other = (
        split.batch(slice(None), torch.Generator().manual_seed(s)) for s in (0, 0, 1)
    )
    torch.testing.assert_close(first, again)
    assert not torch.equal(first, other)
    views = set()
    padded = torch.nn.functional.pad(plain[0, 0] * 0.25 + 0.5, (1, 1, 1, 1)).sub(0.5).div(0.25)
    windows = {
        (y, x, f): (padded[y : y + 8, x : x + 8].flip(1) if f else padded[y : y + 8, x : x + 8])
        for y in range(3)
        for x in range(3)
        for f in (False, True)
    }
    for image in first[:, 0]:
        at = [key for key, window in windows.items() if torch.allclose(window, image, atol=1e-5)]
        assert len(at) == 1
        views.add(at[0])
    assert len(views) > 10


def test_a_pickle_is_read_by_names_that_numpy_2_writes_too() -> None:
    from cprune_rl.accuracy.data.cifar10 import _SafeUnpickler

    value = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2]}
    read = _SafeUnpickler(io.BytesIO(pickle.dumps(value, protocol=2)), encoding="bytes").load()
    assert read[b"data"].array().shape == (2, 3072)


def test_an_array_is_no_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", pixels(60))
    with pytest.raises(DataError, match=r"mine\.npy cannot be read as \.npz"):
        load_data(f"npz:{tmp_path / 'mine.npy'}")


def test_images_that_are_moved_to_a_device_are_the_same_images() -> None:
    data = contours_data()
    moved = data.to(torch.device("cpu"))
    assert moved.fingerprint == data.fingerprint
    assert torch.equal(moved.train.batch(slice(0, 8)), data.train.batch(slice(0, 8)))
