"""`cprune_rl.Pruner`: a training loop, a loss and images of the caller's go the whole way."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import cprune_rl
from cprune_rl.api import LoopOptions, PruneOptions
from cprune_rl.cli import app
from cprune_rl.core.own_loop import OwnLoop
from cprune_rl.core.result import Result
from cprune_rl.errors import ConfigError, CPruneError, DataError, ModelError
from cprune_rl.models.registry import build_model
from cprune_rl.pipeline.efforts import EFFORTS, Effort
from cprune_rl.pipeline.progress import ProgressEvent
from cprune_rl.validation.run import validate_run

N = 600
IMAGES = torch.from_numpy(np.random.default_rng(0).standard_normal((N, 3, 32, 32), np.float32))
LABELS = torch.arange(N) % 10
TINY = Effort(
    base_steps=2,
    finetune_steps=2,
    oracle_steps=1,
    calibration=(0.75, 0.5),
    total_timesteps=256,
    turns=1,
)


@dataclass
class Loop:
    """A plain loop of a user's, which remembers what it was asked for."""

    steps: list[int] = field(default_factory=list)
    n_judged: int = 0
    fails_after: int = 10**6

    def fine_tune(self, model: nn.Module, steps: int) -> None:
        self.steps.append(steps)
        if len(self.steps) > self.fails_after:
            raise RuntimeError("the loader is gone")
        assert model.training
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for _ in range(steps):
            at = torch.randint(400, (32,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(IMAGES[at]), LABELS[at]).backward()
            optimizer.step()

    def judge(self, model: nn.Module, start: int, end: int) -> torch.Tensor:
        self.n_judged += 1
        assert not model.training
        return model(IMAGES[start:end]).argmax(1) == LABELS[start:end]

    def evaluate(self, model: nn.Module) -> torch.Tensor:
        return self.judge(model, 400, 500)

    def gate(self, model: nn.Module) -> torch.Tensor:
        return self.judge(model, 500, 560)

    def test(self, model: nn.Module) -> torch.Tensor:
        return self.judge(model, 560, 600)

    def count(self, model: nn.Module) -> tuple[int, int]:
        return int(self.evaluate(model).sum()), 100

    def pruner(self, model: nn.Module, **changes: Any) -> cprune_rl.Pruner:
        given: dict[str, Any] = {"fine_tune": self.fine_tune, "evaluate": self.evaluate}
        return cprune_rl.Pruner(model, IMAGES[:400], **{**given, **changes})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Small budgets, and a cache of these tests' own."""
    home = tmp_path_factory.mktemp("pruner")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CPRUNE_RL_CACHE", str(home / "cache"))
        patch.setitem(EFFORTS, "fast", TINY)
        yield home


def options(home: Path, out: str, **more: Any) -> dict[str, Any]:
    storage = f"sqlite:///{home}/costs.db"
    asked = {"device": "recorded:resnet8", "effort": "fast", "storage": storage, "floor": -1.0}
    return {**asked, "out": home / out, **more}


@dataclass
class Done:
    """A run, and what there was before it."""

    loop: Loop
    model: nn.Module
    state: dict[str, torch.Tensor]
    result: cprune_rl.PruneResult
    events: list[ProgressEvent]


@pytest.fixture(scope="module")
def done(home: Path) -> Done:
    """A whole run with images for each part."""
    loop = Loop()
    model = build_model("resnet8", 10, seed=3).train()
    state = copy.deepcopy(model.state_dict())
    events: list[ProgressEvent] = []
    pruner = loop.pruner(model, gate=loop.gate, test=loop.test, name="mine")
    result = pruner.prune(**options(home, "run"), on_progress=events.append)
    return Done(loop, model, state, result, events)


def test_a_loop_of_ones_own_goes_the_whole_way(done: Done) -> None:
    assert done.model.training
    after = done.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in done.state.items())
    result = done.result
    assert result.speedup > 1
    assert result.holds_floor
    assert not result.model.training
    with torch.no_grad():
        right = done.loop.test(result.model)
    assert result.accuracy == pytest.approx(float(right.float().mean()))
    assert "ms" in result.plan.explain()
    # the cheap evaluations, and the full ones of calibration, dense network and finalists
    assert set(done.loop.steps) == {TINY.oracle_steps, TINY.finetune_steps}
    begun = [event.stage for event in done.events if event.kind == "begin"]
    assert "Asking your functions about the dense network" in begun
    assert "Fine-tuning the dense network" in begun


