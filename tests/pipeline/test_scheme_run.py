"""A whole run that prunes channels and blocks:

searched, fine-tuned, compiled, timed, and checked from its files.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cprune_rl.accuracy import data
from cprune_rl.compiler.tuning.budget import DENSE_WORTH_S, TuningBudget, TuningSettings
from cprune_rl.core.search_result import TABLE_PREFIX
from cprune_rl.pipeline import config, efforts
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.run import run
from cprune_rl.pipeline.run_folder import RunFolder
from cprune_rl.pipeline.setup import check_names
from cprune_rl.pruning.surgery import load_pruned
from cprune_rl.validation.run import validate_run
from tests.doubles.images import noise_data

NETWORK = """
from torch import nn

def build(n_classes):
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1, bias=False)]
    layers += [nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, n_classes))
"""


def dots(*_: object) -> data.ImageData:
    return noise_data("dots", (256, 40, 400, 40), size_px=16)


@pytest.mark.slow
def test_a_run_of_both_prunes_within_the_channels_it_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(
        data.DATA_SETS, "dots", data.DataKind(load=dots, summary="noise", presets=())
    )
    least = TuningBudget(n_pool=1, n_random=1, n_max=1)
    tuning = TuningSettings(
        survey=least,
        dense=TuningBudget(n_pool=1, n_random=1, n_max=2, worth_s=DENSE_WORTH_S),
        near=least,
        n_shared=1,
    )
    small = efforts.Effort(
        base_steps=2,
        finetune_steps=30,
        oracle_steps=1,
        calibration=(0.75, 0.5),
        tuning=tuning,
        total_timesteps=1024,
        mapping_timesteps=512,
        scheme_sweep=(0.25,),
        scheme_calibration=(0.5,),
        turns=1,
        timing_rounds=3,
    )
    monkeypatch.setitem(efforts.EFFORTS, "fast", small)
    (tmp_path / "net.py").write_text(NETWORK)
    options = config.RunConfig(
        model=f"{tmp_path / 'net.py'}:build",
        data="dots",
        floor=(-1.0,),
        effort="fast",
        change=("channels", "schemes"),
        storage=f"sqlite:///{tmp_path}/costs.db",
        out=tmp_path / "run",
    )
    check_names(options)
    (result,) = run(RunFolder.create(options), ProgressLog())
    assert result.main.method == "channels-then-schemes"
    table = [step for step in result.main.history if step["what"].startswith(TABLE_PREFIX)]
    assert any("of dense" in step["why"] or "dense, " in step["why"] for step in table), (
        "each layer's reason is told"
    )
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["schemes"], "any plan holds this floor, and sparser ones are faster"
    network, _ = load_pruned(tmp_path / "run")
    layers = dict(network.named_modules())
    for layer in plan["schemes"]:
        assert bool((layers[layer].weight == 0).any())
    checks = {check.claim: check for check in validate_run(tmp_path / "run")}
    wrong = [
        c for c in checks.values() if c.passed is False and "speed-up" not in c.claim
    ]  # what noise is fast at is not tried here
    assert wrong == []
    assert sum("is pruned as" in claim for claim in checks) == len(plan["schemes"])
    image = torch.zeros(1, 3, 16, 16)
    assert torch.export.load(tmp_path / "run" / "model.pt2").module()(image).shape == (1, 10)
