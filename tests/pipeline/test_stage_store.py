"""What a run folder keeps of a stage, and what `--resume` restores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cprune_rl.agents.policies import DEFAULT, find_policy
from cprune_rl.agents.rl.training import TrainingSettings, train_policy
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import AcceptedPlan, SearchResult
from cprune_rl.envs.actions.channel_actions import ChannelActions
from cprune_rl.pipeline.config import RunConfig
from cprune_rl.pipeline.policy_stage import TrainedPolicy
from cprune_rl.pipeline.run_folder import RunFolder
from cprune_rl.pipeline.stage_store import StageStore
from cprune_rl.testing import toy_problem

N_ROWS = 8


def found_by(method: str) -> SearchResult:
    dense = AcceptedPlan(Plan((8, 8)), latency_s=1e-3, accuracy=0.9)
    return SearchResult(method=method, accepted=(dense,), history=(), cost={"fresh_trials": 3.0})


def never() -> SearchResult:
    raise AssertionError("it was found before")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(RunConfig(out=tmp_path / "run"))


@pytest.fixture(scope="module")
def trained() -> TrainedPolicy:
    settings = TrainingSettings(
        total_timesteps=128,
        n_envs=8,
        max_rows=N_ROWS,
        options={"n_steps": 16, "batch_size": 64},
    )
    result = train_policy(lambda rng: toy_problem(), settings)
    return TrainedPolicy(
        policy=result.policy, algorithm=result.algorithm, card={"network": "toy", "train_s": 1.5}
    )


def test_a_search_is_made_once(folder: RunFolder) -> None:
    store = StageStore(folder)
    assert store.search("agent-0.01", lambda: found_by("agent")) == found_by("agent")
    assert store.search("agent-0.01", never) == found_by("agent")
    assert (folder.path / "search_agent-0.01.json").is_file()


def test_a_search_of_0_2_is_found_under_its_old_name(folder: RunFolder) -> None:
    folder.write_json("search_greedy-1.json", found_by("greedy").to_json())
    assert StageStore(folder).search("cprune-1", never) == found_by("cprune")


def test_a_trained_policy_is_restored_as_it_was(folder: RunFolder, trained: TrainedPolicy) -> None:
    store = StageStore(folder)
    made = store.trained_policy("policy", ChannelActions(), N_ROWS, lambda: trained)

    def train_again() -> TrainedPolicy:
        raise AssertionError("it was trained before")

    restored = store.trained_policy("policy", ChannelActions(), N_ROWS, train_again)
    assert made.train_s == restored.train_s == 1.5
    torch.testing.assert_close(restored.policy.state_dict(), made.policy.state_dict())
    assert (folder.path / "policy" / "sb3.zip").is_file()


def test_a_given_policy_is_copied_and_not_charged(folder: RunFolder) -> None:
    given = StageStore(folder).given_policy("policy", DEFAULT, ChannelActions(), max_rows=32)
    assert given.train_s == 0.0
    copied = json.loads((folder.path / "policy" / "policy.json").read_text())
    assert copied == json.loads((find_policy(DEFAULT) / "policy.json").read_text())
