"""`cprune_rl.prune` with objects: a module and arrays in, a module and figures out."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import cprune_rl
from cprune_rl import api
from cprune_rl.cli import app
from cprune_rl.errors import ConfigError, CPruneError, DataError, ModelError, UnknownNameError
from cprune_rl.models.registry import build_model
from cprune_rl.pipeline.config import RunConfig
from cprune_rl.pipeline.efforts import EFFORTS, Effort
from cprune_rl.pipeline.progress import ProgressEvent
from cprune_rl.validation.run import validate_run

N = 600
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (N, 3, 32, 32), np.uint8)
LABELS = np.arange(N) % 10
TINY = Effort(
    base_steps=2,
    finetune_steps=1,
    oracle_steps=1,
    calibration=(0.75, 0.5),
    total_timesteps=256,
    turns=1,
)


@dataclass
class Done:
    """A run, and what there was before it."""

    model: nn.Module
    state: dict[str, torch.Tensor]
    result: cprune_rl.PruneResult
    events: list[ProgressEvent] = field(default_factory=list)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Small budgets, and a cache of these tests' own."""
    home = tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CPRUNE_RL_CACHE", str(home / "cache"))
        patch.setitem(EFFORTS, "fast", TINY)
        yield home


def options(home: Path, out: str, **more: Any) -> dict[str, Any]:
    storage = f"sqlite:///{home}/costs.db"
    asked = {"device": "recorded:resnet8", "effort": "fast", "storage": storage, "floor": -1.0}
    return {**asked, "out": home / out, **more}


@pytest.fixture(scope="module")
def done(home: Path) -> Done:
    """A whole run of a module on arrays."""
    model = build_model("resnet8", 10, seed=3).train()
    state = copy.deepcopy(model.state_dict())
    events: list[ProgressEvent] = []
    result = cprune_rl.prune(
        model, IMAGES, LABELS, **options(home, "run"), on_progress=events.append
    )
    return Done(model, state, result, events)


def test_a_module_and_arrays_go_the_whole_way_and_stay_as_they_were(done: Done) -> None:
    assert done.model.training
    after = done.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in done.state.items())
    assert all(parameter.grad is None for parameter in done.model.parameters())
    result = done.result
    assert result.speedup > 1
    assert result.speedup == result.main.speedup == result.summary.main.speedup
    assert result.speedup_ci[0] <= result.speedup <= result.speedup_ci[1]
    assert result.holds_floor
    assert not result.model.training
    with torch.no_grad():
        assert result.model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    n_params = sum(p.numel() for p in result.model.parameters())
    assert n_params == result.main.pruned.n_params < result.dense.n_params
    assert "speed-up" in repr(result)


def test_the_plan_says_what_the_network_keeps(done: Done) -> None:
    plan = done.result.plan
    layers = dict(done.result.model.named_modules())
    for group in plan.network.groups:
        assert len(layers[group.name].weight) == plan.channels[group.name][1]
    text = plan.explain()
    assert f"{plan.pruned.latency_s * 1e3:.3f} ms" in text
    assert plan.pruned.latency_s * 1e3 == pytest.approx(done.result.main.pruned.estimate_ms)


def test_files_come_out_of_the_result(done: Done, tmp_path: Path) -> None:
    assert done.result.report().name == "report.html"
    assert done.result.report().is_file()
    path = done.result.export("pt2", tmp_path / "net.pt2")
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        logits = torch.export.load(path).module()(image)
        torch.testing.assert_close(logits, done.result.model(image))
    assert done.result.export("safetensors", tmp_path / "net.safetensors").is_file()
    with pytest.raises(ConfigError, match="a recorded device compiles nothing"):
        done.result.export("so", tmp_path / "lib.so")
    with pytest.raises(ConfigError, match="'gif'"):
        done.result.export("gif", tmp_path / "net.gif")


def test_a_run_without_code_of_its_network_is_validated(done: Done) -> None:
    checks = validate_run(done.result.folder)
    assert [c for c in checks if c.passed is False] == []
    assert sum(c.passed is True for c in checks) > 8
    outcome = CliRunner().invoke(app, ["validate", str(done.result.folder)])
    assert outcome.exit_code == 0, outcome.output


def test_progress_is_told_part_by_part(done: Done) -> None:
    begun = [event.stage for event in done.events if event.kind == "begin"]
    ended = [event.stage for event in done.events if event.kind == "end"]
    assert begun == ended
    assert "Finding groups" in begun
    steps = [event for event in done.events if event.kind == "step"]
    assert any(event.total and event.done == event.total for event in steps)
    assert all(event.elapsed_s >= 0 for event in steps)
    messages = [event.message for event in done.events if event.kind == "message"]
    assert any("dense network's accuracy" in message for message in messages)


