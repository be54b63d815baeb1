"""Images that a caller has in memory: what is taken as it is, and what is refused in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

from cprune_rl.accuracy.data import ImageData, Split, load_data
from cprune_rl.accuracy.data.arrays import GivenImages, keep_images
from cprune_rl.core.folders import cache_folder
from cprune_rl.errors import ConfigError, DataError

N = 120
RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (N, 3, 8, 6), np.uint8)
LABELS = np.arange(N) % 4
FLOATS = RNG.standard_normal((N, 3, 8, 6)).astype(np.float32)


class Pictures(Dataset[Any]):
    """PIL images and plain labels, as torchvision's data sets give them."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, at: int) -> tuple[Image.Image, int]:
        return Image.fromarray(BYTES[at].transpose(1, 2, 0)), int(LABELS[at])


class Noisy(Dataset[Any]):
    """Another image each time."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, at: int) -> tuple[torch.Tensor, int]:
        return torch.rand(3, 8, 6), 0


class Ragged(Dataset[Any]):
    """Images of two sizes."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, at: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(3, 8, 6 + at // 7), 0


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CPRUNE_RL_CACHE", str(tmp_path))
    return tmp_path


def rows(data: ImageData) -> set[bytes]:
    """Every image of all splits."""
    return {
        bytes(image.tobytes())
        for split in data.splits.values()
        for image in np.asarray(split.images)
    }


def batch(split: Split) -> np.ndarray[Any, Any]:
    return split.batch(slice(0, len(split))).numpy()


def test_images_keep_their_values_whatever_holds_them() -> None:
    name = keep_images(BYTES, LABELS)
    assert keep_images(torch.from_numpy(BYTES), torch.from_numpy(LABELS)) == name
    assert keep_images(TensorDataset(torch.from_numpy(BYTES), torch.from_numpy(LABELS))) == name
    assert keep_images(Pictures()) == name
    assert keep_images(BYTES, LABELS.tolist()) == name
    data = load_data(name)
    assert data.n_classes == 4
    assert data.input_shape == (1, 3, 8, 6)
    assert rows(data) == {image.tobytes() for image in BYTES}
    labels = {image.tobytes(): label for image, label in zip(BYTES, LABELS, strict=True)}
    for split in data.splits.values():
        of_split = zip(np.asarray(split.images), split.labels, strict=True)
        assert all(labels[image.tobytes()] == label for image, label in of_split)


def test_bytes_are_shown_from_0_to_1_and_numbers_as_they_are() -> None:
    shown = batch(load_data(keep_images(BYTES, LABELS)).train)
    assert 0 <= shown.min() < 0.05
    assert 0.95 < shown.max() <= 1
    data = load_data(keep_images(FLOATS.astype(np.float64), LABELS))
    assert data.train.images.dtype == np.float32
    np.testing.assert_array_equal(batch(data.train), np.asarray(data.train.images))
    assert rows(data) == {image.tobytes() for image in FLOATS}


def test_a_batch_of_numbers_may_be_changed_by_a_network() -> None:
    data = load_data(keep_images(FLOATS[:, :1], LABELS))
    before = np.asarray(data.train.images).copy()
    data.train.batch(slice(0, 4)).zero_()
    np.testing.assert_array_equal(np.asarray(data.train.images), before)


def test_another_scale_is_asked_for_by_name_or_in_numbers() -> None:
    by_name = GivenImages(images=BYTES, labels=LABELS, normalise="imagenet", augment=True).keep()
    data = load_data(by_name)
    assert data.is_augmented
    assert data.train.normalisation.mean == (0.485, 0.456, 0.406)
    raw = GivenImages(images=BYTES, labels=LABELS, normalise=(0, 1 / 255)).keep()
    shown = load_data(raw).train
    np.testing.assert_allclose(batch(shown), np.asarray(shown.images), rtol=1e-5)
    each = GivenImages(images=BYTES, labels=LABELS, normalise=([0.1, 0.2, 0.3], 0.5)).keep()
    assert load_data(each).train.normalisation.mean == (0.1, 0.2, 0.3)
    name = GivenImages(images=FLOATS, labels=LABELS, normalise="half").keep()
    with pytest.raises(ConfigError, match="networks see as they are"):
        load_data(name)


