"""Trains PPO with masked actions, all in this file, in the style of CleanRL.

`python examples/ppo_single_file.py [--timesteps 50000] [--num-envs 16] [--tensorboard runs/ppo]`

The policy is row-shared: one small network reads every row of the observation, so that it serves
networks of any size. Rows meet in their mean. The packaged agent adds more (see
`cprune_rl.agents.rl.policy`).
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

import cprune_rl  # noqa: F401  # registers the environments
from cprune_rl.envs.observation import FEATURES

FIRST_SCORE = FEATURES.index("score_x1")
N_COUNTS = 3  # actions of a row: 1, 2 or 4 steps


@dataclass
class Args:
    problem: str = "resnet8@znver4-1t"
    timesteps: int = 50_000
    num_envs: int = 16
    num_steps: int = 32
    learning_rate: float = 1e-3
    gae_lambda: float = 0.95
    epochs: int = 4
    minibatches: int = 4
    clip: float = 0.2
    entropy: float = 0.01
    seed: int = 0
    tensorboard: str = ""


def parse_args() -> Args:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in vars(Args()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    return Args(**vars(parser.parse_args()))


class Agent(nn.Module):
    """Logits of three actions for each row and of stop, and the value."""

    def __init__(self, n_features: int, width: int = 64) -> None:
        super().__init__()
        self.rows = nn.Sequential(
            nn.Linear(n_features, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()
        )
        self.actor = nn.Linear(2 * width, N_COUNTS)
        self.stop = nn.Linear(width, 1)
        self.critic = nn.Linear(width, 1)
        # The analytic score is a good policy to start from.
        self.score_weight = nn.Parameter(torch.tensor(4.0))
        for head in (self.actor, self.stop, self.critic):
            nn.init.zeros_(head.weight)
        nn.init.constant_(self.stop.bias, -8.0)

    def forward(self, obs: torch.Tensor, mask: torch.Tensor) -> tuple[Categorical, torch.Tensor]:
        rows = self.rows(obs)
        is_row = obs[..., :1]
        pooled = (rows * is_row).sum(1) / is_row.sum(1).clamp(min=1)
        together = torch.cat([rows, pooled[:, None].expand_as(rows)], dim=-1)
        scores = obs[..., FIRST_SCORE : FIRST_SCORE + N_COUNTS]
        logits = self.actor(together) + self.score_weight * scores
        logits = torch.cat([logits.flatten(1), self.stop(pooled)], dim=1)
        return Categorical(logits=logits.masked_fill(~mask, -1e8)), self.critic(pooled).squeeze(-1)


def main() -> None:
    args = parse_args()
    torch.manual_seed(args.seed)
    writer = None
    if args.tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(args.tensorboard)
    envs = gym.make_vec("cprune_rl/CPruneRecorded-v0", num_envs=args.num_envs, problem=args.problem)
    obs_shape = envs.single_observation_space.shape
    n_actions = int(envs.single_action_space.n)
    agent = Agent(obs_shape[-1])
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)

    shape = (args.num_steps, args.num_envs)
    obs_buffer = torch.zeros((*shape, *obs_shape))
    mask_buffer = torch.zeros((*shape, n_actions), dtype=torch.bool)
    action_buffer = torch.zeros(shape, dtype=torch.long)
    log_prob_buffer = torch.zeros(shape)
    reward_buffer = torch.zeros(shape)
    done_buffer = torch.zeros(shape)
    value_buffer = torch.zeros(shape)

    started = time.perf_counter()
    obs, infos = envs.reset(seed=args.seed)
    best_log_speedup = 0.0
    n_updates = max(1, args.timesteps // (args.num_steps * args.num_envs))
    for update in range(n_updates):
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - update / n_updates)
        log_speedups = []
        for step in range(args.num_steps):
            obs_buffer[step] = torch.as_tensor(obs)
            mask_buffer[step] = torch.as_tensor(infos["action_mask"], dtype=torch.bool)
            with torch.no_grad():
                policy, value_buffer[step] = agent(obs_buffer[step], mask_buffer[step])
                action_buffer[step] = policy.sample()
                log_prob_buffer[step] = policy.log_prob(action_buffer[step])
            obs, rewards, terminations, truncations, infos = envs.step(action_buffer[step].numpy())
            reward_buffer[step] = torch.as_tensor(rewards)
            done_buffer[step] = torch.as_tensor(terminations | truncations)
            if "final_info" in infos:
                final, ended = infos["final_info"], infos["_final_info"]
                ratios = final["dense_latency_s"][ended] / final["latency_s"][ended]
                log_speedups += np.log(ratios).tolist()

        # generalized advantage estimation; the return is undiscounted
        with torch.no_grad():
            mask = torch.as_tensor(infos["action_mask"], dtype=torch.bool)
            next_value = agent(torch.as_tensor(obs), mask)[1]
        advantages = torch.zeros(shape)
        last = torch.zeros(args.num_envs)
        for step in reversed(range(args.num_steps)):
            alive = 1 - done_buffer[step]
            delta = reward_buffer[step] + next_value * alive - value_buffer[step]
            last = delta + args.gae_lambda * alive * last
            advantages[step] = last
            next_value = value_buffer[step]
        returns = advantages + value_buffer

        flat = [
            buffer.flatten(0, 1)
            for buffer in (
                obs_buffer,
                mask_buffer,
                action_buffer,
                log_prob_buffer,
                advantages,
                returns,
            )
        ]
        for _ in range(args.epochs):
            for at in torch.randperm(flat[0].shape[0]).chunk(args.minibatches):
                b_obs, b_mask, b_actions, b_log_probs, b_advantages, b_returns = (
                    buffer[at] for buffer in flat
                )
                policy, values = agent(b_obs, b_mask)
                ratio = (policy.log_prob(b_actions) - b_log_probs).exp()
                normed = (b_advantages - b_advantages.mean()) / (b_advantages.std() + 1e-8)
                clipped = ratio.clamp(1 - args.clip, 1 + args.clip)
                policy_loss = -torch.min(ratio * normed, clipped * normed).mean()
                value_loss = 0.5 * (values - b_returns).square().mean()
                loss = policy_loss + 0.5 * value_loss - args.entropy * policy.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()

        n_done = (update + 1) * args.num_steps * args.num_envs
        if log_speedups:
            best_log_speedup = max(best_log_speedup, *log_speedups)
            mean = float(np.mean(log_speedups))
            rate = n_done / (time.perf_counter() - started)
            print(f"step {n_done}: mean log speed-up {mean:.3f}, {rate:.0f} steps a second")
            if writer is not None:
                writer.add_scalar("charts/log_speedup", mean, n_done)
                writer.add_scalar("losses/policy_loss", policy_loss.item(), n_done)
                writer.add_scalar("losses/value_loss", value_loss.item(), n_done)
    envs.close()
    if writer is not None:
        writer.close()
    print(f"best speed-up {math.exp(best_log_speedup):.2f}")


if __name__ == "__main__":
    main()
