"""The row-shared policy: it reads a subgraph table of any length with the same weights.

Row MLP -> mean and max over the rows -> row MLP, twice. A shared head gives the actions of each
row, plus `beta` times the analytic score of the action: log gain less log loss, by which a greedy
planner would rank. It plugs into sb3-contrib's MaskablePPO unchanged. It is saved as safetensors
and JSON, so that loading one runs no code.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import nn
from torch.nn import functional

from cprune_rl.core.atomic_files import write_text, written_whole
from cprune_rl.core.untrusted import DAMAGED, damage, number, printable, read_json, whole
from cprune_rl.envs.actions.base import ActionSet
from cprune_rl.envs.actions.channel_actions import ChannelActions
from cprune_rl.envs.observation import N_GLOBALS, feature_hash, features
from cprune_rl.errors import DataError, PolicyError
from cprune_rl.models.tensor_files import read_tensors, weight_differences

__all__ = [
    "RowEncoder",
    "RowHead",
    "RowPolicy",
    "load_policy",
    "n_changes",
    "read_card",
    "save_policy",
    "spaces",
]

_MAX_WIDTH = 1024  # of embeddings; the usual width is 64
_MAX_WEIGHT = 1e3  # trained ones are below 10
_FORMAT = 2  # 2: a device is eight figures of its probe
_SHARED = ("pi_features_extractor.", "vf_features_extractor.")  # `features_extractor` once more


def spaces(
    action_set: ActionSet, max_rows: int
) -> tuple[gymnasium.spaces.Box, gymnasium.spaces.Discrete]:
    """Make the spaces of tables of up to `max_rows` rows, as the environment has them."""
    observations = gymnasium.spaces.Box(-10.0, 10.0, (max_rows, len(features(action_set))))
    actions = gymnasium.spaces.Discrete(len(action_set.changes) * max_rows + 1)
    return observations, actions


def n_changes(observations: gymnasium.spaces.Box, actions: gymnasium.spaces.Discrete) -> int:
    """Count the changes of each row that a policy chooses among."""
    return (int(actions.n) - 1) // observations.shape[0]


def _mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers)


class RowEncoder(BaseFeaturesExtractor):
    """Turns `(batch, rows, features)` into row embeddings, a pooled embedding and the rows' scores.

    All three are in one flat vector.
    """

    def __init__(
        self, observation_space: gymnasium.spaces.Box, n_changes: int, width: int = 64
    ) -> None:
        n_rows, n_features = observation_space.shape
        super().__init__(observation_space, n_rows * width + width + n_rows * n_changes)
        self._width = width
        # Scores are the last columns before the globals (`observation.features`).
        self._score = slice(n_features - N_GLOBALS - n_changes, n_features - N_GLOBALS)
        self.embed = _mlp(n_features, width, width)
        self.mix1 = _mlp(3 * width, width)
        self.mix2 = _mlp(3 * width, width)
        self.pool = _mlp(2 * width + N_GLOBALS, width)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Encode; only rows that stand for a task are computed."""
        batch, n_rows, _ = observations.shape
        is_valid = observations[:, :, 0] > 0.5
        owner, _ = is_valid.nonzero(as_tuple=True)
        rows = self.embed(observations[is_valid])
        for mix in (self.mix1, self.mix2):
            rows = rows + self._mixed(mix, rows, owner, pooled=self._pooled(rows, owner, batch))
        global_features = observations[:, 0, -N_GLOBALS:]
        pooled = self.pool(torch.cat([self._pooled(rows, owner, batch), global_features], dim=1))
        padded = rows.new_zeros(batch, n_rows, self._width)
        padded[is_valid] = rows
        scores = observations[:, :, self._score].flatten(1)
        return torch.cat([padded.flatten(1), pooled, scores], dim=1)

    def _mixed(
        self, mix: nn.Sequential, rows: torch.Tensor, owner: torch.Tensor, *, pooled: torch.Tensor
    ) -> torch.Tensor:
        """Apply `mix` to each row beside its table's pooled embedding.

        The embedding's share of the product is computed once a table, not once a row.
        """
        linear, activation = mix
        assert isinstance(linear, nn.Linear)
        own = linear.weight[:, : self._width]
        shared = linear.weight[:, self._width :]
        of_tables = functional.linear(pooled, shared, linear.bias)
        mixed: torch.Tensor = activation(rows @ own.T + of_tables[owner])
        return mixed

    def _pooled(self, rows: torch.Tensor, owner: torch.Tensor, batch: int) -> torch.Tensor:
        """Mean and maximum over the rows of each table, `(batch, 2 * width)`."""
        ones = torch.ones_like(owner, dtype=rows.dtype)
        count = rows.new_zeros(batch).index_add(0, owner, ones)
        total = rows.new_zeros(batch, self._width).index_add(0, owner, rows)
        mean = total / count.clamp(min=1)[:, None]
        of_row = owner[:, None].expand(-1, self._width)
        largest = rows.new_zeros(batch, self._width).scatter_reduce(0, of_row, rows, "amax")
        return torch.cat([mean, largest], dim=1)


