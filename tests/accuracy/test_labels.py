"""Images whose labels a network gives, and the scale of pixels that its weights expect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cprune_rl.accuracy.data import NORMALISATIONS, ImageData, load_data
from cprune_rl.accuracy.labels import labelled_by_network
from cprune_rl.accuracy.pixel_scale import describe_scale
from cprune_rl.accuracy.task import load_task
from cprune_rl.accuracy.training import evaluate
from cprune_rl.errors import ConfigError, DataError
from cprune_rl.models.registry import build_model
from cprune_rl.models.weights import classes_of_weights, save_weights


class Brightness(nn.Module):
    """Tells dark, middling and light images apart, at the scale [0, 1]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([0.3 - mean, 0.2 - (mean - 0.5).abs(), mean - 0.7], 1)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPRUNE_RL_CACHE", str(tmp_path / "cache"))


def greys(n: int) -> np.ndarray:
    return (np.arange(n) * 7 % 256).astype(np.uint8)


def write_pictures(folder: Path, n: int = 90) -> None:
    """Plain pictures in folders that mean nothing, with hidden ones between them."""
    for at, grey in enumerate(greys(n).tolist()):
        path = folder / ("a/b" if at % 2 else "") / f"{at:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9), grey).save(path)
    (folder / ".thumbnails").mkdir()
    Image.new("L", (9, 9), 3).save(folder / ".thumbnails" / "0.png")


@pytest.mark.parametrize("kind", ["folder", "npz", "function"])
def test_labels_of_unlabelled_images_are_the_networks_answers(kind: str, tmp_path: Path) -> None:
    if kind == "folder":
        write_pictures(tmp_path / "p")
        name = f"imagefolder:{tmp_path / 'p'}?size=8"
    else:
        x = np.repeat(greys(90), 48).reshape(90, 3, 4, 4)
        np.savez(tmp_path / "a.npz", x=x)
        code = (
            f"import numpy\ndef make():\n    return numpy.load({str(tmp_path / 'a.npz')!r})['x']\n"
        )
        (tmp_path / "mine.py").write_text(code)
        name = f"npz:{tmp_path / 'a.npz'}" if kind == "npz" else f"{tmp_path / 'mine.py'}:make"
    blank = load_data(name, labels="teacher")
    assert sum(len(split) for split in blank.splits.values()) == 90
    data = labelled_by_network(blank, Brightness())
    assert (data.n_classes, data.is_agreement, data.class_names) == (3, True, ())
    for split in data.splits.values():
        mean = np.asarray(split.images).mean((1, 2, 3)) / 255
        np.testing.assert_array_equal(split.labels, np.select([mean < 0.3, mean < 0.7], [0, 1], 2))
        assert evaluate(Brightness(), split) == 1.0, "of agreement with itself"
    assert data.fingerprint != blank.fingerprint


def test_folders_of_classes_and_labels_are_ignored(tmp_path: Path) -> None:
    for part, n in (("train", 60), ("val", 9)):
        for at, grey in enumerate(greys(n).tolist()):
            path = tmp_path / "p" / part / f"class{at % 4}" / f"{at}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (9, 9), grey).save(path)
    data = labelled_by_network(
        load_data(f"imagefolder:{tmp_path / 'p'}?size=8", labels="teacher"), Brightness()
    )
    assert data.n_classes == 3
    assert len(data.test) == 9, "val stays the test"


def test_a_network_that_gives_one_answer_cannot_label(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.full((90, 3, 4, 4), 255, np.uint8))
    data = load_data(f"npz:{tmp_path / 'a.npz'}", labels="teacher")
    with pytest.raises(DataError, match=r"every training image .* the same label.*\?normalise="):
        labelled_by_network(data, Brightness())


