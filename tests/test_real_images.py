"""`make results`: what is planned, gone on with, skipped and told; a page without inventions."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from cprune_rl.core.result import Figures, MethodResult, Result

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Imports a file of the benchmarks, which are no package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def steps(load: Load) -> ModuleType:
    return load("real_images.steps")


def all_sources(steps: ModuleType) -> Any:
    return steps.Sources(fashion_mnist=Path("/f"), cifar10_jpeg=Path("/c"), checkpoints=Path("/k"))


class FakeRunner:
    """Stands for the commands: writes what they would leave behind, or fails.

    Args:
        folder: of all results.
        fails: exit statuses by a part of the command.
    """

    def __init__(self, folder: Path, fails: dict[str, int] | None = None) -> None:
        self.folder = folder
        self.fails = fails or {}
        self.ran: list[tuple[str, ...]] = []

    def __call__(self, command: Sequence[str], log: Path) -> int:
        self.ran.append(tuple(command))
        text = " ".join(command)
        for part, status in self.fails.items():
            if part in text:
                return status
        out = Path(self.out_of(command))
        out.mkdir(parents=True, exist_ok=True)
        is_dense = "train_dense.py" in text
        (out / ("weights.safetensors" if is_dense else "result.json")).touch()
        return 0

    @staticmethod
    def out_of(command: Sequence[str]) -> str:
        for at, word in enumerate(command):
            if word in ("--out", "--resume"):
                return command[at + 1]
            if word.startswith("--out="):
                return word.partition("=")[2]
        raise AssertionError(f"{command} writes nowhere")


def states(outcomes: Sequence[Any]) -> dict[str, str]:
    return {outcome.step.name: outcome.state for outcome in outcomes}


def test_the_order_is_that_of_the_page_and_each_network_is_trained_first(
    steps: ModuleType, tmp_path: Path
) -> None:
    planned = steps.plan_steps(steps.experiments(all_sources(steps)), tmp_path)
    names = [step.name for step in planned]
    assert names[:4] == [
        "fashion-mnist-resnet8/dense",
        "fashion-mnist-resnet8/floor-0.01-seed0",
        "fashion-mnist-resnet8/floor-0.01-seed1",
        "fashion-mnist-resnet8/floor-0.01-seed2",
    ]
    assert names[-5:] == [
        "cifar10-jpeg-resnet20/dense",
        "cifar10-jpeg-resnet20/floor-0.01-seed0",
        "cifar10-jpeg-resnet20/floor-0.005-seed0",
        "cifar10-jpeg-resnet56/dense",
        "cifar10-jpeg-resnet56/floor-0.01-seed0",
    ]
    assert len(names) == 3 * 4 + 5
    run = planned[1]
    assert "--methods=agent,cprune,mdp" in run.command
    assert "--finetune-steps=2250" in run.command, "three epochs of 48,000 images by 64"
    weights = tmp_path / "fashion-mnist-resnet8" / "dense" / "weights.safetensors"
    assert f"--weights={weights}" in run.command
    checkpoint = planned[-2].command[planned[-2].command.index("--weights") + 1]
    assert checkpoint == "/k/resnet56.safetensors"


def test_what_is_not_there_is_skipped_and_named(steps: ModuleType, tmp_path: Path) -> None:
    experiments = steps.experiments(steps.Sources(cifar10_jpeg=Path("/c")))
    assert steps.plan_steps(experiments, tmp_path) == []
    missing = {e.name: e.missing for e in experiments}
    assert missing["fashion-mnist-lenet"] == ("FASHION_MNIST",)
    assert missing["cifar10-jpeg-resnet20"] == ("CIFAR_RESNETS",)


def test_what_is_done_is_not_done_again_and_what_was_begun_goes_on(
    steps: ModuleType, tmp_path: Path
) -> None:
    sources = steps.Sources(fashion_mnist=Path("/f"))
    planned = steps.plan_steps(steps.experiments(sources), tmp_path)[:4]
    runner = FakeRunner(tmp_path, {"seed=1": 1})
    told: list[str] = []
    outcomes = steps.run_steps(planned, tmp_path, runner, told.append)
    assert list(states(outcomes).values()) == ["done", "done", "failed", "done"]
    assert "seed1: failed with exit status 1, see" in told[2]
    begun = tmp_path / planned[2].name
    begun.mkdir(parents=True)
    (begun / "config.yaml").touch()
    again = FakeRunner(tmp_path)
    outcomes = steps.run_steps(planned, tmp_path, again, told.append)
    assert list(states(outcomes).values()) == ["done before", "done before", "done", "done before"]
    assert again.ran == [planned[2].resume]
    assert again.ran[0][-2:] == ("--resume", str(begun))


def test_a_run_is_not_tried_without_its_dense_network(steps: ModuleType, tmp_path: Path) -> None:
    sources = steps.Sources(fashion_mnist=Path("/f"))
    planned = steps.plan_steps(steps.experiments(sources), tmp_path)
    runner = FakeRunner(tmp_path, {"lenet --data": 2})
    outcomes = states(steps.run_steps(planned, tmp_path, runner, lambda line: None))
    assert outcomes["fashion-mnist-lenet/dense"] == "failed"
    assert outcomes["fashion-mnist-lenet/floor-0.01-seed2"] == "not tried"
    assert outcomes["fashion-mnist-mobilenetv2-small/floor-0.01-seed2"] == "done"
    assert len(runner.ran) == len(planned) - 3


def test_a_command_that_leaves_nothing_behind_has_failed(steps: ModuleType, tmp_path: Path) -> None:
    planned = steps.plan_steps(steps.experiments(all_sources(steps)), tmp_path)[:1]
    (outcome,) = steps.run_steps(planned, tmp_path, lambda command, log: 0, lambda line: None)
    assert outcome.state == "failed"


def test_ctrl_c_ends_all_of_it(steps: ModuleType, tmp_path: Path) -> None:
    planned = steps.plan_steps(steps.experiments(all_sources(steps)), tmp_path)
    runner = FakeRunner(tmp_path, {"seed=1": 130})
    with pytest.raises(KeyboardInterrupt):
        steps.run_steps(planned, tmp_path, runner, lambda line: None)
    assert len(runner.ran) == 3


def test_a_trial_is_one_short_run_of_each_network(steps: ModuleType, tmp_path: Path) -> None:
    experiments = [e.as_trial() for e in steps.experiments(all_sources(steps))]
    planned = steps.plan_steps(experiments, tmp_path)
    assert len(planned) == 2 * 5
    assert all("--effort=fast" in s.command for s in planned if s.done == "result.json")


def test_a_folder_that_is_named_and_not_there_is_an_error(load: Load, tmp_path: Path) -> None:
    results = load("results")
    options = {"fashion_mnist": str(tmp_path / "none"), "cifar10_jpeg": None, "checkpoints": ""}
    with pytest.raises(SystemExit, match=r"--fashion-mnist .*none is not there"):
        results.find_sources(type("Options", (), options)())
    with pytest.raises(SystemExit, match="there is no 'lenet'; there are fashion-mnist-resnet8"):
        results.choose(load("real_images.steps").experiments(results.Sources()), ["lenet"])


def test_the_folder_of_debians_package_is_found(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = load("results")
    nothing = {"fashion_mnist": None, "cifar10_jpeg": None, "checkpoints": None}
    for folder, found in ((tmp_path, tmp_path.resolve()), (tmp_path / "none", None)):
        monkeypatch.setattr(results, "DEFAULT_FOLDER", str(folder))
        options = type("Options", (), dict(nothing))()
        assert results.find_sources(options).fashion_mnist == found


def test_a_dense_network_learns_from_grey_images_too(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (400, 1, 28, 28), np.uint8)
    np.savez(tmp_path / "grey.npz", x=images, y=np.arange(400) % 10)
    words = ["train_dense.py", "--model", f"{BENCHMARKS / 'real_images' / 'networks.py'}:lenet"]
    words += ["--data", f"npz:{tmp_path / 'grey.npz'}", "--epochs", "0.5"]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(tmp_path / "dense")])
    load("real_images.train_dense").main()
    done = json.loads((tmp_path / "dense" / "dense.json").read_text())
    assert done["n_steps"] == round(0.5 * done["n_train"] / 64)
    assert (tmp_path / "dense" / "weights.safetensors").exists()
    assert not (tmp_path / "dense" / "weights.part").exists()


def figures(accuracy: float, latency_ms: float, macs: int) -> Figures:
    return Figures(
        latency_ms=latency_ms,
        latency_ci_ms=(latency_ms - 0.01, latency_ms + 0.01),
        estimate_ms=latency_ms,
        accuracy_test=accuracy,
        accuracy_test_ci=(accuracy - 0.005, accuracy + 0.005),
        n_params=1000,
        macs=macs,
    )


def result(seed: int, speedup: float) -> Result:
    def method(name: str, gain: float) -> MethodResult:
        return MethodResult(
            method=name,
            pruned=figures(0.83, 0.4 / gain, 60),
            speedup=gain,
            speedup_ci=(gain - 0.05, gain + 0.05),
            gate={},
            cost={"fresh_trials": 7.0, "accuracy_evaluations": 3.0},
        )

    return Result(
        model="/home/someone/networks.py:resnet56",
        data="imagefolder:/home/someone/images",
        device="local",
        method="agent",
        seed=seed,
        floor=-0.01,
        dense=figures(0.81, 0.4, 100),
        dense_finetuned=figures(0.84, 0.4, 100),
        floor_from="finetuned",
        main=method("agent", speedup),
        rivals=(method("cprune", 1.0),),
    )


def write_run(folder: Path, value: Result) -> None:
    folder.mkdir(parents=True)
    value.write(folder / "result.json")
    (folder / "config.yaml").write_text("seed: 0\nfinetune_steps: 3125\n")
    system = {"started": 1_780_000_000.0, "processor": "made up", "host": "mine"}
    (folder / "system.json").write_text(json.dumps(system))


def test_a_page_without_runs_has_no_figure_of_this_project(load: Load, tmp_path: Path) -> None:
    page = load("real_images.page")
    experiments = load("real_images.steps").experiments(load("real_images.steps").Sources())
    file = tmp_path / "real-images.md"
    page.write_page(file, experiments, page.find_runs(experiments, tmp_path))
    text = file.read_text()
    assert "No run was kept yet" in text
    assert "agent, floor" not in text
    assert "geometric mean" not in text
    assert "Li et al." in text
    assert json.loads((tmp_path / "real-images.json").read_text()) == {"runs": []}


def test_the_page_has_the_figures_of_the_run_folders_and_no_paths(
    load: Load, tmp_path: Path
) -> None:
    steps, page = load("real_images.steps"), load("real_images.page")
    experiments = steps.experiments(all_sources(steps))
    network = tmp_path / "cifar10-jpeg-resnet56"
    for seed, speedup in ((0, 2.0), (1, 1.125)):
        write_run(network / f"floor-0.01-seed{seed}", result(seed, speedup))
    write_run(network / "floor-0.01-seed2", replace(result(2, 9.0), fast=True))
    dense = {"n_train": 40_000, "n_steps": 6250, "batch_size": 64}
    (network / "dense").mkdir()
    (network / "dense" / "dense.json").write_text(json.dumps(dense))
    runs = page.find_runs(experiments, tmp_path)
    assert len(runs) == 2, "a run that only tried the way is no result"
    file = tmp_path / "real-images.md"
    page.write_page(file, experiments, runs)
    text = file.read_text()
    assert "| resnet56 | -0.01 | agent | 2.00, 1.12 | 1.50 |" in text
    assert "1.00, refused" in text
    assert "3,125 steps, 5.0 epochs" in text
    assert "trained for 10.0 epochs of 40,000 images" in text
    assert "| agent, floor -0.01 | 84.00 % | 83.00 % | -1.00 | 40.0 % | 2.00 [1.95, 2.05] |" in text
    assert "made up" in text
    kept = (tmp_path / "real-images.json").read_text()
    assert "someone" not in text + kept
    assert "mine" not in kept
    assert len(json.loads(kept)["runs"]) == 2


@pytest.mark.parametrize(("name", "n_layers"), [("resnet20", 20), ("resnet56", 56)])
def test_the_published_networks_have_their_layers(load: Load, name: str, n_layers: int) -> None:
    networks = load("real_images.networks")
    model = getattr(networks, name)(10).eval()
    weighted = [m for m in model.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    assert len(weighted) == n_layers
    assert "layer3.0.conv1.weight" in model.state_dict()
    assert "linear.bias" in model.state_dict()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert networks.lenet(10).eval()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
