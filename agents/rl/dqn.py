"""DQN with masks behind the row-shared network (Mnih et al., 2015).

The network gives values of actions in the place of logits. The mask is read off the observation,
which says of each action whether it is legal. So stable-baselines3's own update, which knows
nothing of masks, never takes the value of an illegal action for a target.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork

from cprune_rl.agents.rl.policy import RowEncoder, RowHead, RowPolicy, n_changes
from cprune_rl.envs.observation import N_GLOBALS

__all__ = ["MaskedDQN", "RowQPolicy", "legal_actions"]

_N_COLUMNS = 5  # of each change, legality first (`observation.features`)
_NEVER = -1e6
_PRIOR = 0.05  # of the analytic score: a value is a log latency ratio, a few tenths
_WIDTH = 64


def legal_actions(observations: torch.Tensor, n_changes: int) -> torch.Tensor:
    """Read which actions are legal off observations.

    Args:
        observations: `(batch, rows, n_features)`.
        n_changes: of each row.

    Returns:
        `(batch, n_changes * rows + 1)`; stop always is.
    """
    first = observations.shape[2] - N_GLOBALS - _N_COLUMNS * n_changes
    legal = (observations[:, :, first : first + n_changes] > 0.5).flatten(1)
    return torch.cat([legal, legal.new_ones(len(legal), 1)], dim=1)


class RowQNetwork(QNetwork):
    """Values of actions by the row-shared encoder and head; illegal ones are worth nothing."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._n_changes = n_changes(self.observation_space, self.action_space)  # type: ignore[arg-type]  # their kinds are known
        assert self.observation_space.shape is not None
        head = RowHead(self.observation_space.shape[0], self._n_changes, width=_WIDTH, prior=_PRIOR)
        torch.nn.init.zeros_(head.stop.bias)  # to stop is worth nothing, no more and no less
        self.q_net = head  # type: ignore[assignment]  # SB3's is a Sequential

    def forward(self, obs: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # SB3 allows for dictionaries
        """Give `(batch, n_actions)`."""
        values: torch.Tensor = self.q_net(self.extract_features(obs, self.features_extractor))
        return values.masked_fill(~legal_actions(obs, self._n_changes), _NEVER)


class RowQPolicy(DQNPolicy):
    """DQN's policy with `RowQNetwork`; arguments are stable-baselines3's."""

    def __init__(self, *args: Any, **options: Any) -> None:
        own = {
            "net_arch": [],
            "features_extractor_class": RowEncoder,
            "features_extractor_kwargs": {"n_changes": n_changes(*args[:2]), "width": _WIDTH},
        }
        super().__init__(*args, **(options | own))

    def make_q_net(self) -> RowQNetwork:
        """Make the network that SB3 asks for."""
        arguments = self._update_features_extractor(self.net_args, features_extractor=None)
        return RowQNetwork(**arguments).to(self.device)

    def begin_with(self, policy: RowPolicy) -> None:
        """Take over what a policy knows of tables.

        Its head gives logits, not values, so the head starts anew.
        """
        for net in (self.q_net, self.q_net_target):
            net.features_extractor.load_state_dict(policy.features_extractor.state_dict())

    def as_row_policy(self) -> RowPolicy:
        """Make a policy of the same choices, as every other part knows it.

        Its value of a table is not trained.
        """
        policy = RowPolicy(self.observation_space, self.action_space, lambda _: 0.0, width=_WIDTH)  # type: ignore[arg-type]  # their kinds are known
        policy.features_extractor.load_state_dict(self.q_net.features_extractor.state_dict())
        policy.action_net.load_state_dict(self.q_net.q_net.state_dict())
        for parameter in policy.value_net.parameters():
            torch.nn.init.zeros_(parameter)
        policy.set_training_mode(False)
        return policy


class MaskedDQN(DQN):
    """DQN that explores among legal actions only."""

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        assert self.env is not None
        greedy, _ = self.predict(self._last_obs, deterministic=True)  # type: ignore[arg-type]  # there is one
        actions = np.array(greedy)
        masks = np.stack(self.env.env_method("action_masks"))
        rate = 1.0 if self.num_timesteps < learning_starts else self.exploration_rate
        # SB3 itself draws from this generator: it seeds it.
        for at in np.flatnonzero(np.random.random(n_envs) < rate):
            actions[at] = np.random.choice(np.flatnonzero(masks[at]))
        return actions, actions
