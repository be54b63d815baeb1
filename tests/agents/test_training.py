"""Training of policies: both learners, evaluation as it goes, checkpoints."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cprune_rl.agents.core.searcher import Budget
from cprune_rl.agents.rl.dqn import legal_actions
from cprune_rl.agents.rl.policy import load_policy, save_policy
from cprune_rl.agents.rl.rollout import PolicyRollOut
from cprune_rl.agents.rl.training import TrainingMonitor, TrainingSettings, train_policy
from cprune_rl.envs.actions.channel_actions import STEP_COUNTS
from cprune_rl.envs.cprune_env import CPruneEnv
from cprune_rl.envs.problem import Problem
from cprune_rl.errors import PolicyError, UnknownNameError
from cprune_rl.testing import toy_problem

SMALL = {
    "ppo": TrainingSettings(
        total_timesteps=512,
        n_envs=8,
        max_rows=8,
        eval_every=256,
        options={"n_steps": 16, "batch_size": 64},
    ),
    "dqn": TrainingSettings(
        total_timesteps=512,
        learner="dqn",
        n_envs=8,
        max_rows=8,
        eval_every=256,
        options={"learning_starts": 64, "batch_size": 32, "buffer_size": 512},
    ),
}


def drawn(rng: np.random.Generator) -> Problem:
    return toy_problem(drop=float(rng.choice([0.01, 0.03])))


@pytest.mark.parametrize("learner", SMALL)
def test_a_learner_trains_a_policy_that_prunes_and_is_tried_as_it_goes(
    learner: str, tmp_path: Path
) -> None:
    told: list[int] = []
    monitor = TrainingMonitor(
        log_folder=tmp_path / "events", on_steps=told.append, held_out=[toy_problem]
    )
    trained = train_policy(drawn, SMALL[learner], monitor=monitor)
    assert told[-1] >= 512
    assert [e.n_steps for e in trained.held_out] == sorted({e.n_steps for e in trained.held_out})
    assert len(trained.held_out) >= 2
    assert trained.held_out[-1].log_gain > 0
    assert list((tmp_path / "events").glob("events*"))
    save_policy(trained.policy, tmp_path / "policy", {})
    found = PolicyRollOut(load_policy(tmp_path / "policy", 8)).search(toy_problem(), Budget())
    assert math.log(found.accepted[0].latency_s / found.best.latency_s) == pytest.approx(
        trained.held_out[-1].log_gain
    )


@pytest.mark.parametrize("learner", SMALL)
def test_a_training_goes_on_from_its_checkpoint(learner: str, tmp_path: Path) -> None:
    checkpoint, settings = tmp_path / "checkpoint.pt", SMALL[learner]
    first = train_policy(
        drawn,
        replace(settings, total_timesteps=256),
        monitor=TrainingMonitor(checkpoint=checkpoint),
    )
    weights = {name: value.clone() for name, value in first.policy.state_dict().items()}
    again = train_policy(
        drawn,
        replace(settings, total_timesteps=256),
        monitor=TrainingMonitor(checkpoint=checkpoint),
    )
    for name, value in again.policy.state_dict().items():
        torch.testing.assert_close(value, weights[name])
    told: list[int] = []
    train_policy(
        drawn, settings, monitor=TrainingMonitor(on_steps=told.append, checkpoint=checkpoint)
    )
    assert told[0] > 256
    assert told[-1] >= 512


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    train_policy(
        drawn,
        replace(SMALL["ppo"], total_timesteps=128),
        monitor=TrainingMonitor(checkpoint=checkpoint),
    )
    with pytest.raises(PolicyError, match="other settings"):
        train_policy(
            drawn, replace(SMALL["ppo"], seed=1), monitor=TrainingMonitor(checkpoint=checkpoint)
        )
    checkpoint.write_bytes(b"not a checkpoint")
    with pytest.raises(PolicyError, match="damaged"):
        train_policy(drawn, SMALL["ppo"], monitor=TrainingMonitor(checkpoint=checkpoint))


def test_an_unknown_learner_is_named_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="dqn"):
        train_policy(drawn, replace(SMALL["ppo"], learner="dqnn"))


@pytest.mark.parametrize("learner", SMALL)
def test_a_training_begins_with_another_policys_weights(learner: str) -> None:
    start = train_policy(drawn, SMALL["ppo"]).policy
    untrained = train_policy(drawn, replace(SMALL[learner], total_timesteps=0), start=start).policy
    for name, value in untrained.features_extractor.state_dict().items():
        torch.testing.assert_close(value, start.features_extractor.state_dict()[name])


def test_dqn_reads_the_mask_off_the_observation() -> None:
    env = CPruneEnv(toy_problem(), max_rows=8)
    obs, _ = env.reset(seed=0)
    for _ in range(6):
        np.testing.assert_array_equal(
            legal_actions(torch.from_numpy(obs[None]), len(STEP_COUNTS)).numpy()[0],
            env.action_masks(),
        )
        obs, *_ = env.step(int(np.flatnonzero(env.action_masks())[0]))