def test_the_dense_network_is_fine_tuned_by_the_loop_too(done: Done) -> None:
    summary = done.result.summary
    assert summary.dense_finetuned is not None
    assert done.loop.steps[0] == TINY.finetune_steps
    both = (summary.dense.accuracy_test, summary.dense_finetuned.accuracy_test)
    assert all(accuracy * 40 == pytest.approx(round(accuracy * 40)) for accuracy in both)


def test_the_files_say_whose_functions_judged_and_on_what(done: Done) -> None:
    written = Result.read(done.result.folder / "result.json")
    expected = OwnLoop(name="mine", gate_images="own", test_images="own", is_paired=True)
    assert written.own_loop == done.result.summary.own_loop == expected
    assert written.data.startswith("arrays:")
    assert written.data.endswith("?loop=mine")
    page = done.result.report().read_text()
    assert "Functions of your own, mine, trained and judged all networks." in page
    assert "100 images for the search, 60 for the gate, and 40 for the test" in page
    assert "the search saw" not in page
    assert "Test accuracy" in page


def test_validate_checks_what_it_can_and_says_what_it_cannot(done: Done) -> None:
    checks = validate_run(done.result.folder)
    assert [c for c in checks if c.passed is False] == []
    assert any(c.claim.startswith("model.pt2 computes") and c.passed for c in checks)
    judged = [c for c in checks if "test accuracy" in c.claim]
    assert len(judged) == 2
    assert all(c.passed is None and "functions given in Python" in c.found for c in judged)


@pytest.fixture(scope="module")
def alone(home: Path) -> Done:
    """A whole run of several floors with one evaluation, which only counts."""
    loop = Loop()
    model = build_model("resnet8", 10, seed=3)
    result = loop.pruner(model, evaluate=loop.count).prune(
        **options(home, "alone", floor=[-0.9, -1.0]), on_progress=lambda _: None
    )
    return Done(loop, model, {}, result, [])


def test_a_single_evaluation_that_counts_is_said_to_be_one(alone: Done) -> None:
    own = alone.result.summary.own_loop
    assert own is not None
    assert (own.gate_images, own.test_images, own.is_paired) == ("search", "search", False)
    front = json.loads((alone.result.folder / "front.json").read_text())
    assert front["own_loop"]["gate_images"] == "search"
    _, *points = front["points"]
    low, high = points[0]["gained_test"][1:]
    assert high - low > 0.1, "of 100 images that nobody pairs"
    checks = validate_run(alone.result.folder)
    assert [c for c in checks if c.passed is False] == []


def test_runs_without_a_name_share_nothing_that_was_trained(alone: Done, done: Done) -> None:
    names = [str(run.result.summary.data).partition("loop=")[2] for run in (alone, done)]
    assert names[0].startswith("own-")
    assert names[1] == "mine"
    assert alone.loop.steps.count(TINY.finetune_steps) >= 3


def test_runs_with_one_name_share_what_was_trained(done: Done, home: Path) -> None:
    again = Loop()
    pruner = again.pruner(done.model, gate=again.gate, test=again.test, name="mine")
    result = pruner.prune(**options(home, "again"), on_progress=lambda _: None)
    assert again.steps == []
    assert result.accuracy == done.result.accuracy


def test_a_function_that_fails_in_the_middle_is_named(home: Path) -> None:
    loop = Loop(fails_after=1)
    model = build_model("resnet8", 10, seed=4)
    with pytest.raises(ConfigError, match=r"^fine_tune fails: RuntimeError: the loader is gone$"):
        loop.pruner(model).prune(**options(home, "failing"), on_progress=lambda _: None)
    assert len(loop.steps) == 2


def test_a_run_is_gone_on_with_by_the_same_functions_and_images(home: Path) -> None:
    loop = Loop()
    model = build_model("resnet8", 10, seed=4)
    stopped = home / "stopped"

    class EnoughError(Exception):
        pass

    def stop(event: ProgressEvent) -> None:
        if event.stage.startswith("Reading the verified network"):
            raise EnoughError

    with pytest.raises(EnoughError):
        loop.pruner(model).prune(**options(home, "stopped"), on_progress=stop)
    before = len(loop.steps)
    with pytest.raises(ConfigError, match=r"cprune_rl\.Pruner\(model, \.\.\.\)"):
        cprune_rl.prune(model, resume=stopped)
    outcome = CliRunner().invoke(app, ["prune", "--resume", str(stopped)])
    assert isinstance(outcome.exception, ConfigError)
    assert "Pruner" in str(outcome.exception)
    with pytest.raises(ConfigError, match=r"is a run of the functions 'own-.*', and these are 'b'"):
        loop.pruner(model, name="b").prune(resume=stopped)
    other = cprune_rl.Pruner(model, IMAGES[1:400], fine_tune=loop.fine_tune, evaluate=loop.evaluate)
    with pytest.raises(ConfigError, match="other images"):
        other.prune(resume=stopped, on_progress=lambda _: None)
    result = loop.pruner(model).prune(resume=stopped, on_progress=lambda _: None)
    assert result.speedup > 1
    assert TINY.finetune_steps not in loop.steps[before:], "what was trained is not again"