def test_a_listener_is_told_in_the_place_of_the_terminal(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cprune_rl.prune(
        build_model("resnet8", 10, seed=3),
        IMAGES,
        LABELS,
        **options(home, "quiet"),
        on_progress=lambda event: None,
    )
    assert capfd.readouterr().err == ""


def test_what_a_listener_raises_ends_the_run_and_the_run_is_gone_on_with(home: Path) -> None:
    class EnoughError(Exception):
        pass

    def stop(event: ProgressEvent) -> None:
        if event.stage.startswith("Reading the verified network"):
            raise EnoughError

    model = build_model("resnet8", 10, seed=4)
    with pytest.raises(EnoughError):
        cprune_rl.prune(model, IMAGES, LABELS, **options(home, "again"), on_progress=stop)
    search = home / "again" / "search_agent.json"
    before = search.stat().st_mtime_ns
    with pytest.raises(ConfigError, match="was given in Python"):
        cprune_rl.prune(resume=home / "again")
    outcome = CliRunner().invoke(app, ["prune", "--resume", str(home / "again")])
    assert isinstance(outcome.exception, CPruneError)
    assert "in Python" in str(outcome.exception)
    result = cprune_rl.prune(model, resume=home / "again")
    assert result.speedup > 1
    assert search.stat().st_mtime_ns == before


def test_several_floors_are_several_results(home: Path) -> None:
    model = build_model("resnet8", 10, seed=3)
    result = cprune_rl.prune(model, IMAGES, LABELS, **options(home, "front", floor=[-0.9, -1.0]))
    assert result.summary.floor == -1.0
    (other,) = result.others
    assert other.summary.floor == -0.9
    assert result.report().name == "front.png"
    checks = validate_run(home / "front")
    assert [c for c in checks if c.passed is False] == []


def test_names_do_as_they_do_on_the_command_line(home: Path) -> None:
    np.savez(home / "mine.npz", x=IMAGES, y=LABELS)
    (home / "mynet.py").write_text(
        "from cprune_rl.models.registry import build_model\n"
        "def build(n_classes):\n"
        "    return build_model('resnet8', n_classes)\n"
    )
    model = build_model("resnet8", 10, seed=3)
    torch.save(model.state_dict(), home / "w.pt")
    result = cprune_rl.prune(
        model="resnet8",
        weights=home / "w.pt",
        data=f"npz:{home}/mine.npz",
        **options(home, "named", methods=["agent", "uniform"]),
    )
    assert [method.method for method in result.summary.methods] == ["uniform", "agent"]
    assert result.summary.model == "resnet8"


class Unscriptable(nn.Module):
    """Takes other images than those of the tests."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(7, 7)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"model": 3}, ConfigError, "model is int: give a torch.nn.Module"),
        ({"model": nn.Linear}, ConfigError, r"such as Linear\(\.\.\.\)"),
        ({"images": None, "labels": None}, ConfigError, "a module needs images"),
        ({"data": "digits"}, ConfigError, "and not both"),
        ({"images": None}, ConfigError, "give images"),
        ({"labels": LABELS[1:]}, DataError, "beside 600 images"),
        ({"images": IMAGES.transpose(0, 2, 3, 1)}, DataError, "Channels come second"),
        ({"images": np.full((N, 3, 32, 32), np.nan)}, DataError, "not finite"),
        ({"labels": LABELS % 7}, ModelError, "its data have 7 classes"),
        ({"labels": LABELS + 1}, DataError, "no training image of class 0"),
        ({"normalise": "imagnet"}, UnknownNameError, "Did you mean 'imagenet'"),
        ({"floor": "high"}, ConfigError, "floor: .*give numbers"),
        ({"effort": "fats"}, UnknownNameError, "Did you mean 'fast'"),
        ({"flor": -0.01}, ConfigError, "flor"),
        ({"device": "recorded:resnet9"}, CPruneError, "resnet9"),
        ({"model": Unscriptable()}, ModelError, "object:Unscriptable does not take images"),
        ({"model": "object:Net"}, ConfigError, "given in Python"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_run_folder(
    given: dict[str, Any], error: type[CPruneError], message: str, home: Path
) -> None:
    asked = {
        "model": build_model("resnet8", 10),
        "images": IMAGES,
        "labels": LABELS,
        **options(home, "bad"),
        **given,
    }
    with pytest.raises(error, match=message) as raised:
        cprune_rl.prune(**asked, on_progress=lambda event: None)
    assert "\n" not in str(raised.value)
    assert not (home / "bad").exists()


def test_every_option_of_a_run_is_a_typed_keyword() -> None:
    named = set(inspect.signature(cprune_rl.prune).parameters) - {"options"}
    known = named | set(get_type_hints(api.PruneOptions))
    assert set(RunConfig.model_fields) - known == set()
    beside = {"images", "test", "normalise", "augment", "resume", "on_progress"}
    assert known - set(RunConfig.model_fields) == beside
    described = inspect.getdoc(cprune_rl.prune) or ""
    assert [name for name in named if f"\n    {name}: " not in described] == []
