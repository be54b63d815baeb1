"""Networks without the wrappers that users trained them in."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from cprune_rl.errors import ModelError
from cprune_rl.models import torchvision_import
from cprune_rl.models.registry import build_model
from cprune_rl.models.torchvision_import import load_user_function
from cprune_rl.models.weights import load_weights
from cprune_rl.models.wrappers import unwrap


def body() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))


def test_wrappers_are_taken_off_around_a_network_and_around_its_parts() -> None:
    model = body()
    model[0] = nn.DataParallel(torch.compile(nn.Sequential(torch.compile(model[0]))))
    model[2].compile()
    whole = torch.compile(nn.DataParallel(torch.compile(model)))
    plain = unwrap(whole)
    assert list(plain.state_dict()) == ["0.0.weight", "0.0.bias", "2.weight", "2.bias"]
    kinds = {type(module) for module in plain.modules()}
    assert kinds == {nn.Sequential, nn.Conv2d, nn.Flatten, nn.Linear}
    assert plain[2]._compiled_call_impl is None
    assert plain(torch.zeros(1, 3, 8, 8)).shape == (1, 5)


def test_a_wrapped_network_of_a_users_file_is_built_and_takes_its_own_weights(
    tmp_path: Path,
) -> None:
    file = tmp_path / "mynet.py"
    file.write_text(
        "import torch\n"
        "from torch import nn\n"
        "def build(n):\n"
        "    features = torch.compile(nn.Conv2d(3, 4, 8))\n"
        "    net = nn.Sequential(features, nn.Flatten(), nn.Linear(4, n))\n"
        "    return nn.DataParallel(net)\n"
    )
    model = build_model(f"{file}:build", 5)
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    wrapped = {
        "module." + name.replace("0.", "0._orig_mod."): value + 1
        for name, value in model.state_dict().items()
    }
    torch.save(wrapped, tmp_path / "w.pt")
    before = model[2].bias.detach().clone()
    load_weights(model, tmp_path / "w.pt")
    torch.testing.assert_close(model[2].bias, before + 1)


def test_torchscript_is_one_line() -> None:
    with pytest.raises(ModelError, match="TorchScript"):
        unwrap(torch.jit.trace(body(), torch.zeros(1, 3, 8, 8)))


class Failing:
    """Stands for a torchvision whose operators torch lacks until they are declared."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "torchvision_of_cuda" and not torchvision_import._declared:
            raise RuntimeError("operator torchvision::nms does not exist")


def test_a_users_file_that_imports_a_torchvision_for_cuda_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torchvision_of_cuda.py").write_text("WIDTH = 4\n")
    file = tmp_path / "mynet.py"
    file.write_text("from torchvision_of_cuda import WIDTH\ndef build():\n    return WIDTH\n")
    declared: list[str] = []
    monkeypatch.setattr(torchvision_import, "_declared", declared)
    # A process can declare them once, and another test may have.
    monkeypatch.setattr(torchvision_import, "_declare_operators", lambda: declared.append("nms"))
    monkeypatch.setattr(sys, "meta_path", [Failing(), *sys.meta_path])
    assert load_user_function("model", f"{file}:build")() == 4
    assert declared == ["nms"]
