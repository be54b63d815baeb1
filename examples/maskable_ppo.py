"""Trains stock MaskablePPO: `python examples/maskable_ppo.py [--timesteps 20000]`."""

import argparse

import gymnasium as gym
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy

import cprune_rl  # noqa: F401  # registers the environments

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=20_000)
env = gym.make("cprune_rl/CPruneRecorded-v0", problem="resnet8@znver4-1t")
model = MaskablePPO("MlpPolicy", env, n_steps=512, gamma=1.0, seed=0, verbose=1)
model.learn(parser.parse_args().timesteps)
log_speedup, _ = evaluate_policy(model, env, n_eval_episodes=1, warn=False)
print(f"log speed-up {log_speedup:.3f}")
