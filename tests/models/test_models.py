"""Networks by name, their weights from files, and which channels of them may go."""

from __future__ import annotations

import importlib.util
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cprune_rl.accuracy.data import load_data
from cprune_rl.accuracy.training import accumulate_gradients
from cprune_rl.core.network import Plan
from cprune_rl.errors import ConfigError, DataError, ModelError, UnknownNameError
from cprune_rl.models.registry import build_model, check_model_name, check_output
from cprune_rl.models.weights import load_weights, network_hash, save_weights
from cprune_rl.pipeline.config import load_config
from cprune_rl.pipeline.setup import check_names
from cprune_rl.pruning.groups import GroupSettings, find_groups
from cprune_rl.pruning.importance import IMPORTANCES
from cprune_rl.pruning.surgery import prune

OWN = """
import torch
from torch import nn
def build(n_classes):
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, n_classes)]
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), *head)
def fixed():
    return build(10)
def number(n):
    return n
def fails(n):
    raise RuntimeError("no weights here")
"""


def needs(*libraries: str) -> None:
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed: pip install 'cprune-rl[{library}]'")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A file with functions that build networks."""
    (tmp_path / "mynet.py").write_text(OWN)
    return tmp_path / "mynet.py"


# --- names


@pytest.mark.parametrize("name", ["resnet-8", "torchvision:", "tensorflow:resnet", "mynet.py"])
def test_a_name_that_no_network_has_is_refused_early(name: str) -> None:
    with pytest.raises(UnknownNameError, match="torchvision:NAME"):
        check_model_name(name)


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


