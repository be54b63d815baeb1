"""A whole run on a recording:

it never loads the compiler, and says everywhere that its latencies are estimates.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cprune_rl.accuracy.data.registry import DATA_SETS, DataKind
from cprune_rl.cli import app
from cprune_rl.core.intervals import Interval
from cprune_rl.core.network import Group
from cprune_rl.core.result import Result
from cprune_rl.envs.problems.registry import describe_recorded, open_recorded, read_recording
from cprune_rl.errors import ConfigError, CPruneError, ModelError
from cprune_rl.models.onnx_export import can_export_onnx
from cprune_rl.pipeline.config import RunConfig, load_config
from cprune_rl.pipeline.setup import check_names
from cprune_rl.validation.run import gain_holds, validate_run
from tests.doubles.images import noise_data

ROOT = Path(__file__).parents[2]
# A run of the real parts with budgets of a few steps, on a few images, in a process of its own: the
# one of the tests has loaded tvm.
RUN = """
import sys
from pathlib import Path
import gymnasium
import numpy as np
from cprune_rl.accuracy import data
from cprune_rl.pipeline import config, efforts
from cprune_rl.pipeline.run_folder import RunFolder
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.run import run
from cprune_rl.validation.run import validate_run

def images(spec, fast, advance):
    rng = np.random.default_rng(0)
    splits = {
        name: data.Split(
            images=rng.integers(0, 256, (n, 3, 32, 32), np.uint8), labels=np.arange(n) % 10
        )
        for name, n in {"train": 256, "search": 40, "gate": 400, "test": 40}.items()
    }
    return data.ImageData(name="dots", n_classes=10, **splits)

