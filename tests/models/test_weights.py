"""Weights: read from the usual files, refused from others, named by a hash."""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cprune_rl.errors import DataError, ModelError
from cprune_rl.models.registry import build_model
from cprune_rl.models.weights import load_weights, network_hash, save_weights


@pytest.mark.parametrize(
    "form", ["pt", "checkpoint", "tutorial", "parallel", "compiled", "resnet.th", "safetensors"]
)
def test_weights_come_in_the_usual_forms(form: str, own: Path, tmp_path: Path) -> None:
    trained, model = build_model(f"{own}:build", 3, seed=1), build_model(f"{own}:build", 3, seed=0)
    values = trained.state_dict()
    suffixes = {"safetensors": "safetensors", "resnet.th": "th"}
    path = tmp_path / f"w.{suffixes.get(form, 'pt')}"
    if form == "safetensors":
        save_file(values, path)
    else:
        forms = {
            "pt": values,
            "checkpoint": {"state_dict": values, "epoch": 3},
            "tutorial": {"model_state_dict": values, "epoch": 3},
            "parallel": {f"module.{k}": v for k, v in values.items()},
            "compiled": {f"_orig_mod.module.{k}": v for k, v in values.items()},
            "resnet.th": {
                "state_dict": {f"module.{k}": v for k, v in values.items()},
                "best_prec1": 91.7,
            },
        }
        torch.save(forms[form], path)
    load_weights(model, path)
    torch.testing.assert_close(dict(model.state_dict()), dict(values))


def test_weights_without_the_counters_of_batch_norms_fit(tmp_path: Path) -> None:
    trained, model = build_model("resnet8-w8", 10, seed=1), build_model("resnet8-w8", 10, seed=0)
    torch.save(
        {k: v for k, v in trained.state_dict().items() if not k.endswith("num_batches_tracked")},
        tmp_path / "w.pt",
    )
    load_weights(model, tmp_path / "w.pt")
    torch.testing.assert_close(dict(model.state_dict()), dict(trained.state_dict()))


class TwoNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8))
        self.body = nn.Sequential(*self.base.children())


def test_weights_under_two_names_are_written(tmp_path: Path) -> None:
    model, again = TwoNames(), TwoNames()
    save_weights(model, tmp_path / "w.safetensors")
    load_weights(again, tmp_path / "w.safetensors")
    torch.testing.assert_close(dict(again.state_dict()), dict(model.state_dict()))


def test_a_network_that_computes_something_else_has_another_name(tmp_path: Path) -> None:
    names = set()
    for at, (layer, scale) in enumerate(
        [
            ("nn.ReLU()", "1.0"),
            ("nn.SiLU()", "1.0"),
            ("nn.ReLU()", "0.5"),
            ("nn.Dropout(0.1)", "1.0"),
            ("nn.ReLU()", "(2.0 if x.sum() > 0 else 1.0)"),
        ]
    ):
        code = f"""
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv2d(1, 8, 3), {layer}, nn.Linear(8, 3)
    def forward(self, x):
        return self.fc(self.act(self.conv(x)).mean((2, 3)) * {scale})
def build(n_classes):
    return Net()
"""
        for copy in ("a", "b"):
            (tmp_path / f"{copy}{at}.py").write_text(code)
        a, b = (
            network_hash(build_model(f"{tmp_path}/{copy}{at}.py:build", 3, seed=0))
            for copy in ("a", "b")
        )
        assert a == b
        names.add(a)
    assert len(names) == 5


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_no_code_in_a_file_of_weights_is_run(own: Path, tmp_path: Path) -> None:
    torch.save({"0.weight": Evil(tmp_path / "ran")}, tmp_path / "w.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    for name in ("w.pt", "plain.pt"):
        with pytest.raises(DataError, match="cannot be read as weights"):
            load_weights(build_model(f"{own}:build", 3), tmp_path / name)
    assert not (tmp_path / "ran").exists()


class Trainer:
    """A class of the user's that checkpoints hold."""

    epochs = 3


@pytest.mark.parametrize(
    ("form", "what"),
    [
        ("whole", r"pickles torch\.nn\.modules\.conv\.Conv2d"),
        ("checkpoint", r"pickles tests\.models\.test_weights\.Trainer"),
        ("legacy", r"pickles tests\.models\.test_weights\.Trainer"),
        ("number", r"pickles numpy\._core\.multiarray\.scalar"),
        ("script", "is a TorchScript archive"),
        ("plain", r"cannot be read as weights: \w"),
    ],
)
def test_what_is_no_weights_is_named_in_one_line_with_how_to_save_them(
    form: str, what: str, tmp_path: Path
) -> None:
    model = nn.Conv2d(1, 8, 3)
    path = tmp_path / "w.pt"
    checkpoint = {"state_dict": model.state_dict(), "args": Trainer()}
    if form == "script":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(model), path)
    elif form == "plain":
        path.write_bytes(pickle.dumps({"weight": [1.0]}, protocol=4))
    else:
        contents = {"whole": model, "number": {"loss": np.float64(0.5), **model.state_dict()}}
        zipped = form != "legacy"
        torch.save(contents.get(form, checkpoint), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError, match=what) as caught:
        load_weights(model, path)
    said = str(caught.value)
    assert "\n" not in said
    assert "\x1b" not in said
    assert said.endswith("alone with torch.save(model.state_dict(), FILE) or safetensors.")


@pytest.mark.parametrize("content", [None, b"", b"nothing of the kind"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_missing_and_damaged_weights_are_named(
    content: bytes | None, suffix: str, own: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"w.{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"w\.{suffix} cannot be read as weights"):
        load_weights(build_model(f"{own}:build", 3), path)


def test_weights_of_another_network_say_where_they_differ(own: Path, tmp_path: Path) -> None:
    torch.save(
        {
            "0.weight": torch.zeros(4, 1, 3, 3),
            "0.bias": torch.zeros(8),
            "4.bias": torch.zeros(3),
            "5.bias": torch.zeros(3),
        },
        tmp_path / "w.pt",
    )
    with pytest.raises(
        ModelError,
        match=r"it lacks 4\.weight; the network has no 5\.bias; other shapes: "
        r"0\.weight \(\(4, 1, 3, 3\), here \(8, 1, 3, 3\)\)",
    ):
        load_weights(build_model(f"{own}:build", 3), tmp_path / "w.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(DataError, match="holds no state_dict"):
        load_weights(build_model(f"{own}:build", 3), tmp_path / "list.pt")
