"""Search-based mapping after Gong et al. (2021), by policy gradient.

A recurrent agent goes through the network layer by layer and draws a scheme for each. The reward is
the accuracy less a penalty on latency, with one measurement at the end of an episode and a running
mean subtracted. The authors' code is closed, and their densities come from regularised training.
Here the agent draws densities too, from those that the scheme environment offers; the penalty is in
units of the slack, as losses are; whatever held the floor on the way is an answer. Denser options
are likelier at the start than sparser ones: where all are alike, nearly every plan misses the floor
by far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.core.network import Plan
from cprune_rl.core.scheme import KINDS
from cprune_rl.envs.actions.scheme_actions import SCHEMES, prunable_layers
from cprune_rl.envs.problem import Problem

__all__ = ["PublishedMapping", "PublishedSettings"]

_WORST = -5.0  # reward: slacks that are lost beyond which it makes no difference
_LEAST_SLACK = 1e-4  # in accuracy
_DENSER = 1.5  # logits by which an option begins above one of half its density
_DENSE = 1.0  # logit with which staying dense begins


@dataclass(frozen=True, kw_only=True)
class PublishedSettings:
    """How the agent learns.

    Attributes:
        episodes: at most, each with one measurement.
        penalty: slacks of accuracy that the whole of the dense network's latency is worth.
        width: of the recurrent layer.
        learning_rate: of Adam.
        memory: share of the running mean of rewards that the next one leaves.
    """

    episodes: int = 200
    penalty: float = 3.0
    width: int = 64
    learning_rate: float = 5e-3
    memory: float = 0.9


@dataclass(frozen=True)
class PublishedMapping(SessionSearcher):
    """Learns on one problem alone; whatever held the floor on the way is an answer.

    Attributes:
        settings: of the agent.
        seed: of the network and of what it draws.
    """

    settings: PublishedSettings = field(default_factory=PublishedSettings)
    seed: int = 0

    name = "mapping-published"

    def run(self, session: SearchSession) -> None:
        """Draw plans and learn from what they come to."""
        problem = session.problem
        settings = self.settings
        if not problem.network.scheme_layers or not math.isfinite(session.dense_s):
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            agent = _Agent(_features(problem), _allowed(problem), settings.width)
            optimizer = torch.optim.Adam(agent.parameters(), settings.learning_rate)
            mean: float | None = None
            for episode in range(settings.episodes):
                if session.is_spent:
                    break
                options, log_probability = agent.draw()
                reward = self._reward(session, _plan(problem, options), episode)
                if mean is None:
                    mean = reward
                else:
                    mean = settings.memory * mean + (1 - settings.memory) * reward
                optimizer.zero_grad()
                (-(reward - mean) * log_probability).backward()  # type: ignore[no-untyped-call]  # torch's own
                optimizer.step()

    def _reward(self, session: SearchSession, plan: Plan, episode: int) -> float:
        step = session.try_once(plan, f"episode {episode + 1}")
        if step.accuracy is None:
            return _WORST
        problem = session.problem
        lost = (problem.dense_accuracy - step.accuracy) / max(problem.slack, _LEAST_SLACK)
        return max(-lost - self.settings.penalty * step.latency_s / session.dense_s, _WORST)


class _Agent(nn.Module):
    """Draws an option for each layer, from its shape and what was drawn before.

    The last option leaves the layer dense.

    Args:
        features: of each layer, `(n_layers, n_features)`.
        allowed: options of each layer, `(n_layers, n_options)`.
        width: of the recurrent layer.
    """

    def __init__(
        self, features: NDArray[np.float32], allowed: NDArray[np.bool_], width: int
    ) -> None:
        super().__init__()
        self._features = torch.from_numpy(features)
        self._allowed = torch.from_numpy(allowed)
        n_options = allowed.shape[1]
        self.before = nn.Embedding(n_options + 1, width)  # the last stands before the first layer
        self.cell = nn.LSTMCell(features.shape[1] + width, width)
        self.head = nn.Linear(width, n_options)
        nn.init.zeros_(self.head.weight)
        logits = [_DENSER * math.log2(s.density) for s in SCHEMES]
        self.head.bias.data = torch.tensor([*logits, _DENSE])

    def draw(self) -> tuple[list[int], torch.Tensor]:
        """Draw options of all layers; the second value is the log of their probability."""
        width = self.cell.hidden_size
        state = torch.zeros(1, width), torch.zeros(1, width)
        last = self.before.num_embeddings - 1
        drawn: list[int] = []
        total = torch.zeros(())
        for features, allowed in zip(self._features, self._allowed, strict=True):
            inputs = torch.cat([features[None], self.before(torch.tensor([last]))], dim=1)
            state = self.cell(inputs, state)
            logits = self.head(state[0])[0].masked_fill(~allowed, -1e9)
            options = torch.distributions.Categorical(logits=logits)
            option = options.sample()  # type: ignore[no-untyped-call]  # torch's own
            total = total + options.log_prob(option)  # type: ignore[no-untyped-call]  # torch's own
            last = int(option)
            drawn.append(last)
        return drawn, total


def _plan(problem: Problem, options: list[int]) -> Plan:
    schemes = tuple(
        (layer, str(SCHEMES[option]))
        for layer, option in zip(problem.network.scheme_layers, options, strict=True)
        if option < len(SCHEMES)
    )
    return Plan(problem.start_plan.widths, schemes)


def _allowed(problem: Problem) -> NDArray[np.bool_]:
    """Whether a layer can be pruned by a scheme, `(n_layers, n_schemes + 1)`; it can stay dense."""
    layers_of_kind = {kind: set(prunable_layers(problem.network, kind)) for kind in KINDS}
    rows = []
    for layer in problem.network.scheme_layers:
        rows.append([*(layer in layers_of_kind[s.kind] for s in SCHEMES), True])
    return np.array(rows)


def _features(problem: Problem) -> NDArray[np.float32]:
    """Describe each layer: channels, kernel, stride, height and share of the latency."""
    network = problem.network
    plan = problem.start_plan
    costs = problem.latency.predict(network.workloads(plan))
    seconds = [c.latency_s if math.isfinite(c.latency_s) else 0.0 for c in costs]
    total = sum(seconds) or 1.0
    rows = []
    for at in network.scheme_layers.values():
        task = network.workload(at, plan)
        row = (
            math.log2(task.channels_in) / 8,
            math.log2(task.channels_out) / 8,
            task.operator.kernel / 3,
            task.operator.stride / 2,
            math.log2(task.operator.height) / 8,
            seconds[at] / total,
        )
        rows.append(row)
    return np.array(rows, np.float32)