data.DATA_SETS["dots"] = data.DataKind(load=images, summary="noise", presets=())
efforts.EFFORTS["fast"] = efforts.Effort(
    base_steps=2, finetune_steps=1, oracle_steps=1, calibration=(0.75, 0.5), total_timesteps=2048
)
folder = Path(sys.argv[1])
options = dict(model="resnet8", data="dots", device=sys.argv[2], floor=-1.0, effort="fast", storage=f"sqlite:///{folder}.db")
asked = config.RunConfig(**options, methods="agent,cprune,mdp,uniform", out=folder)
run(RunFolder.create(asked), ProgressLog())
checks = validate_run(folder)
print("checked:", [c.claim for c in checks if c.passed])
assert all(c.passed is not False for c in checks), checks
print("not checked:", [c.claim for c in checks if c.passed is None])
_, info = gymnasium.make("cprune_rl/CPrune-v0", **options).reset(seed=0)
print("live environment:", info["latency_s"])
print("loaded:", [m for m in ("tvm", "tvm_ffi") if m in sys.modules])
"""


@pytest.fixture(scope="module")
def device() -> str:
    """The packaged recording of resnet8, as a device with noise."""
    return "recorded:resnet8?noise=7"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, device: str) -> tuple[Path, str, str]:
    """The run folder, and what was printed."""
    home = tmp_path_factory.mktemp("recorded")
    environment = {**os.environ, "XDG_CACHE_HOME": str(home / "cache"), "COLUMNS": "200"}
    command = [
        sys.executable,
        "-W",
        "error::UserWarning:cprune_rl",
        "-c",
        RUN,
        str(home / "run"),
        device,
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return home / "run", done.stdout, done.stderr


def test_the_run_and_its_validation_never_load_the_compiler(outcome: tuple[Path, str, str]) -> None:
    assert "loaded: []" in outcome[1]


def test_rivals_run_beside_the_runs_own_method_each_with_its_own_bill(
    outcome: tuple[Path, str, str],
) -> None:
    result = Result.read(outcome[0] / "result.json")
    assert [r.method for r in result.rivals] == ["cprune", "mdp", "uniform"], (
        "CPrune is the one that runs anyway"
    )
    assert result.main.method == "agent"
    assert all(r.cost["accuracy_evaluations"] > 0 for r in result.rivals)
    assert "mdp" in (outcome[0] / "report.html").read_text()


@pytest.mark.parametrize(
    ("rivals", "message"),
    [
        ("agnet", "Did you mean 'agent'|unknown method"),
        ("agent-macs", "It can have: .*mdp"),
        ("exact", "It can have"),
    ],
)
def test_a_rival_that_a_run_cannot_have_is_told_before_anything_is_done(
    device: str, rivals: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_names(load_config(None, {"device": device, "methods": f"agent,{rivals}"}))


def test_what_cannot_be_had_without_a_device_is_not_there_and_not_checked(
    outcome: tuple[Path, str, str],
) -> None:
    folder, printed, _ = outcome
    assert [f for f in ("lib.so", "dense.so", "built") if (folder / f).exists()] == []
    promised = (
        "plan.json",
        "model.safetensors",
        "model.pt2",
        "policy/policy.safetensors",
        "report.html",
        "problem.json",
        "result.json",
    )
    assert [f for f in promised if not (folder / f).exists()] == []
    result = Result.read(folder / "result.json")
    onnx = ("model.onnx",) if can_export_onnx() else ()
    assert result.exported == ("model.pt2", *onnx)
    assert [f for f in result.exported if not (folder / f).exists()] == []
    assert "lib.so, the compiled network" in printed
    claimed = [f"{file} computes what the network computes" in printed for file in result.exported]
    assert all(claimed)
    assert "latency of the whole networks" in printed


def test_the_result_names_the_recording_and_measures_nothing(
    outcome: tuple[Path, str, str], device: str
) -> None:
    folder, _, said = outcome
    value, result = (
        json.loads((folder / "result.json").read_text()),
        Result.read(folder / "result.json"),
    )
    assert result.is_estimate
    assert value["device"] == device
    assert describe_recorded("resnet8").source in value["latency_source"]
    assert "seed 7" in value["latency_source"]
    for figures in (result.dense, result.main.pruned, *(r.pruned for r in result.rivals)):
        assert (figures.latency_ms, figures.latency_ci_ms) == (None, None)
        assert figures.estimate_ms > 0
    assert result.main.speedup == pytest.approx(
        result.dense.estimate_ms / result.main.pruned.estimate_ms
    )
    assert result.main.speedup_ci[0] < result.main.speedup < result.main.speedup_ci[1]
    assert result.main.speedup > 1
    assert result.main.cost["fresh_trials"] == 0
    assert result.main.cost["cached_trials"] > 0
    assert "speed-up, estimate" in said
    assert "nothing was built or timed" in said


def test_the_report_says_that_it_shows_estimates(outcome: tuple[Path, str, str]) -> None:
    page = (outcome[0] / "report.html").read_text()
    assert "Estimates, no device." in page
    assert "speed-up, estimate</th>" in page
    assert "Estimated latency of each network" in page
    assert "the whole compiled network, timed" not in page


def test_the_recording_of_the_run_keeps_the_recorded_tasks_and_their_machine(
    outcome: tuple[Path, str, str],
) -> None:
    again, first = read_recording(str(outcome[0] / "problem.json")), read_recording("resnet8")
    assert again.costs == first.costs
    own = {name: again.provenance[name] for name in ("data", "dense")}
    assert {**again.provenance, **first.provenance} == {**first.provenance, "dense": own["dense"]}
    assert own["data"] == "dots"
    assert own["dense"] in ("given", "finetuned"), "whose accuracy the recording states"


def test_an_estimate_that_the_recording_does_not_give_is_found(
    outcome: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cprune_rl.validation.run import _estimate_checks
    from cprune_rl.validation.stated import read_run

    images = noise_data("dots", (256, 40, 400, 40))  # those of `RUN`
    kind = DataKind(load=lambda *_: images, summary="noise", presets=())
    monkeypatch.setitem(DATA_SETS, "dots", kind)
    stated = read_run(outcome[0])
    unchecked = [None] * 3  # both libraries, and the latency of the whole networks
    assert [c.passed for c in _estimate_checks(stated)] == [True, True, True, *unchecked]
    dense, own = stated.networks
    forged = replace(stated, networks=(dense, replace(own, shown_ms=0.9 * own.shown_ms)))
    assert [c.passed for c in _estimate_checks(forged)] == [True, False, True, *unchecked]


def test_a_recording_of_another_network_is_refused_before_anything_is_trained(
    tmp_path: Path,
) -> None:
    reply = CliRunner().invoke(
        app,
        [
            "train",
            "--model",
            "vgg-small",
            "--device",
            "recorded:resnet8",
            "--out",
            str(tmp_path / "run"),
        ],
    )
    assert isinstance(reply.exception, ConfigError)
    assert "is of resnet8, this run prunes vgg-small: give --model resnet8" in str(reply.exception)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("resnet9", "Did you mean"), ("missing.json.gz", "unknown recorded problem")],
)
def test_a_recording_that_is_not_there_is_refused_before_anything_is_trained(
    tmp_path: Path, name: str, message: str
) -> None:
    reply = CliRunner().invoke(
        app, ["train", "--device", f"recorded:{name}", "--out", str(tmp_path / "run")]
    )
    assert isinstance(reply.exception, CPruneError)
    assert message in str(reply.exception)


def test_a_recording_cannot_be_recorded(tmp_path: Path) -> None:
    reply = CliRunner().invoke(
        app, ["record", str(tmp_path / "x.json.gz"), "--device", "recorded:resnet8"]
    )
    assert isinstance(reply.exception, ConfigError)
    assert "is a recording already" in str(reply.exception)


def test_fast_leaves_a_recorded_network_at_its_width() -> None:
    assert load_config(None, {"effort": "fast"}).network_name == "resnet8-w8"
    assert RunConfig(effort="fast", device="recorded:resnet8").network_name == "resnet8"


def test_groups_and_layers_that_are_not_the_recorded_ones_are_named() -> None:
    import torch

    from cprune_rl.models.registry import build_model
    from cprune_rl.models.zoo import MODELS
    from cprune_rl.pipeline.backends.recorded import _check_groups, _check_layers
    from cprune_rl.pruning.groups import find_groups

    recording = read_recording("resnet8")
    model = build_model("resnet8", 10)
    coupled = find_groups(model, torch.zeros(MODELS["resnet8"].input_shape))
    _check_groups(recording, coupled.groups, "resnet8")
    _check_layers(recording.network, model, "resnet8")
    other = Group(name="other", channels=8, minimum=2, layers=("other",))
    groups = (*coupled.groups[:-1], other)
    with pytest.raises(ModelError, match="are not those found in this network: group"):
        _check_groups(recording, groups, "resnet8")
    with pytest.raises(
        ModelError, match="layer 'fc' has 10 channels in recording 'resnet8' and 7 here"
    ):
        _check_layers(recording.network, build_model("resnet8", 7), "resnet8")


def test_validating_needs_no_library_of_a_recorded_run_but_every_other_file(
    outcome: tuple[Path, str, str], tmp_path: Path
) -> None:
    (tmp_path / "result.json").write_text((outcome[0] / "result.json").read_text())
    with pytest.raises(ConfigError, match=r"config\.yaml is missing"):
        validate_run(tmp_path)


def test_the_live_environment_takes_a_recording_for_its_device(
    outcome: tuple[Path, str, str],
) -> None:
    problem = open_recorded("resnet8", noise_seed=7)
    seconds = problem.measured_s(problem.network.dense)
    assert f"live environment: {seconds:.6g}"[:24] in outcome[1]


@pytest.mark.parametrize(
    ("has_gain", "found", "holds"),
    [
        (True, Interval(1.2, 1.19, 1.21), True),
        (True, Interval(1.0, 0.99, 1.01), True),
        (True, Interval(0.96, 0.955, 0.965), None),
        (True, Interval(0.8, 0.79, 0.81), False),
        (False, Interval(1.0, 0.99, 1.01), True),
        (False, Interval(1.3, 1.29, 1.31), False),
    ],
)
def test_a_gain_is_refuted_by_more_than_the_drift_between_hours(
    has_gain: bool, found: Interval, holds: bool | None
) -> None:
    assert gain_holds(has_gain, 1.02, found) is holds
