"""A network as one file: the same answers without its code, and no code in the file is run."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from cprune_rl.errors import DataError
from cprune_rl.models.registry import build_model
from cprune_rl.models.saved_network import has_graph, load_network, save_network

SHAPE = (1, 3, 32, 32)


class Mixed(nn.Module):
    """Constants in forward, several tensors of one operator, sizes, and a layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding="same", padding_mode="reflect")
        self.same = nn.Conv2d(4, 4, 1)
        self.register_buffer("scale", torch.rand(4, 1, 1), persistent=False)
        self.fc = nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = (images - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)).flip(1)
        left, right = torch.relu_(self.stem(images)).chunk(2, 1)
        maps = torch.cat([self.same(left) * self.scale, self.same(right)], 1)
        pooled = nn.functional.adaptive_avg_pool2d(maps, 4).clamp(max=float("inf"))
        return self.fc(pooled.view(pooled.size(0), 8, -1).mean(-1))


class Branching(nn.Module):
    """What torch.export cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = images if images.sum() > 0 else -images
        return self.fc(maps.mean((2, 3)))


def images_of(n: int) -> torch.Tensor:
    return torch.randn(n, *SHAPE[1:], generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model.safetensors"
    save_network(Mixed(), SHAPE, path)
    return path


def graph_of(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        value: dict[str, Any] = json.loads(file.metadata()["graph"])
        return value


def with_graph(path: Path, graph: dict[str, Any], folder: Path) -> Path:
    save_file(load_file(path), folder / "other.safetensors", {"graph": json.dumps(graph)})
    return folder / "other.safetensors"


@pytest.mark.parametrize("name", ["resnet8-w8", "mobilenetv2-small", "mixed"])
def test_a_network_gives_the_same_answers_without_its_code(name: str, tmp_path: Path) -> None:
    model = (Mixed() if name == "mixed" else build_model(name, 10)).eval()
    save_network(model, SHAPE, tmp_path / "model.safetensors")
    network = load_network(tmp_path / "model.safetensors")
    assert network.takes_batches
    for images in (images_of(1), images_of(4), images_of(2).to(memory_format=torch.channels_last)):
        with torch.no_grad():
            torch.testing.assert_close(network(images), model(images), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(copy.deepcopy(network)(images), model(images))
    weights = dict(network.named_parameters())
    assert {n: p.shape for n, p in weights.items()} == {
        n: p.shape for n, p in model.named_parameters()
    }
    network(images_of(1)).sum().backward()
    assert all(parameter.grad is not None for parameter in weights.values())


def test_weights_are_still_read_as_weights(saved: Path) -> None:
    assert load_file(saved).keys() == Mixed().state_dict().keys()


def test_a_network_without_a_graph_keeps_its_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_network(Branching(), SHAPE, path)
    assert not has_graph(path)
    assert load_file(path).keys() == Branching().state_dict().keys()
    with pytest.raises(DataError, match=r"model\.safetensors holds weights alone"):
        load_network(path)


@pytest.mark.parametrize(
    "call",
    [
        "aten.save.default",
        "aten.from_file.default",
        "prim.Print.default",
        "aten.__class__.default",
        "aten.conv2d",
        "os.system",
        "operator.attrgetter",
        7,
    ],
)
def test_a_graph_calls_operators_on_tensors_alone(call: Any, saved: Path, tmp_path: Path) -> None:
    graph = graph_of(saved)
    graph["nodes"][0][1] = call
    with pytest.raises(DataError, match=r"other\.safetensors holds no network that can be run"):
        load_network(with_graph(saved, graph, tmp_path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2),
        ("input_shape", [-1, 3, 32, 32]),
        ("input_shape", [1, 5, 32, 32]),
        ("weights", {"p_fc_weight": "nothing.there"}),
        ("weights", {"p_fc_weight": "fc.__class__"}),
        ("weights", []),
        ("constants", {"c": {"dtype": "object", "shape": [1], "content": ""}}),
        ("constants", {"c": {"dtype": "float32", "shape": [10**12], "content": ""}}),
        ("nodes", [["x", "aten.relu.default", [{"value": "y"}], {}]]),
        ("nodes", [["x", "aten.relu.default", [{"dtype": "load"}], {}]]),
        ("nodes", [["x", "aten.relu.default", [{"path": "w"}], {}]]),
        ("nodes", None),
        ("output", {"value": "nothing"}),
    ],
)
def test_a_damaged_graph_is_one_line_that_names_the_file(
    key: str, value: Any, saved: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    graph = {**graph_of(saved), key: value}
    with pytest.raises(DataError, match=r"other\.safetensors holds no network") as caught:
        load_network(with_graph(saved, graph, tmp_path))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_what_a_terminal_would_obey_is_not_shown(saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes().replace(b'"F32"', b'"\\u001b"', 1)
    (tmp_path / "odd.safetensors").write_bytes(content.replace(b" ", b"", 1))
    with pytest.raises(DataError, match=r"odd\.safetensors cannot be read") as caught:
        load_network(tmp_path / "odd.safetensors")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("n_bytes", [0, 5, 2000, -10])
def test_a_file_cut_short_is_named(n_bytes: int, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(saved.read_bytes()[:n_bytes])
    with pytest.raises(DataError, match=r"cut\.safetensors cannot be read as weights") as caught:
        load_network(tmp_path / "cut.safetensors")
    assert "\n" not in str(caught.value)
