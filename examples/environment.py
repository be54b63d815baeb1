"""Plays a recorded problem by the analytic score alone: no agent, no compiler, no device.

`python examples/environment.py [--problem resnet8@znver4-1t:-0.02]`
"""

import argparse
import math

import gymnasium as gym
import numpy as np

import cprune_rl  # noqa: F401  # registers the environments
from cprune_rl.envs.observation import FEATURES

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--problem", default="resnet8", help="name or path of a recording")
problem = parser.parse_args().problem

first_score = FEATURES.index("score_x1")
env = gym.make("cprune_rl/CPruneRecorded-v0", problem=problem)
obs, info = env.reset(seed=0)
stop = int(env.action_space.n) - 1
total_reward, done = 0.0, False
while not done:
    scores = obs[:, first_score : first_score + 3].ravel()
    legal = info["action_mask"][:-1].astype(bool)
    action = int(np.where(legal, scores, -np.inf).argmax()) if legal.any() else stop
    obs, reward, terminated, truncated, info = env.step(action)
    total_reward += reward
    done = terminated or truncated
print(f"estimate: {info['dense_latency_s'] * 1e3:.3f} ms -> {info['latency_s'] * 1e3:.3f} ms")
print(f"speed-up {math.exp(total_reward):.2f}, accuracy {info['accuracy']:.4f}")
