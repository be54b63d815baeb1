"""Networks by name: packaged ones, the libraries', and the user's own."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cprune_rl.core.network import Plan
from cprune_rl.errors import ConfigError, ModelError, UnknownNameError
from cprune_rl.models import torchvision_import
from cprune_rl.models.registry import build_model, check_model_name, check_output
from cprune_rl.pruning.groups import find_groups
from cprune_rl.pruning.surgery import prune
from tests.models.conftest import OWN


def needs(*libraries: str) -> None:
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed: pip install 'cprune-rl[{library}]'")


@pytest.mark.parametrize("name", ["resnet-8", "torchvision:", "tensorflow:resnet", "mynet.py"])
def test_a_name_that_no_network_has_is_refused_early(name: str) -> None:
    with pytest.raises(UnknownNameError, match="torchvision:NAME"):
        check_model_name(name)


def test_an_unknown_model_is_named_with_what_was_meant() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'resnet8'\?"):
        build_model("resnet-8", 10)


def test_a_function_of_ones_own_gives_a_network(own: Path) -> None:
    for function, n_classes in (("build", 3), ("fixed", 10)):
        model = build_model(f"{own}:{function}", n_classes)
        check_output(model, torch.zeros(1, 1, 8, 8), n_classes, "mine")
    a, b, c = (build_model(f"{own}:build", 3, seed=s).state_dict()["0.weight"] for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize(
    ("function", "error", "what"),
    [
        ("number", ModelError, "gives int"),
        ("fails", ModelError, "no weights here"),
        ("built", ConfigError, "It has: build, fails, fixed, number"),
    ],
)
def test_a_function_that_gives_none_says_so(
    own: Path, function: str, error: type[Exception], what: str
) -> None:
    with pytest.raises(error, match=what):
        build_model(f"{own}:{function}", 3)


@pytest.mark.parametrize(
    ("shape", "n_classes", "what"),
    [((1, 3, 8, 8), 10, "does not take images"), ((1, 1, 8, 8), 4, "must give")],
)
def test_a_network_that_does_not_go_with_its_data_is_refused(
    own: Path, shape: tuple[int, ...], n_classes: int, what: str
) -> None:
    with pytest.raises(ModelError, match=what):
        check_output(build_model(f"{own}:fixed", n_classes), torch.zeros(shape), n_classes, "mynet")


def test_a_package_in_the_working_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets_of_mine").mkdir()
    (tmp_path / "nets_of_mine" / "small.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    assert isinstance(build_model("nets_of_mine.small:build", 3), nn.Module)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:mobilenetv3_small_050"])
def test_a_librarys_network_is_pruned_as_masking_says(name: str) -> None:
    needs("torchvision", name.partition(":")[0])
    model, example = build_model(name, 5).eval(), torch.zeros(1, 3, 32, 32)
    check_output(model, example, 5, name)
    coupled = find_groups(model, example)
    assert len(coupled.groups) >= 10
    plan = Plan(tuple(max(g.minimum, g.channels // 2) for g in coupled.groups))
    pruned = prune(model, coupled, plan)
    widths = {g.name: w for g, w in zip(coupled.groups, plan.widths, strict=True)}
    for parameter, value in pruned.state_dict().items():
        assert tuple(value.shape) == tuple(e.at(widths) for e in coupled.axes[parameter]), parameter
    check_output(pruned, example, 5, name)


def test_a_library_that_has_no_such_network_says_what_was_meant() -> None:
    needs("torchvision")
    with pytest.raises(UnknownNameError, match=r"Did you mean 'torchvision:resnet18'\?.* more"):
        build_model("torchvision:resnet1", 10)


def test_a_network_of_other_numbers_is_cast_and_lazy_layers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text(
        "from torch import nn\n\n"
        "def halves(n): return nn.Sequential(nn.Flatten(), nn.Linear(12, n)).half()\n"
        "def lazy(n): return nn.Sequential(nn.Flatten(), nn.LazyLinear(n))\n"
    )
    model = build_model(f"{path}:halves", 5)
    check_output(model, torch.zeros(1, 3, 2, 2), 5, "halves")
    assert model.get_parameter("1.weight").dtype is torch.float32
    with pytest.raises(ModelError, match=r"leaves 1.weight without a shape: call the network once"):
        build_model(f"{path}:lazy", 5)


def test_a_function_may_import_torchvision_when_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.py"
    path.write_text(
        "import torch\n\n"
        "def build(n):\n"
        "    if not hasattr(torch.ops.torchvision, 'qnms'):\n"
        "        raise RuntimeError('operator torchvision::nms does not exist')\n"
        "    return torch.nn.Linear(n, n)\n"
    )
    declared: list[str] = []

    def declare() -> None:
        declared.append("qnms")
        monkeypatch.setattr(torch.ops.torchvision, "qnms", None, raising=False)

    monkeypatch.setattr(torchvision_import, "_declared", declared)
    monkeypatch.setattr(torchvision_import, "_declare_operators", declare)
    monkeypatch.setattr(torch.ops, "torchvision", SimpleNamespace())
    assert build_model(f"{path}:build", 5).get_parameter("weight").shape == (5, 5)
    assert declared == ["qnms"]