def test_a_run_of_labelled_images_is_not_gone_on_with_by_functions(home: Path) -> None:
    class EnoughError(Exception):
        pass

    def stop(event: ProgressEvent) -> None:
        if event.stage == "Finding groups":
            raise EnoughError

    model = build_model("resnet8", 10, seed=4)
    with pytest.raises(EnoughError):
        cprune_rl.prune(model, IMAGES, LABELS, **options(home, "labelled"), on_progress=stop)
    with pytest.raises(ConfigError, match="trains on labelled images"):
        Loop().pruner(model).prune(resume=home / "labelled")


def broken(_: nn.Module) -> Any:
    raise KeyError("label")


REFUSED: list[tuple[dict[str, Any], dict[str, Any], type[CPruneError], str]] = [
    ({"model": "resnet8"}, {}, ConfigError, "give the trained torch.nn.Module"),
    ({"model": nn.Linear}, {}, ConfigError, r"such as Linear\(\.\.\.\)"),
    ({"model": nn.Conv2d(1, 4, 3)}, {}, ModelError, "does not take images"),
    ({"name": "a b"}, {}, ConfigError, "name='a b'"),
    ({"evaluate": None}, {}, ConfigError, "evaluate is NoneType: give a function"),
    ({"fine_tune": 3}, {}, ConfigError, "fine_tune is int: give a function"),
    ({"evaluate": broken}, {}, ConfigError, "evaluate fails: KeyError: 'label'"),
    ({"test": lambda _: 0.5}, {}, ConfigError, "test gives 0.5, and not of how many"),
    ({"images": IMAGES[:5]}, {}, ConfigError, "there are 5 images: give 16 or more"),
    ({"images": IMAGES * float("nan")}, {}, DataError, "not finite"),
    ({"normalise": "imagnet"}, {}, CPruneError, "Did you mean 'imagenet'"),
    ({"normalise": "imagenet"}, {}, ConfigError, "leave normalise out, or give uint8"),
    ({}, {"top": 5}, ConfigError, r"top is for cprune_rl\.prune, .* your functions do so"),
    ({}, {"labels": "teacher"}, ConfigError, "labels is for"),
    ({}, {"change": "schemes"}, ConfigError, "change is for"),
    ({}, {"distillation": 0.5}, ConfigError, "distillation is for"),
    ({}, {"flor": -0.01}, ConfigError, "flor"),
    ({}, {"oracle": "supernet"}, ConfigError, "oracle='supernet' trains a network of its own"),
    ({}, {"importance": "taylor"}, ConfigError, "importance='taylor' needs the loss"),
    ({}, {"methods": "mapping-search"}, ConfigError, "mapping-search"),
    ({}, {"device": "recorded:resnet9"}, CPruneError, "resnet9"),
]


@pytest.mark.parametrize(("given", "asked", "error", "message"), REFUSED)
def test_bad_input_is_one_line_before_anything_is_trained(
    given: dict[str, Any],
    asked: dict[str, Any],
    error: type[CPruneError],
    message: str,
    home: Path,
) -> None:
    loop = Loop()
    arguments = {
        "model": build_model("resnet8", 10),
        "images": IMAGES[:100],
        "fine_tune": loop.fine_tune,
        "evaluate": loop.evaluate,
        **given,
    }
    with pytest.raises(error, match=message) as raised:
        cprune_rl.Pruner(**arguments).prune(
            **options(home, "bad", **asked), on_progress=lambda _: None
        )
    assert "\n" not in str(raised.value)
    assert loop.steps == []
    assert not (home / "bad").exists()


def test_options_of_both_ways_are_described_and_typed() -> None:
    own = set(inspect.signature(cprune_rl.Pruner.prune).parameters) - {"self", "options"}
    assert own <= set(inspect.signature(cprune_rl.prune).parameters)
    described = inspect.getdoc(cprune_rl.Pruner.prune) or ""
    assert [name for name in own if f"\n    {name}: " not in described] == []
    described = inspect.getdoc(cprune_rl.Pruner) or ""
    given = set(inspect.signature(cprune_rl.Pruner).parameters)
    assert [name for name in given if f"\n    {name}: " not in described] == []
    assert LoopOptions.__annotations__.keys() < PruneOptions.__annotations__.keys()