class RowHead(nn.Module):
    """Logits: one for each change of each row and one for stop, from what `RowEncoder` gives.

    Args:
        n_rows: of a table.
        n_changes: of each row.
        width: of the embeddings.
        prior: weight of the analytic score at the start.
    """

    def __init__(self, n_rows: int, n_changes: int, *, width: int, prior: float) -> None:
        super().__init__()
        self._n_rows = n_rows
        self._n_changes = n_changes
        self._width = width
        self.row = nn.Linear(width, n_changes)
        self.stop = nn.Linear(width, 1)
        self.beta = nn.Parameter(torch.tensor(float(prior)))
        nn.init.normal_(self.row.weight, std=0.01)
        nn.init.zeros_(self.row.bias)
        nn.init.normal_(self.stop.weight, std=0.01)
        # A policy that stops at once never learns what it missed.
        nn.init.constant_(self.stop.bias, -3.0)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """Add what was learned and what the analytic score gives."""
        learned, analytic = self.parts(latent)
        return learned + analytic

    def parts(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute what was learned and what the analytic score gives, of each logit.

        Returns:
            `(batch, n_changes * rows + 1)` each.
        """
        sizes = [self._n_rows * self._width, self._width, self._n_rows * self._n_changes]
        rows, pooled, score = torch.split(latent, sizes, dim=1)
        of_rows = self.row(rows.view(len(latent), self._n_rows, self._width)).flatten(1)
        learned = torch.cat([of_rows, self.stop(pooled)], dim=1)
        analytic = torch.cat([self.beta * score, score.new_zeros(len(score), 1)], dim=1)
        return learned, analytic


class PooledValue(nn.Module):
    """The value of a table, from its pooled embedding."""

    def __init__(self, n_rows: int, width: int) -> None:
        super().__init__()
        self._span = slice(n_rows * width, n_rows * width + width)
        self.net = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """Give `(batch, 1)`."""
        value: torch.Tensor = self.net(latent[:, self._span])
        return value


class RowPolicy(MaskableActorCriticPolicy):  # type: ignore[misc]  # sb3-contrib has no types
    """An actor-critic whose weights do not depend on the number of rows.

    Args:
        observation_space: `Box(n_rows, n_features)`, columns as `observation.features` has them.
        action_space: `Discrete(n_changes * n_rows + 1)`.
        lr_schedule: as SB3 has it.
        width: of the embeddings.
        prior: weight of the analytic score at the start; 0 leaves it out.
        kwargs: further options of MaskableActorCriticPolicy.
    """

    def __init__(
        self,
        observation_space: gymnasium.spaces.Box,
        action_space: gymnasium.spaces.Discrete,
        lr_schedule: Schedule,
        width: int = 64,
        prior: float = 4.0,
        **kwargs: Any,
    ) -> None:
        self._width = width
        self._prior = prior
        self._n_changes = n_changes(observation_space, action_space)
        options = {
            "net_arch": [],
            "ortho_init": False,
            "features_extractor_class": RowEncoder,
            "features_extractor_kwargs": {"n_changes": self._n_changes, "width": width},
        }
        super().__init__(observation_space, action_space, lr_schedule, **(kwargs | options))

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        n_rows = self.observation_space.shape[0]
        self.action_net = RowHead(n_rows, self._n_changes, width=self._width, prior=self._prior)
        self.value_net = PooledValue(n_rows, self._width)
        self.optimizer = self.optimizer_class(
            self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs
        )

    def explain(self, observation: NDArray[np.float32], action: int) -> tuple[float, float]:
        """Say what was learned and what the analytic score gives, of one action's logit.

        Args:
            observation: `(rows, n_features)`.
            action: that is asked about.
        """
        batch = torch.from_numpy(observation[None])
        with torch.no_grad():
            latent = self.extract_features(batch, self.pi_features_extractor)
            learned, analytic = self.action_net.parts(latent)
        return float(learned[0, action]), float(analytic[0, action])

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "width": self._width, "prior": self._prior}


def save_policy(
    policy: RowPolicy, folder: Path, card: Mapping[str, Any], action_set: ActionSet | None = None
) -> None:
    """Write `policy.safetensors` and `policy.json`.

    Args:
        policy: what to save.
        folder: made where it is missing.
        card: what it was trained on, for whoever uses it later; plain values.
        action_set: that it was trained on; narrower groups where not given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.contiguous()
        for name, tensor in policy.state_dict().items()
        if not name.startswith(_SHARED)
    }
    with written_whole(folder / "policy.safetensors") as file:
        save_file(weights, file)
    names = features(action_set or ChannelActions())
    value = {
        "format": _FORMAT,
        "feature_hash": feature_hash(names),
        "features": list(names),
        "width": policy._width,
        "card": dict(card),
    }
    write_text(folder / "policy.json", json.dumps(value, indent=1))


