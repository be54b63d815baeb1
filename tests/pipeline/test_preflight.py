"""A check of a network: what passes, what fails, and that nothing after a failure is claimed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cprune_rl.compiler.deploy import plain_build
from cprune_rl.models.onnx_export import export_onnx
from cprune_rl.models.registry import build_model
from cprune_rl.pipeline.preflight import forms
from cprune_rl.pipeline.preflight.drawn_statistics import draw_statistics
from cprune_rl.pipeline.preflight.report import NetworkReport
from cprune_rl.pipeline.preflight.run import CheckSettings, check_network
from cprune_rl.pipeline.preflight.workload import RunCosts, estimate_minutes
from cprune_rl.pipeline.progress import ProgressLog

_HEAD = "import torch\nfrom torch import nn\n\n\n"
SMALL = """
class Small(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 12, 3, 2, 1)
        self.fc = nn.Linear(12, n_classes)

    def forward(self, x):
        x = torch.relu(self.b(torch.relu(self.norm(self.a(x)))))
        return self.fc(x.mean((2, 3)))
"""


def check(folder: Path, code: str, **settings: object) -> NetworkReport:
    """Check a network that a file of code builds, for images of 16 pixels."""
    path = folder / "net.py"
    path.write_text(f"{_HEAD}{code}\n\ndef build(n_classes):\n    return Small(n_classes)\n")
    given = {"input_shape": (3, 16, 16), "n_classes": 5, "n_plans": 1, **settings}
    return check_network(CheckSettings(network=f"{path}:build", **given), ProgressLog())


def statuses(report: NetworkReport) -> dict[str, str]:
    return {finding.what: finding.status for finding in report.findings}


def test_a_sound_network_passes_in_every_form(tmp_path: Path) -> None:
    report = check(tmp_path, SMALL)
    assert report.passes, report.findings
    assert report.first_failure is None
    assert report.forms[:2] == ("NCHW", "NHWC")
    assert {f"compiled in {form}" for form in report.forms} <= set(statuses(report))
    assert report.groups == {"a": 8, "b": 12}
    assert report.prunable_layers == ("a", "b")
    assert report.layers == ("a", "b", "fc")
    assert report.left_whole == {"fc": "gives the network's output"}
    assert report.n_rows == 4  # two convolutions, the mean and the classifier
    assert report.minutes == {}  # nothing was timed
    assert json.loads(json.dumps(report.as_json()))["passes"] is True


def test_a_network_out_of_an_onnx_file_passes_as_its_own_code_does(tmp_path: Path) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="pip install 'cprune-rl[onnx]'")
    (tmp_path / "net.py").write_text(f"{_HEAD}{SMALL}\n\ndef build(n):\n    return Small(n)\n")
    file = tmp_path / "net.onnx"
    export_onnx(build_model(f"{tmp_path / 'net.py'}:build", 5), (1, 3, 16, 16), file)
    settings = CheckSettings(network=str(file), input_shape=(3, 16, 16), n_classes=5, n_plans=1)
    report = check_network(settings, ProgressLog())
    assert report.passes, report.findings
    assert sorted(report.groups.values()) == [8, 12]
    assert {f"compiled in {form}" for form in report.forms} <= set(statuses(report))


@pytest.mark.parametrize(
    ("before", "after", "what", "found"),
    [
        (
            "nn.Linear(12, n_classes)",
            "nn.Linear(12, 3)",
            "one image",
            "must give one tensor (1, 5)",
        ),
        ("x.mean((2, 3))", "x.mean((2, 3)) / len(x)", "a batch", "depend on how it is given"),
        ("x.mean((2, 3))", "x.view(1, 12, 16).mean(2)", "a batch", "shape"),
        ("x.mean((2, 3))", "x.mean((2, 3)) / (1 - self.training)", "training mode", "not finite"),
    ],
)
def test_what_training_would_trip_over_is_found_first(
    tmp_path: Path, before: str, after: str, what: str, found: str
) -> None:
    report = check(tmp_path, SMALL.replace(before, after))
    assert not report.passes
    assert report.first_failure is not None
    assert report.first_failure.what == what
    assert found in report.first_failure.found
    assert "groups" not in statuses(report), "nothing is checked after a failure"
    assert report.forms == ()


def test_a_view_that_takes_no_channels_last_costs_speed_alone(tmp_path: Path) -> None:
    code = SMALL.replace("12, n_classes", "12 * 16, n_classes")
    code = code.replace("x.mean((2, 3))", "x.view(x.size(0), -1)")
    report = check(tmp_path, code)
    assert report.passes, report.findings
    assert statuses(report)["channels last"] == "warning"


def test_small_answers_of_a_new_network_are_not_taken_for_other_ones(tmp_path: Path) -> None:
    deep = ", ".join(["nn.Conv2d(8, 8, 1), nn.GELU()"] * 8)
    code = SMALL.replace("nn.BatchNorm2d(8)", f"nn.Sequential({deep})")
    report = check(tmp_path, code, is_exported=False)
    assert report.passes, report.findings


SIDE_HEAD = """
class Small(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.fc, self.side = nn.Linear(12, n_classes), nn.Linear(8, n_classes)

    def forward(self, x):
        maps = torch.relu(self.a(x))
        scores = self.fc(torch.relu(self.b(maps)).mean((2, 3)))
        if not self.training:
            return scores
        return {"a side": self.side(maps.mean((2, 3))), "scores": scores, "maps": maps}
"""


def test_side_heads_are_named_and_cut(tmp_path: Path) -> None:
    report = check(tmp_path, SIDE_HEAD)
    assert report.passes, report.findings
    (training,) = [finding for finding in report.findings if finding.what == "training mode"]
    assert "losses of 1 side heads count 0.3" in training.found
    assert "no loss is taken of its outputs maps" in training.found
    assert report.groups == {"a": 8, "b": 12}
    assert report.left_whole["side"] == "runs in training alone"


def test_a_network_that_only_trains_dense_fails(tmp_path: Path) -> None:
    code = SMALL.replace("x.mean((2, 3))", "x.mean((2, 3)) * self.of_width(x)")
    code += """
    def of_width(self, x):
        return torch.ones(12) if self.training else 1
"""
    report = check(tmp_path, code)
    assert report.first_failure is not None
    assert report.first_failure.what == "training mode, pruned"
    assert "12" in report.first_failure.found
    assert report.forms == ()


TASK = """
from torch.nn import functional


class Tags:
    def loss(self, output, target):
        return functional.binary_cross_entropy_with_logits(output[:, 0], target)

    def correct(self, output, target):
        return target.gather(1, output[:, 0].argmax(1, keepdim=True))[:, 0] > 0.5


class Teaching(Tags):
    def target(self, output):
        return (output[:, 0] > 0).float()


class Broken(Tags):
    def loss(self, output, target):
        return functional.mse_loss(output, target[:, :2])
"""


@pytest.mark.parametrize(
    ("task", "labels", "what", "found"),
    [
        ("Tags", "given", "task", "gives a loss with gradients"),
        ("Teaching", "teacher", "labels", "differ by image"),
    ],
)
def test_a_task_of_the_users_is_tried_on_outputs_of_any_shape(
    tmp_path: Path, task: str, labels: str, what: str, found: str
) -> None:
    report = check_task(tmp_path, task, labels)
    assert report.passes, report.findings
    assert found in next(f.found for f in report.findings if f.what == what)
    assert next(f.found for f in report.findings if f.what == "one image") == "gives (1, 1, 4)"
    assert report.groups == {"a": 8, "b": 12}


def test_a_task_that_fails_is_found_first(tmp_path: Path) -> None:
    report = check_task(tmp_path, "Broken", "given")
    assert report.first_failure is not None
    assert report.first_failure.what == "task"
    assert "loss fails on (8, 1, 4) and (8, 4)" in report.first_failure.found


def coloured(n_images: int) -> np.ndarray:
    """Draw images of one colour each: a network that has learnt nothing tells them apart."""
    colours = np.random.default_rng(0).integers(0, 256, (n_images, 3, 1, 1), np.uint8)
    return np.broadcast_to(colours, (n_images, 3, 16, 16)).copy()


def save_weights(path: Path, code: str, n_outputs: int, images: np.ndarray) -> None:
    """Save drawn weights, with biases by which every output is positive for some images."""
    module: dict[str, Any] = {}
    exec(_HEAD + code, module)
    torch.manual_seed(0)
    model = module["Small"](n_outputs).eval()
    with torch.no_grad():
        scores = model(torch.from_numpy(images).float() / 127.5 - 1)
        model.fc.bias -= scores.reshape(len(images), -1).mean(0)
    torch.save(model.state_dict(), path)


def check_task(folder: Path, task: str, labels: str) -> NetworkReport:
    """Check a network that gives tags, by a task, on images with tags."""
    tags = np.random.default_rng(0).integers(0, 2, (80, 4)).astype(np.float32)
    np.savez(folder / "tags.npz", x=coloured(80), y=tags)
    (folder / "task.py").write_text(TASK)
    code = SMALL.replace("self.fc(x.mean((2, 3)))", "self.fc(x.mean((2, 3)))[:, None]")
    save_weights(folder / "weights.pt", code, 4, coloured(80))
    return check(
        folder,
        code,
        data=f"npz:{folder / 'tags.npz'}",
        task=f"{folder / 'task.py'}:{task}",
        labels=labels,
        weights=folder / "weights.pt",
        input_shape=None,
        n_classes=None,
        is_exported=False,
    )


@pytest.mark.parametrize("differ", [True, False])
def test_a_networks_own_answers_are_labels(tmp_path: Path, differ: bool) -> None:
    images = coloured(80) if differ else np.zeros((80, 3, 16, 16), np.uint8)
    np.savez(tmp_path / "bare.npz", x=images)
    save_weights(tmp_path / "weights.pt", SMALL, 7, coloured(80))
    report = check(
        tmp_path,
        SMALL,
        data=f"npz:{tmp_path / 'bare.npz'}",
        labels="teacher",
        weights=tmp_path / "weights.pt",
        input_shape=None,
        n_classes=None,
        is_exported=False,
    )
    assert report.n_classes == 7
    assert report.passes == differ, report.findings
    if not differ:
        assert report.first_failure is not None
        assert "the same label" in report.first_failure.found


def test_a_network_without_groups_is_said_to_have_none(tmp_path: Path) -> None:
    code = """
class Small(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.fc = nn.Linear(3, n_classes)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))
"""
    report = check(tmp_path, code)
    assert report.first_failure is not None
    assert report.first_failure.what == "groups"
    assert "nothing in this network can be pruned" in report.first_failure.found


def test_a_compiled_network_that_differs_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folded = plain_build.state_arrays

    def off_by_a_little(model: nn.Module) -> object:
        return {name: value * 1.05 for name, value in folded(model).items()}

    monkeypatch.setattr(plain_build, "state_arrays", off_by_a_little)
    report = check(tmp_path, SMALL)
    assert statuses(report)["compiled in NCHW"] == "failed"
    assert "differs from torch" in report.findings[-1].found


def test_a_folder_from_which_nothing_can_be_loaded_is_not_the_networks_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that is mounted noexec."""

    def build_damaged(*_: object, path: Path, **__: object) -> None:
        path.write_text("no library")

    monkeypatch.setattr(forms, "build_plain", build_damaged)
    report = check(tmp_path, SMALL)
    assert report.first_failure is not None
    assert report.first_failure.what == "compiling"
    assert "Set TMPDIR to a folder elsewhere" in report.first_failure.found