@pytest.mark.parametrize("scale", ["imagnet", (0.5,), (0.5, 0), ("a", "b"), 3, (float("nan"), 1)])
def test_a_scale_that_is_none_is_refused(scale: Any) -> None:
    with pytest.raises(ConfigError, match="normalis"):
        GivenImages(images=BYTES, labels=LABELS, normalise=scale).check()


def test_test_images_of_ones_own_stay_so() -> None:
    test = BYTES[:20] // 2
    data = load_data(keep_images(BYTES, LABELS, (test, LABELS[:20])))
    np.testing.assert_array_equal(np.asarray(data.test.images), test)
    assert len(data.train) + len(data.search) + len(data.gate) == N
    with pytest.raises(DataError, match=r"test images are uint8 .* bring them"):
        keep_images(BYTES, LABELS, (test[..., :4], LABELS[:20]))


def test_other_values_have_another_name_and_the_same_are_kept_once(home: Path) -> None:
    names = {
        keep_images(BYTES, LABELS),
        keep_images(BYTES, LABELS),
        keep_images(BYTES, LABELS[::-1]),
        keep_images(BYTES.reshape(N, 3, 6, 8), LABELS),
        keep_images(BYTES, LABELS, (BYTES, LABELS)),
    }
    assert len(names) == 4
    assert len(list((home / "images").iterdir())) == 4


def loader() -> Iterator[Any]:
    data = TensorDataset(torch.from_numpy(BYTES), torch.from_numpy(LABELS))
    return DataLoader(data)  # type: ignore[return-value]  # what a user may try


def with_value(value: float) -> np.ndarray[Any, Any]:
    changed = FLOATS.copy()
    changed[7, 1, 2, 3] = value
    return changed


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (BYTES.transpose(0, 2, 3, 1), LABELS, r"Channels come second: images\.transpose"),
        (torch.from_numpy(FLOATS).permute(0, 2, 3, 1), LABELS, "Channels come second"),
        (BYTES[:, 0], LABELS, r"Grey images have a channel too: images\[:, None\]"),
        (BYTES[0, 0], LABELS, r"shape \(8, 6\)"),
        (BYTES[:0], LABELS[:0], "shape"),
        (BYTES, LABELS[:-1], r"shape \(119,\) beside 120 images"),
        (BYTES, None, "labels are missing"),
        (BYTES, np.eye(4)[LABELS], r"labels\.argmax\(1\)"),
        (BYTES, LABELS.astype(float), "whole numbers"),
        (BYTES, LABELS - 1, "-1"),
        (BYTES, ["cat"] * N, "whole numbers"),
        (BYTES.astype(np.int64), LABELS, r"int64.*uint8"),
        (BYTES > 9, LABELS, "bool"),
        (FLOATS.astype(complex), LABELS, "complex"),
        (BYTES.astype(np.float32), LABELS, "from 0 to 255.*Give them as uint8"),
        (BYTES.astype(np.float32) * 0.99, LABELS, "Give them as uint8"),
        (with_value(float("nan")), LABELS, "not finite, first in image 7"),
        (with_value(float("inf")), LABELS, "not finite, first in image 7"),
        ([BYTES[0]], [0], "images are list"),
        ("npz:mine.npz", None, "images are str"),
        (loader(), None, r"DataLoader.*\.dataset"),
        (TensorDataset(torch.from_numpy(BYTES)), None, "item 0"),
        (Pictures(), LABELS, "leave labels out"),
        (Noisy(), None, "another image each time"),
        (Ragged(), None, r"image 7 is float32 \(3, 8, 7\)"),
    ],
)
def test_what_is_no_set_of_images_is_refused_in_one_line_and_nothing_stays(
    images: Any, labels: Any, message: str, home: Path
) -> None:
    with pytest.raises(DataError, match=message) as refused:
        keep_images(images, labels)
    assert "\n" not in str(refused.value)
    assert list((home / "images").glob("*")) == []


def test_images_that_are_gone_are_asked_for_again() -> None:
    name = keep_images(BYTES, LABELS)
    (cache_folder() / "images" / name.removeprefix("arrays:") / "x.npy").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read"):
        load_data(name)
    with pytest.raises(DataError, match="were given in Python"):
        load_data("arrays:0123")
    with pytest.raises(DataError, match="were given in Python"):
        load_data("arrays:..")
