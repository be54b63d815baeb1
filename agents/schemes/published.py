"""Search-based mapping after Gong et al.

(2021): a recurrent agent goes through the network layer by layer and draws a scheme for each;
policy gradient.

The reward is the accuracy less a penalty on latency, one true look at the end of an episode, a
running mean subtracted. The authors'
code is closed and their densities come from regularised training; here the agent draws them too,
from those that the scheme
environment offers, the penalty is in units of the slack (as are losses), and whatever held the
floor on the way is an answer. It begins
with denser options more likely than sparser ones: where all are alike, nearly every plan that it
draws misses the floor by far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cprune_rl.agents.core.searcher import Budget, OnStep
from cprune_rl.agents.core.session import Looks
from cprune_rl.core.network import Plan
from cprune_rl.core.scheme import KINDS
from cprune_rl.core.search_result import SearchResult
from cprune_rl.envs.actions.layer_schemes import SCHEMES, prunable_layers
from cprune_rl.envs.problem import Problem

__all__ = ["PublishedMapping", "PublishedSettings"]

_WORST = -5.0  # reward: slacks that are lost beyond which it makes no difference
_LEAST_SLACK = 1e-4  # in accuracy
_DENSER = 1.5  # logits by which an option begins above one of half its density
_DENSE = 1.0  # logit with which staying dense begins


@dataclass(frozen=True)
class PublishedSettings:
    """How the agent learns.

    Attributes:
        episodes: true looks at most.
        penalty: slacks of accuracy that the whole of the dense network's latency is worth.
        width: of the recurrent layer.
        learning_rate: of Adam.
        memory: share of the running mean of rewards that the next one leaves.
        seed: of the network and of what it draws.
    """

    episodes: int = 200
    penalty: float = 3.0
    width: int = 64
    learning_rate: float = 5e-3
    memory: float = 0.9
    seed: int = 0


class PublishedMapping:
    """See the module (and `searcher.Searcher`).

    Args:
        settings: of the agent.
    """

    name = "mapping-published"

    def __init__(self, settings: PublishedSettings | None = None) -> None:
        self._settings = settings or PublishedSettings()

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """Learns on the problem alone;

        what it looked at on the way is the answer (see `searcher.Searcher`).
        """
        looks, settings = Looks(problem, budget, on_step), self._settings
        layers = list(problem.network.scheme_layers)
        if not layers or not math.isfinite(looks.dense_s):
            return looks.session.result(self.name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            agent = _Agent(_features(problem), _allowed(problem), settings.width)
            optimizer = torch.optim.Adam(agent.parameters(), settings.learning_rate)
            mean: float | None = None
            for episode in range(settings.episodes):
                if looks.session.is_spent:
                    break
                drawn, log_probability = agent.draw()
                reward = self._reward(looks, _plan(problem, layers, drawn), episode)
                mean = (
                    reward
                    if mean is None
                    else settings.memory * mean + (1 - settings.memory) * reward
                )
                optimizer.zero_grad()
                (-(reward - mean) * log_probability).backward()  # type: ignore[no-untyped-call]  # torch's own
                optimizer.step()
        return looks.session.result(self.name)

    def _reward(self, looks: Looks, plan: Plan, episode: int) -> float:
        step = looks.take(plan, f"episode {episode + 1}")
        if step.accuracy is None:
            return _WORST
        lost = (looks.problem.dense_accuracy - step.accuracy) / max(looks.slack, _LEAST_SLACK)
        return max(-lost - self._settings.penalty * step.latency_s / looks.dense_s, _WORST)


class _Agent(nn.Module):
    """Draws an option for each layer, knowing its shape and what it drew before;

    the last option leaves the layer dense.
    """

    def __init__(
        self, features: NDArray[np.float32], allowed: NDArray[np.bool_], width: int
    ) -> None:
        super().__init__()
        self._features, self._allowed = torch.from_numpy(features), torch.from_numpy(allowed)
        n_options = allowed.shape[1]
        self.before = nn.Embedding(n_options + 1, width)  # the last stands before the first layer
        self.cell = nn.LSTMCell(features.shape[1] + width, width)
        self.head = nn.Linear(width, n_options)
        nn.init.zeros_(self.head.weight)
        self.head.bias.data = torch.tensor(
            [*(_DENSER * math.log2(s.density) for s in SCHEMES), _DENSE]
        )

    def draw(self) -> tuple[list[int], torch.Tensor]:
        """Options of all layers, and the log of their probability."""
        width = self.cell.hidden_size
        state = torch.zeros(1, width), torch.zeros(1, width)
        last, drawn, total = self.before.num_embeddings - 1, list[int](), torch.zeros(())
        for features, allowed in zip(self._features, self._allowed, strict=True):
            state = self.cell(
                torch.cat([features[None], self.before(torch.tensor([last]))], dim=1), state
            )
            options = torch.distributions.Categorical(
                logits=self.head(state[0])[0].masked_fill(~allowed, -1e9)
            )
            option = options.sample()  # type: ignore[no-untyped-call]  # torch's own
            total = total + options.log_prob(option)  # type: ignore[no-untyped-call]  # torch's own
            last = int(option)
            drawn.append(last)
        return drawn, total


def _plan(problem: Problem, layers: list[str], drawn: list[int]) -> Plan:
    chosen = tuple(
        (layer, str(SCHEMES[option]))
        for layer, option in zip(layers, drawn, strict=True)
        if option < len(SCHEMES)
    )
    return Plan(problem.start_plan.widths, chosen)


def _allowed(problem: Problem) -> NDArray[np.bool_]:
    """`(n_layers, n_schemes + 1)`; to stay dense always is."""
    prunable = {kind: set(prunable_layers(problem.network, kind)) for kind in KINDS}
    return np.array(
        [
            [*(layer in prunable[s.kind] for s in SCHEMES), True]
            for layer in problem.network.scheme_layers
        ]
    )


def _features(problem: Problem) -> NDArray[np.float32]:
    """What is said of each layer: channels, kernel, stride, height and share of the latency."""
    network, plan = problem.network, problem.start_plan
    costs = problem.latency.predict(network.workloads(plan))
    total = sum(c.latency_s for c in costs if math.isfinite(c.latency_s))
    rows = []
    for at in network.scheme_layers.values():
        task = network.workload(at, plan)
        shape = (
            math.log2(task.channels_in) / 8,
            math.log2(task.channels_out) / 8,
            task.operator.kernel / 3,
            task.operator.stride / 2,
            math.log2(task.operator.height) / 8,
        )
        rows.append(
            (*shape, costs[at].latency_s / total if math.isfinite(costs[at].latency_s) else 0.0)
        )
    return np.array(rows, np.float32)