def test_a_task_says_what_an_output_stands_for(tmp_path: Path) -> None:
    (tmp_path / "t.py").write_text(
        "class Task:\n"
        "    def loss(self, output, target): return (output - target).square().mean()\n"
        "    def correct(self, output, target): return ((output > 0) == (target > 0)).all(1)\n"
        "class Teaching(Task):\n"
        "    def target(self, output): return (output > 0).float()\n"
    )
    np.savez(tmp_path / "a.npz", x=np.repeat(greys(90), 48).reshape(90, 3, 4, 4))
    data = load_data(
        f"npz:{tmp_path / 'a.npz'}",
        labels="teacher",
        task=load_task(f"{tmp_path / 't.py'}:Teaching"),
    )
    labelled = labelled_by_network(data, Brightness())
    assert labelled.train.labels.shape == (len(data.train), 3)
    assert evaluate(Brightness(), labelled.gate) == 1.0
    other = data.with_task(load_task(f"{tmp_path / 't.py'}:Task"))
    with pytest.raises(ConfigError, match=r"has no method 'target'.*Add target\(output\)"):
        labelled_by_network(other, Brightness())


@pytest.mark.parametrize("name", ["resnet8-w8", "mobilenetv2-small", "own"])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_tell_the_number_of_classes(name: str, suffix: str, tmp_path: Path) -> None:
    if name == "own":
        (tmp_path / "nets.py").write_text(
            "from torch import nn\n"
            "class Net(nn.Module):\n"
            "    def __init__(self, n):\n"
            "        super().__init__()\n"
            "        self.head = nn.Linear(4, n)\n"
            "        self.stem = nn.Conv2d(3, 4, 3)\n"
            "def build(n):\n"
            "    return Net(n)\n"
        )
        name = f"{tmp_path / 'nets.py'}:build"
    path = tmp_path / f"w.{suffix}"
    model = build_model(name, 17)
    if suffix == "pt":
        torch.save(model.state_dict(), path)
    else:
        save_weights(model, path)
    assert classes_of_weights(path, lambda n: build_model(name, n)) == 17


# --- the scale of pixels


def bright_data(tmp_path: Path, options: str = "") -> ImageData:
    """Three classes of brightness, as `Brightness` tells them apart."""
    rng = np.random.default_rng(0)
    y = np.arange(600) % 3
    x = rng.integers(0, 40, (600, 3, 4, 4)) + np.array([10, 110, 210])[y][:, None, None, None]
    np.savez(tmp_path / "b.npz", x=x.astype(np.uint8), y=y)
    return load_data(f"npz:{tmp_path / 'b.npz'}{options}")


def test_a_right_scale_is_not_spoken_of(tmp_path: Path) -> None:
    report = describe_scale(Brightness(), bright_data(tmp_path))
    assert (report.message, report.accuracies["as given"]) == ("", 1.0)


@pytest.mark.parametrize("options", ["?normalise=half", "?mean=0&std=0.00392157"])
def test_a_wrong_scale_is_told_with_the_right_one(options: str, tmp_path: Path) -> None:
    data = bright_data(tmp_path, options)
    report = describe_scale(Brightness(), data)
    assert report.best == "unit"
    assert report.shown == data.train.normalisation
    assert "100.0% of" in report.message
    assert "--data '...?normalise=unit'" in report.message


def test_weights_for_pixels_from_0_to_255_are_recognised(tmp_path: Path) -> None:
    class OfBytes(Brightness):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x / 255)

    report = describe_scale(OfBytes(), bright_data(tmp_path))
    assert report.best == "0 to 255"
    fixed = bright_data(tmp_path, report.message.partition("...")[2].rstrip("'"))
    assert evaluate(OfBytes(), fixed.test) == 1.0


def test_a_network_that_knows_nothing_has_no_better_scale(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    data = bright_data(tmp_path)
    shuffled = np.random.default_rng(1).permutation(data.search.labels)
    data.search.labels[:] = shuffled
    assert describe_scale(model, data).message == ""
    assert NORMALISATIONS["unit"] == describe_scale(model, data).shown
