"""ONNX in: a network that can be pruned and trained, or one line that says what is at fault."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cprune_rl.errors import ConfigError, DataError, ModelError
from cprune_rl.models import onnx_import
from cprune_rl.models.onnx_export import export_onnx, run_onnx
from cprune_rl.models.onnx_import import load_onnx
from cprune_rl.models.registry import build_model, check_model_name, check_output, has_own_weights
from cprune_rl.models.saved_network import load_network, save_network
from cprune_rl.pruning.groups import find_groups

onnx = pytest.importorskip("onnx", reason="pip install 'cprune-rl[onnx]'")
if importlib.util.find_spec("onnx2pytorch") is None:
    pytest.skip("pip install 'cprune-rl[onnx]'", allow_module_level=True)
SHAPE = (1, 3, 32, 32)


class Parts(nn.Module):
    """What files of classifiers have: flattened maps, two branches, a slope of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.slope = nn.PReLU(8)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.left = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.right = nn.Conv2d(8, 12, 1)
        self.hidden = nn.Linear(20 * 8 * 8, 16)
        self.fc = nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.up(self.slope(self.stem(images)))
        maps = nn.functional.avg_pool2d(self.pool(maps), 2)
        left = nn.functional.hardswish(self.left(maps)) + 0.5
        maps = torch.cat([left, nn.functional.relu6(self.right(maps))], 1)
        gate = torch.sigmoid(maps.mean((2, 3), keepdim=True))
        return self.fc(torch.relu(self.hidden((maps * gate).flatten(1))))


def images_of(n: int) -> torch.Tensor:
    return torch.randn(n, *SHAPE[1:], generator=torch.Generator().manual_seed(0))


def trained(model: nn.Module) -> nn.Module:
    """Give batch norms statistics that no untrained network has."""
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(images_of(8))
    return model.eval()


def written(model: nn.Module, path: Path, form: str) -> None:
    if form == "dynamic":
        export_onnx(model, SHAPE, path)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (images_of(1),),
            path,
            dynamo=form == "static",
            external_data=False,
            verbose=False,
            # batch norms are kept, which an export of inference folds
            **(
                {}
                if form == "static"
                else {"do_constant_folding": False, "training": torch.onnx.TrainingMode.PRESERVE}
            ),
        )


@pytest.mark.parametrize("form", ["dynamic", "static", "torchscript"])
@pytest.mark.parametrize("name", ["resnet8-w8", "mobilenetv2-small", "parts"])
def test_a_file_gives_the_network_back_and_it_can_be_pruned(
    name: str, form: str, tmp_path: Path
) -> None:
    model = trained(Parts() if name == "parts" else build_model(name, 10))
    path = tmp_path / "net.onnx"
    written(model, path, form)
    network = build_model(str(path), 10)
    check_output(network, images_of(1), 10, "net.onnx")
    with torch.no_grad():
        expected = model.eval()(images_of(4))
        torch.testing.assert_close(network(images_of(4)), expected, atol=1e-4, rtol=1e-4)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert bool(norms) == (form == "torchscript" and name != "parts")
    assert all(norm.momentum == pytest.approx(0.1) for norm in norms)
    own = find_groups(copy.deepcopy(model), torch.zeros(SHAPE))
    found = find_groups(network, torch.zeros(SHAPE))
    assert sorted(g.channels for g in found.groups) == sorted(g.channels for g in own.groups)
    kept = {group.name: range(group.minimum) for group in found.groups}
    pruned = found.slices.prune(network, kept)
    assert pruned(images_of(2)).shape == (2, 10)
    pruned.train()(images_of(2)).sum().backward()


def test_layers_are_named_as_their_weights_are(tmp_path: Path) -> None:
    written(build_model("resnet8-w8", 10).eval(), tmp_path / "net.onnx", "static")
    names = {name for name, _ in load_onnx(tmp_path / "net.onnx").named_modules()}
    own = {
        name
        for name, module in build_model("resnet8-w8", 10).named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    }
    assert own <= names


