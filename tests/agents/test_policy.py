"""The row-shared policy:

one set of weights for tables of any length, and files that run no code.
"""

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from cprune_rl.agents.rl.policy import RowPolicy, load_policy, save_policy
from cprune_rl.envs import CPruneEnv
from cprune_rl.envs.actions.channel_actions import STEP_COUNTS
from cprune_rl.envs.observation import N_FEATURES
from cprune_rl.errors import PolicyError
from cprune_rl.testing import toy_problem

N_COUNTS = len(STEP_COUNTS)


def make_policy(max_rows: int = 16) -> RowPolicy:
    torch.manual_seed(0)
    return RowPolicy(
        gymnasium.spaces.Box(-10.0, 10.0, (max_rows, N_FEATURES)),
        gymnasium.spaces.Discrete(N_COUNTS * max_rows + 1),
        lambda _: 1e-3,
    )


def logits(policy: RowPolicy, max_rows: int) -> np.ndarray:
    env = CPruneEnv(toy_problem(), max_rows=max_rows)
    obs, _ = env.reset(seed=0)
    with torch.no_grad():
        distribution = policy.get_distribution(torch.from_numpy(obs)[None], action_masks=None)
    return distribution.distribution.logits.numpy()[0]


def test_the_number_of_weights_does_not_depend_on_the_rows() -> None:
    assert sum(p.numel() for p in make_policy(4).parameters()) == sum(
        p.numel() for p in make_policy(64).parameters()
    )


def test_a_saved_policy_answers_alike_on_a_longer_table(tmp_path: Path) -> None:
    policy = make_policy(8)
    save_policy(policy, tmp_path, {"network": "toy"})
    longer = load_policy(tmp_path, max_rows=32)
    n_rows = len(CPruneEnv(toy_problem()).reset(seed=0)[1]["plan"].widths) + 1
    short, long = logits(policy, 8), logits(longer, 32)
    at = slice(0, N_COUNTS * n_rows)
    np.testing.assert_allclose(
        short[at] - short[-1], long[at] - long[-1], atol=1e-5
    )  # relative to stop: a softmax knows no offset


def test_the_prior_ranks_by_the_score_before_any_training() -> None:
    env = CPruneEnv(toy_problem(), max_rows=8)
    obs, _ = env.reset(seed=0)
    mask = env.action_masks()
    action, _ = make_policy(8).predict(obs, action_masks=mask, deterministic=True)
    from cprune_rl.envs.observation import FEATURES

    score = obs[:, FEATURES.index("score_x1") :][:, :N_COUNTS].flatten()
    best = max(np.flatnonzero(mask[:-1]), key=lambda a: score[a])
    assert score[int(action)] == pytest.approx(score[best], abs=0.15)


@pytest.mark.parametrize("other", [{"feature_hash": "0" * 12}, {"format": 1}])
def test_a_policy_for_another_observation_is_refused(
    tmp_path: Path, other: dict[str, object]
) -> None:
    save_policy(make_policy(), tmp_path, {})
    card = json.loads((tmp_path / "policy.json").read_text())
    (tmp_path / "policy.json").write_text(json.dumps({**card, **other}))
    with pytest.raises(PolicyError, match="train it again"):
        load_policy(tmp_path, 8)


@pytest.mark.parametrize("damage", ["policy.json", "policy.safetensors"])
def test_a_damaged_policy_is_an_error_of_ours(tmp_path: Path, damage: str) -> None:
    save_policy(make_policy(), tmp_path, {})
    (tmp_path / damage).write_bytes(b"\x80\x04not it")
    with pytest.raises(PolicyError, match="holds no policy"):
        load_policy(tmp_path, 8)
