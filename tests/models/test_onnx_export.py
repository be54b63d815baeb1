"""ONNX out: what ONNX Runtime computes is what torch computes, or the file is not written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cprune_rl.errors import ConfigError, ModelError, UnknownNameError
from cprune_rl.models import onnx_export
from cprune_rl.models.export_formats import check_formats, default_formats, export_network
from cprune_rl.models.onnx_export import export_onnx, run_onnx
from cprune_rl.models.registry import build_model

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="pip install 'cprune-rl[onnx]'")
SHAPE = (1, 3, 32, 32)


class OneImage(nn.Module):
    """A network that only takes one image at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(images).mean((2, 3)).view(1, 4))


class Ranked(nn.Module):
    """A network with an operator that ONNX lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.special.bessel_j0(images.mean((2, 3))))


def images_of(n: int) -> torch.Tensor:
    return torch.randn(n, *SHAPE[1:], generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    model = build_model("resnet8-w8", 10).eval()
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_network("onnx", model, SHAPE, path)
    return model, path


@pytest.mark.parametrize("n_images", [1, 5])
def test_the_file_computes_what_the_network_does_for_batches_of_any_size(
    exported: tuple[nn.Module, Path], n_images: int
) -> None:
    model, path = exported
    images = images_of(n_images)
    with torch.no_grad():
        expected = model(images).numpy()
    np.testing.assert_allclose(run_onnx(path, images.numpy()), expected, atol=1e-5)


def test_the_file_stands_alone_and_names_its_ends(exported: tuple[nn.Module, Path]) -> None:
    import onnx

    _, path = exported
    graph = onnx.load(str(path), load_external_data=False).graph
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    assert [value.name for value in (*graph.input, *graph.output)] == ["image", "logits"]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert all(tensor.data_location == 0 for tensor in graph.initializer)


def test_a_network_of_one_image_is_written_for_one(tmp_path: Path) -> None:
    model = OneImage().eval()
    export_onnx(model, SHAPE, tmp_path / "model.onnx")
    with torch.no_grad():
        expected = model(images_of(1)).numpy()
    found = run_onnx(tmp_path / "model.onnx", images_of(1).numpy())
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_operator_that_onnx_lacks_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"operator \S*bessel_j0 has no form in ONNX"):
        export_onnx(Ranked(), SHAPE, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_computes_something_else_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "run_onnx", lambda path, images: np.ones((len(images), 10)))
    with pytest.raises(ModelError, match="computes something else than torch"):
        export_onnx(build_model("resnet8-w8", 10), SHAPE, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_network_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match=r"cannot run .*model\.onnx") as caught:
        run_onnx(tmp_path / "model.onnx", images_of(1).numpy())
    assert "\n" not in str(caught.value)


def test_without_the_extra_a_run_writes_no_onnx_and_asking_for_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert default_formats() == ("onnx",)
    monkeypatch.setattr(onnx_export.importlib.util, "find_spec", lambda name: None)
    assert default_formats() == ()
    with pytest.raises(ConfigError, match=r"--export onnx needs onnx.*cprune-rl\[onnx\]"):
        check_formats(["onnx"])
    with pytest.raises(ConfigError, match=r"tflite is not offered: litert-torch .* torch"):
        check_formats(["tflite"])
    with pytest.raises(UnknownNameError, match=r"unknown export format 'onxx'\. Did you mean"):
        check_formats(["onxx"])
