"""A check of a network: what passes, what fails, and that nothing after a failure is claimed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from cprune_rl.compiler.deploy import plain_build
from cprune_rl.models.onnx_export import export_onnx
from cprune_rl.models.registry import build_model
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
        ("nn.Linear(12, n_classes)", "nn.Linear(12, 3)", "one image", "must give (1, 5)"),
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


def test_weights_are_judged_on_the_images_and_a_wrong_scale_is_suspected(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    torch.manual_seed(0)
    module: dict[str, object] = {}
    exec(_HEAD + SMALL, module)
    torch.save(module["Small"](10).state_dict(), weights)  # type: ignore[operator]
    report = check(tmp_path, SMALL, data="digits", weights=weights, input_shape=None)
    assert statuses(report)["accuracy"] == "warning"


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
