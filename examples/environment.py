"""Plays the packaged recorded problem by the analytic score alone, no agent, no compiler:

`python examples/environment.py`.
"""

import math

import gymnasium
import numpy as np

import cprune_rl  # noqa: F401  # registers the environments
from cprune_rl.envs.observation import FEATURES, N_WIDTHS

score_at = FEATURES.index("score_x1")
env = gymnasium.make("cprune_rl/CPruneRecorded-v0")
obs, info = env.reset(seed=0)
total, done = 0.0, False
while not done:
    mask = env.unwrapped.action_masks()
    scores = np.where(mask[:-1], obs[:, score_at : score_at + N_WIDTHS].flatten(), -np.inf)
    action = int(scores.argmax()) if np.isfinite(scores).any() else env.unwrapped.stop_action
    obs, reward, terminated, truncated, info = env.step(action)
    total += reward
    done = terminated or truncated
print("by the recording's loss model, an estimate:")
print(
    f"{info['dense_latency_s'] * 1e3:.3f} ms -> {info['latency_s'] * 1e3:.3f} ms, {math.exp(total):.2f}x, accuracy {info['accuracy']:.4f}"
)