def test_paths_in_names_are_whole_in_a_runs_options(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.npz").touch()
    config = load_config(
        None, {"model": "mynet.py:build", "data": "npz:mine.npz?seed=3", "weights": "w.pt"}
    )
    assert config.model == f"{own}:build"
    assert config.data == f"npz:{tmp_path / 'mine.npz'}?seed=3"
    assert config.weights == tmp_path / "w.pt"
    Path("hard").mkdir()
    assert load_config(None, {"data": "contours:hard"}).data == "contours:hard"


@pytest.mark.parametrize(
    "options",
    [{"data": "npz:gone.npz"}, {"weights": "gone.pt"}, {"data": "imagefolder:gone?size=32"}],
)
def test_files_that_are_not_there_are_told_before_anything_is_done(options: dict[str, str]) -> None:
    with pytest.raises(DataError, match=r"gone.* is not there"):
        check_names(load_config(None, options))


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


# --- weights


@pytest.mark.parametrize(
    "form", ["pt", "checkpoint", "tutorial", "parallel", "compiled", "safetensors"]
)
def test_weights_come_in_the_usual_forms(form: str, own: Path, tmp_path: Path) -> None:
    trained, model = build_model(f"{own}:build", 3, seed=1), build_model(f"{own}:build", 3, seed=0)
    values = trained.state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        save_file(values, path)
    else:
        forms = {
            "pt": values,
            "checkpoint": {"state_dict": values, "epoch": 3},
            "tutorial": {"model_state_dict": values, "epoch": 3},
            "parallel": {f"module.{k}": v for k, v in values.items()},
            "compiled": {f"_orig_mod.module.{k}": v for k, v in values.items()},
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


def test_a_package_in_the_working_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets_of_mine").mkdir()
    (tmp_path / "nets_of_mine" / "small.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    assert isinstance(build_model("nets_of_mine.small:build", 3), nn.Module)


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


# --- what may go, and in which order

EXAMPLE = torch.zeros(1, 3, 32, 32)


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_every_criterion_ranks_all_channels(importance: str) -> None:
    model, data = build_model("resnet8-w8", 10).eval(), load_data("digits")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    coupled, again = (
        find_groups(
            model,
            EXAMPLE,
            GroupSettings(importance=importance),
            lambda m: accumulate_gradients(m, data),
        )
        for _ in range(2)
    )
    for group in coupled.groups:
        assert sorted(coupled.ranking[group.name]) == list(range(group.channels))
        assert np.isfinite(coupled.importance[group.name]).all()
        assert len(set(coupled.importance[group.name])) > 1
    assert coupled.ranking == again.ranking
    torch.testing.assert_close(before, dict(model.state_dict()))


def test_criteria_differ_and_random_follows_its_seed() -> None:
    model = build_model("resnet8-w8", 10).eval()
    by = {
        (name, seed): find_groups(model, EXAMPLE, GroupSettings(importance=name, seed=seed)).ranking
        for name in ("l1", "fpgm", "random")
        for seed in (0, 1)
    }
    assert by["random", 0] != by["random", 1]
    assert by["l1", 0] == by["l1", 1] != by["fpgm", 0]


def test_l1_puts_the_channel_with_small_weights_last() -> None:
    model = build_model("vgg-small", 10).eval()
    with torch.no_grad():
        model.features[0].weight[5] *= 1e-3
        model.features[1].weight[5] *= 1e-3
        model.features[3].weight[:, 5] *= 1e-3
    for name in ("l1", "l2"):
        assert (
            find_groups(model, EXAMPLE, GroupSettings(importance=name)).ranking["features.0"][-1]
            == 5
        )


def test_taylor_without_images_says_what_it_needs() -> None:
    with pytest.raises(ConfigError, match="needs gradients"):
        find_groups(build_model("resnet8-w8", 10), EXAMPLE, GroupSettings(importance="taylor"))


def test_frozen_layers_stay_whole_with_what_is_coupled_to_them() -> None:
    coupled = find_groups(
        build_model("resnet8-w8", 10), EXAMPLE, GroupSettings(freeze=("blocks.0.conv2", "blocks.1"))
    )
    reasons = dict(coupled.unprunable)
    assert (
        reasons["conv1"] == "frozen by 'blocks.0.conv2' (and so blocks.0.conv2, coupled to it)"
    ), "its channels are added to those of the first block"
    assert {"blocks.1.conv1"} <= {
        name for name, reason in reasons.items() if reason == "frozen by 'blocks.1'"
    }
    assert all(
        not layer.startswith("blocks.1.") for group in coupled.groups for layer in group.layers
    )
    assert [
        g.name
        for g in find_groups(
            build_model("resnet8-w8", 10), EXAMPLE, GroupSettings(freeze=("*.conv2",))
        ).groups
    ] == [f"blocks.{i}.conv1" for i in range(3)]


def test_shares_that_stay_are_the_groups_minimum() -> None:
    coupled = find_groups(
        build_model("resnet8-w8", 10),
        EXAMPLE,
        GroupSettings(keep={"blocks.2": 0.5, "blocks.2.conv1": 0.9}),
    )
    minimum = {g.name: g.minimum for g in coupled.groups}
    assert minimum["blocks.2.conv1"] == 29
    assert minimum["blocks.0.conv1"] == 2


@pytest.mark.parametrize(
    "settings", [GroupSettings(freeze=("stem",)), GroupSettings(keep={"stem": 0.5})]
)
def test_a_layer_that_is_not_there_is_named_with_those_that_are(settings: GroupSettings) -> None:
    with pytest.raises(
        ConfigError, match=r"no layer with channels of its own is called 'stem'. Known: blocks"
    ):
        find_groups(build_model("resnet8-w8", 10), EXAMPLE, settings)


class Grouped(nn.Module):
    """A good group, a grouped convolution, a norm over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.second = nn.Conv2d(8, 12, 3)
        self.norm = nn.GroupNorm(1, 12)
        self.third = nn.Conv2d(12, 6, 3)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.second(torch.relu(self.grouped(self.first(x))))))
        return self.fc(torch.relu(self.third(y)).mean((2, 3)))


def test_groups_at_fault_are_found_among_good_ones() -> None:
    coupled = find_groups(Grouped(), torch.zeros(1, 3, 16, 16))
    assert [g.name for g in coupled.groups] == ["third"]
    reasons = dict(coupled.unprunable)
    assert "removing channels is not masking them" in reasons["second"]
    assert reasons["fc"] == "gives the network's output"


@pytest.mark.parametrize(
    ("keep", "what"),
    [
        ("stem", "give a layer and the share"),
        ("stem=2", "give a layer and the share"),
        ("=0.5", "give a layer and the share"),
    ],
)
def test_a_share_that_is_none_is_refused_with_the_options(keep: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        load_config(None, {"keep": keep})
    assert load_config(None, {"keep": ["a=0.5", "b.c=1"], "freeze": "stem"}).kept_shares == {
        "a": 0.5,
        "b.c": 1.0,
    }


class Hidden(nn.Module):
    """A branch whose channels cannot be removed, behind a scale that begins at nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.conv1, self.conv2, self.norm = (
            nn.Conv2d(3, 8, 3, 1, 1),
            nn.Conv2d(8, 8, 3, 1, 1),
            nn.Conv2d(8, 8, 1),
            nn.BatchNorm2d(8),
        )
        self.fc = nn.Linear(8, 3)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv0(x)
        h = self.conv1(x)
        h = h - h.mean(1, keepdim=True)
        return self.fc((x + self.norm(self.conv2(h))).mean((2, 3)))


def test_a_scale_that_begins_at_nothing_hides_nothing_from_the_guard() -> None:
    coupled = find_groups(Hidden().eval(), torch.zeros(1, 3, 8, 8))
    assert "removing channels is not masking them" in dict(coupled.unprunable)["conv1"]
    assert "conv0" in {g.name for g in coupled.groups} or "conv2" in {
        g.name for g in coupled.groups
    }


def test_a_pattern_that_matches_no_channels_is_refused() -> None:
    model = build_model("resnet8-w8", 10)
    with pytest.raises(ConfigError, match="no layer with channels of its own"):
        find_groups(model, torch.zeros(1, 3, 32, 32), GroupSettings(freeze=("*.bn1",)))
