"""Fashion-MNIST's four files, in small, and the networks that take grey images."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from cprune_rl.accuracy.data import load_data
from cprune_rl.accuracy.data.fashion_mnist import DEFAULT_FOLDER
from cprune_rl.errors import ConfigError, DataError, ModelError
from cprune_rl.models.registry import build_model, check_output
from cprune_rl.pipeline.config import RunConfig, load_config
from cprune_rl.pipeline.setup import check_names

GREY_NETWORKS = ("resnet8", "resnet8-w8", "resnet20", "mobilenetv2-small", "vgg-small")


def idx(array: np.ndarray) -> bytes:
    """An array of bytes as the files have it."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def packed(content: bytes) -> bytes:
    """Without the time of packing: parallel test workers must name the same tests."""
    return gzip.compress(content, mtime=0)


def write(folder: Path, *, is_compressed: bool = True) -> dict[str, np.ndarray]:
    """The four files, with 300 and 40 images."""
    rng = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (300, 28, 28)),
        "train-labels-idx1-ubyte": np.arange(300) % 10,
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (40, 28, 28)),
        "t10k-labels-idx1-ubyte": np.arange(40) % 10,
    }
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        content = idx(array)
        if is_compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return arrays


@pytest.mark.parametrize("is_compressed", [True, False])
def test_the_published_files_are_read(is_compressed: bool, tmp_path: Path) -> None:
    arrays = write(tmp_path / "f", is_compressed=is_compressed)
    data = load_data(f"fashion-mnist:{tmp_path / 'f'}")
    assert (data.n_classes, data.input_shape, data.is_augmented) == (10, (1, 1, 28, 28), True)
    assert data.class_names[9] == "Ankle boot"
    np.testing.assert_array_equal(data.test.images[:, 0], arrays["t10k-images-idx3-ubyte"])
    np.testing.assert_array_equal(data.test.labels, arrays["t10k-labels-idx1-ubyte"])
    label_of = {
        image.astype(np.uint8).tobytes(): label
        for image, label in zip(
            arrays["train-images-idx3-ubyte"],
            arrays["train-labels-idx1-ubyte"].tolist(),
            strict=True,
        )
    }
    for split in (data.train, data.search, data.gate):
        found = [label_of[image.tobytes()] for image in split.images]
        assert found == split.labels.tolist()
        assert np.ptp(np.bincount(split.labels, minlength=10)) <= 2
    batch = data.test.batch(slice(0, 1)).numpy()
    expected = (arrays["t10k-images-idx3-ubyte"][:1, None] / 255 - 0.286) / 0.353
    np.testing.assert_allclose(batch, expected, atol=1e-5)


def test_where_it_is_missing_the_error_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        load_data(f"fashion-mnist:{tmp_path}")
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        check_names(RunConfig(data=f"fashion-mnist:{tmp_path / 'none'}"))
    if not Path(DEFAULT_FOLDER).is_dir():
        with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
            check_names(RunConfig(data="fashion-mnist"))


def test_a_relative_folder_is_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "f")
    monkeypatch.chdir(tmp_path)
    assert load_config(None, {"data": "fashion-mnist:f"}).data == f"fashion-mnist:{tmp_path / 'f'}"


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("train-images-idx3-ubyte.gz", b"no gzip", "is no file of Fashion-MNIST"),
        ("train-images-idx3-ubyte.gz", packed(idx(np.zeros(9))), "it begins with 00000801"),
        ("t10k-images-idx3-ubyte.gz", packed(idx(np.zeros((9, 2, 2)))[:-1]), "cannot resh"),
        ("t10k-labels-idx1-ubyte.gz", packed(idx(np.zeros(9)))[:-9], "is no file"),
        ("t10k-labels-idx1-ubyte.gz", packed(idx(np.zeros(9))), "9 labels beside 40 images"),
        ("train-labels-idx1-ubyte.gz", packed(idx(np.arange(300))), "expected 0 to 9"),
    ],
)
def test_a_damaged_file_is_named(name: str, content: bytes, what: str, tmp_path: Path) -> None:
    write(tmp_path / "f")
    (tmp_path / "f" / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}.*{what}"):
        load_data(f"fashion-mnist:{tmp_path / 'f'}")


@pytest.mark.parametrize("name", GREY_NETWORKS)
def test_packaged_networks_take_grey_images(name: str) -> None:
    model = build_model(name, 10, n_channels=1)
    check_output(model, torch.zeros(1, 1, 28, 28), 10, name)


def test_a_network_that_takes_colour_alone_says_so() -> None:
    with pytest.raises(ModelError, match=r"torchvision:resnet18 takes images of 3 channels"):
        build_model("torchvision:resnet18", 10, n_channels=1)
    with pytest.raises(ModelError, match=r"vgg16-cifar does not take images \(1, 1, 28, 28\)"):
        check_output(
            build_model("vgg16-cifar", 10, n_channels=1),
            torch.zeros(1, 1, 28, 28),
            10,
            "vgg16-cifar",
        )


def test_a_function_of_ones_own_gets_the_channels_where_it_asks_for_them(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "def make(n_channels):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(4 * n_channels, 3))\n"
        "def build(n_classes, n_channels=3):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(4 * n_channels, n_classes))\n"
    )
    for function in ("make", "build"):
        name = f"{tmp_path / 'nets.py'}:{function}"
        check_output(build_model(name, 3, n_channels=2), torch.zeros(1, 2, 2, 2), 3, name)
    with pytest.raises(ConfigError):
        build_model(f"{tmp_path / 'nets.py'}:none", 3)
