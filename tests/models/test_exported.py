"""Networks that were exported: they stand for modules whose code is not kept."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cprune_rl.accuracy.training import correct_predictions
from cprune_rl.errors import DataError
from cprune_rl.models.exported import load_exported
from cprune_rl.models.registry import build_model
from cprune_rl.models.weights import export_torch, network_hash
from tests.doubles.images import noise_data


class OneImage(nn.Module):
    """Its code is made for batches of one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4 * 30 * 30, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).view(1, -1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["resnet8-w8", "mobilenetv2-small"])
def test_an_exported_network_answers_as_the_network_does(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(name, 10).eval()
    images = torch.randn(5, 3, 32, 32)
    export_torch(model, (1, 3, 32, 32), tmp_path / "net.pt2", any_batch=True)
    loaded = load_exported(tmp_path / "net.pt2")
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), model(images))
        torch.testing.assert_close(loaded(images[:1]), model(images[:1]))
    expected = dict(model.named_parameters())
    assert {n: p.shape for n, p in loaded.named_parameters()} == {
        n: p.shape for n, p in expected.items()
    }
    split = noise_data("specks", (4, 4, 4, 40)).test
    assert (correct_predictions(loaded, split) == correct_predictions(model, split)).all()
    assert not loaded.training
    with pytest.raises(RuntimeError, match="cannot be trained"):
        loaded.train()


def test_a_network_for_one_image_is_asked_image_by_image(tmp_path: Path) -> None:
    model = OneImage().eval()
    images = torch.randn(3, 3, 32, 32)
    export_torch(model, (1, 3, 32, 32), tmp_path / "net.pt2", any_batch=True)
    with torch.no_grad():
        expected = torch.cat([model(image) for image in images.split(1)])
        torch.testing.assert_close(load_exported(tmp_path / "net.pt2")(images), expected)


def test_other_weights_have_another_hash(tmp_path: Path) -> None:
    hashes = []
    for seed in (0, 0, 1):
        model = build_model("resnet8-w8", 10, seed)
        export_torch(model, (1, 3, 32, 32), tmp_path / "net.pt2", any_batch=True)
        hashes.append(network_hash(load_exported(tmp_path / "net.pt2")))
    assert hashes[0] == hashes[1] != hashes[2]


def test_it_takes_the_weights_of_a_further_training(tmp_path: Path) -> None:
    before, after = (build_model("resnet8-w8", 10, seed).eval() for seed in (0, 1))
    export_torch(before, (1, 3, 32, 32), tmp_path / "net.pt2", any_batch=True)
    loaded = load_exported(tmp_path / "net.pt2")
    loaded.take_weights(after.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), after(images))
    with pytest.raises(DataError, match="do not fit the exported network"):
        loaded.take_weights(build_model("resnet8", 10).state_dict())


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(b"no network")
    with pytest.raises(DataError, match=r"net\.pt2 is no network that was exported here"):
        load_exported(tmp_path / "net.pt2")


class _Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._marker,)


def test_a_file_with_pickled_weights_runs_nothing(tmp_path: Path) -> None:
    """Such a file unpickles its weights where torch loads it."""
    file = tmp_path / "net.pt2"
    marker = tmp_path / "it-ran"
    export_torch(nn.Linear(2, 2), (1, 2), file)
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            if name.endswith("model_weights_config.json"):
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true', 1)
            elif name.endswith("weight_0"):
                buffer = io.BytesIO()
                torch.save(_Evil(marker), buffer)
                content = buffer.getvalue()
            archive.writestr(name, content)
    with pytest.raises(DataError, match="would be unpickled"):
        load_exported(file)
    assert not marker.exists()