def load_policy(folder: Path, max_rows: int, action_set: ActionSet | None = None) -> RowPolicy:
    """Read a policy; no code of the files is run.

    Args:
        folder: that `save_policy` wrote.
        max_rows: tasks of the largest table that it is to read.
        action_set: that it was trained on; narrower groups where not given.

    Raises:
        PolicyError: a file is missing or damaged, or the policy reads another observation.
    """
    action_set = action_set or ChannelActions()
    expected = feature_hash(features(action_set))
    layout = _read_layout(folder)
    if (layout["format"], layout["feature_hash"]) != (_FORMAT, expected):
        raise PolicyError(
            f"the policy in {folder} reads observation {_shown(layout['feature_hash'])} "
            f"(format {_shown(layout['format'])}), this version gives {expected} "
            f"(format {_FORMAT}): train it again with this version"
        )
    try:
        width = whole(layout["width"], "width", 1, _MAX_WIDTH)
        weights = read_tensors(folder / "policy.safetensors")
    except DataError as error:
        raise PolicyError(f"{folder} holds no policy: {error}") from error
    policy = RowPolicy(*spaces(action_set, max_rows), lambda _: 0.0, width=width)
    own = {n: value for n, value in policy.state_dict().items() if not n.startswith(_SHARED)}
    problems = weight_differences(own, weights)
    if not problems:
        problems = [f"{name} has {problem}" for name, problem in _strange_weights(weights)][:1]
    if problems:
        raise PolicyError(
            f"the policy in {folder} is damaged, or of another version: {'; '.join(problems)}"
        )
    policy.load_state_dict(weights, strict=False)
    policy.set_training_mode(False)
    return policy


def read_card(folder: Path) -> dict[str, Any]:
    """Read what a policy was trained on: the `card` that `save_policy` got.

    Raises:
        PolicyError: the file is missing or damaged.
    """
    card = _read_layout(folder)["card"]
    try:
        number(card.get("train_s", 0.0), "train_s", 0.0)
    except (DataError, AttributeError) as error:
        raise PolicyError(f"{folder} holds no policy: {damage(error)}") from error
    return dict(card)


def _read_layout(folder: Path) -> dict[str, Any]:
    path = folder / "policy.json"
    try:
        layout = read_json(path)
        return {name: layout[name] for name in ("format", "feature_hash", "width", "card")}
    except DAMAGED as error:
        raise PolicyError(f"{folder} holds no policy: {path.name}: {damage(error)}") from error


def _shown(value: object) -> str:
    return printable(str(value)[:20])


def _strange_weights(weights: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, str]]:
    """Find weights that no training gives: logits overflow by them."""
    for name, value in weights.items():
        if not value.is_floating_point():
            yield name, f"{value.dtype} values"
        elif not bool((value.float().abs() <= _MAX_WEIGHT).all()):
            yield name, f"a value that is no number, or beyond {_MAX_WEIGHT:g}"