def test_weights_are_judged_on_the_images_and_a_wrong_scale_is_suspected(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    torch.manual_seed(0)
    module: dict[str, object] = {}
    exec(_HEAD + SMALL, module)
    torch.save(module["Small"](10).state_dict(), weights)  # type: ignore[operator]
    report = check(tmp_path, SMALL, data="digits", weights=weights, input_shape=None)
    assert statuses(report)["accuracy"] == "warning"


def test_classes_that_the_gate_hardly_sees_are_told(tmp_path: Path) -> None:
    labels = np.arange(240) % 2
    labels[:4] = 2
    np.savez(tmp_path / "few.npz", x=coloured(240), y=labels)
    report = check(
        tmp_path, SMALL, data=f"npz:{tmp_path / 'few.npz'}", input_shape=None, is_exported=False
    )
    images = next(finding for finding in report.findings if finding.what == "images")
    assert images.status == "warning"
    assert "class 2" in images.found
    assert report.passes


def test_more_effort_takes_longer_and_weights_save_training() -> None:
    costs = RunCosts(n_tasks=20, n_forms=2, trial_s=0.3, step_s=0.1, has_weights=False)
    minutes = estimate_minutes(costs)
    assert minutes["fast"] < minutes["quick"] < minutes["light"] < minutes["full"]
    given = RunCosts(n_tasks=20, n_forms=2, trial_s=0.3, step_s=0.1, has_weights=True)
    assert estimate_minutes(given)["full"] == pytest.approx(minutes["full"] - 3000 * 0.1 / 60)


def test_tasks_run_on_a_device_and_minutes_are_estimated(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'costs.db'}"
    report = check(tmp_path, SMALL, device="local", storage=storage)
    assert report.passes, report.findings
    assert "all run" in report.findings[-1].found
    assert set(report.minutes) == {"fast", "quick", "light", "full"}
    assert 0 < report.minutes["fast"] < report.minutes["full"]


def test_statistics_that_are_drawn_fit_what_the_layers_give() -> None:
    """In a deep network of drawn weights an image would else change nothing in the answers."""
    model = draw_statistics(build_model("vgg16-cifar", 10, 0), (3, 32, 32)).eval()
    images = torch.randn((4, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    answers = model(images).detach()
    assert (answers.std(dim=0) > 1e-3 * answers.abs().max()).all()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        assert norm.running_mean.std() > 0, "zeros and ones would hide a wrong order of channels"
        assert norm.running_var.std() > 0


def test_statistics_of_a_network_that_cannot_be_run_are_drawn_all_the_same() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("not today")

    assert draw_statistics(Broken(), (4, 8, 8)).norm.running_mean.std() > 0