def test_an_imported_network_is_saved_as_one_file(tmp_path: Path) -> None:
    written(Parts().eval(), tmp_path / "net.onnx", "dynamic")
    network = load_onnx(tmp_path / "net.onnx")
    save_network(network, SHAPE, tmp_path / "model.safetensors")
    again = load_network(tmp_path / "model.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(again(images_of(3)), network(images_of(3)))
    export_onnx(network, SHAPE, tmp_path / "again.onnx")
    found = run_onnx(tmp_path / "again.onnx", images_of(3).numpy())
    np.testing.assert_allclose(found, network(images_of(3)).detach().numpy(), atol=1e-4)


def make(
    nodes: list[Any],
    weights: dict[str, np.ndarray[Any, Any]] | None = None,
    shape: tuple[Any, ...] = (1, 3, 8, 8),
    dtype: int = 1,
    opset: int = 17,
) -> Any:
    """Make a file's content by hand: from `image` to `out`."""
    helper = onnx.helper
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", dtype, shape)],
        [helper.make_tensor_value_info("out", dtype, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.example", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def node(kind: str, inputs: str, output: str = "out", **attributes: Any) -> Any:
    return onnx.helper.make_node(kind, inputs.split(), [output], **attributes)


KERNEL = {"w": np.random.default_rng(0).standard_normal((4, 3, 1, 1)).astype(np.float32)}


def test_a_file_by_hand_with_shapes_that_are_computed_and_a_softmax(tmp_path: Path) -> None:
    """Other exporters write a flattening as Shape, Gather, Unsqueeze, Concat and Reshape."""
    weights = {
        **KERNEL,
        "fc": np.random.default_rng(1).standard_normal((256, 5)).astype(np.float32),
        "bias": np.zeros(5, np.float32),
        "zero": np.array(0),
        "axes": np.array([0]),
        "rest": np.array([-1]),
    }
    nodes = [
        node("Conv", "image w", "maps", kernel_shape=[1, 1]),
        node("Relu", "maps", "positive"),
        node("Shape", "positive", "shape"),
        node("Gather", "shape zero", "n"),
        node("Unsqueeze", "n axes", "first"),
        node("Concat", "first rest", "target", axis=0),
        node("Reshape", "positive target", "flat"),
        node("MatMul", "flat fc", "product"),
        node("Add", "product bias", "scores"),
        node("Softmax", "scores", axis=1),
    ]
    onnx.save(make(nodes, weights, shape=("N", 3, 8, 8)), str(tmp_path / "net.onnx"))
    network = load_onnx(tmp_path / "net.onnx")
    images = torch.randn(2, 3, 8, 8)
    expected = run_onnx(tmp_path / "net.onnx", images.numpy())
    logits = network(images)
    np.testing.assert_allclose(logits.softmax(1).detach().numpy(), expected, atol=1e-5)
    assert not np.allclose(logits.detach().numpy(), expected)
    assert [g.channels for g in find_groups(network, images[:1]).groups] == [4]


HEAD = node("GlobalAveragePool", "maps")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (make([node("Conv", "image w", "maps"), HEAD], KERNEL, ("N", 3, "H", "W")), "any size"),
        (make([node("Relu", "image")], shape=("N", 3)), "images are batch x channels"),
        (make([node("Relu", "image")], dtype=11), "images of double: export it with float32"),
        (make([node("Relu", "image")], opset=6), "opset 6, 7 to"),
        (make([node("Fused", "image", domain="com.example")]), r"followed: com\.example\.Fused"),
        (make([node("Conv", "image w", "maps"), HEAD]), "ONNX Runtime cannot run"),
        (make([node("ConstantOfShape", "s")], {"s": np.array([1, 4])}), "does not depend on"),
        (make([node("Reshape", "image s")], {"s": np.array([1, 8, 24])}), None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_cannot_be_followed_says_why_in_one_line(
    content: Any, message: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(content, str(path))
    if message is None:
        load_onnx(path)
        return
    with pytest.raises((DataError, ModelError), match=message) as caught:
        load_onnx(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x08\x08", b"no protobuf", b"PK\x03\x04" * 90])
def test_a_file_that_is_no_onnx_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(DataError, match=r"net\.onnx (is no ONNX file|cannot be read)") as caught:
        load_onnx(tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)


def test_weights_in_a_file_that_is_missing_are_named(tmp_path: Path) -> None:
    content = make([node("Conv", "image w", "maps"), HEAD], KERNEL)
    path = tmp_path / "net.onnx"
    onnx.save_model(
        content, str(path), save_as_external_data=True, location="w.bin", size_threshold=0
    )
    assert load_onnx(path)(torch.randn(2, 3, 8, 8)).shape == (2, 4, 1, 1)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(DataError, match=r"keeps its weights in 'w\.bin', which is not beside it"):
        load_onnx(path)


def test_a_conversion_that_computes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(make([node("Conv", "image w", "maps"), HEAD], KERNEL), str(tmp_path / "net.onnx"))
    monkeypatch.setattr(onnx_import, "run_onnx", lambda path, images: np.ones((1, 4, 1, 1)))
    with pytest.raises(ModelError, match="something else than ONNX Runtime computes"):
        load_onnx(tmp_path / "net.onnx")


def test_without_the_extra_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_import.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"net\.onnx needs onnx.*cprune-rl\[onnx\]"):
        build_model(str(tmp_path / "net.onnx"), 10)


def test_a_name_that_ends_in_onnx_is_a_network_with_weights() -> None:
    check_model_name("some/net.onnx")
    assert has_own_weights("some/net.onnx")
    assert not has_own_weights("resnet8")
