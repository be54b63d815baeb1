"""How fast the recorded environment steps and the agent trains, on this machine.

`python benchmarks/environment.py [--json FILE]`. Absolute speeds depend on the machine; the ratios (training
against stepping, a step against one fresh trial's 0.35 s) are what to compare.
"""

import argparse
import json
import time
from pathlib import Path

import gymnasium
import numpy as np

import cprune_rl  # noqa: F401  # registers the environments
from cprune_rl.agents.ppo import PPOSettings, train_policy
from cprune_rl.cost_cache.predictor import CostModel
from cprune_rl.envs.problems import TrainingProblems, open_recorded


def steps_a_second(n_steps: int) -> float:
    """Random legal actions in `cprune_rl/CPruneRecorded-v0`, resets included."""
    env = gymnasium.make("cprune_rl/CPruneRecorded-v0").unwrapped
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    started = time.perf_counter()
    for _ in range(n_steps):
        *_, terminated, truncated, _ = env.step(rng.choice(np.flatnonzero(env.action_masks())))
        if terminated or truncated:
            env.reset()
    return n_steps / (time.perf_counter() - started)


def training_steps_a_second(n_steps: int) -> float:
    """MaskablePPO end to end on variations of the recorded problem."""
    recorded = open_recorded()
    measured = CostModel(recorded.latency.measured())
    problems = TrainingProblems(recorded.network, measured, recorded.curves, recorded.dense_accuracy, recorded.descriptor)
    started = time.perf_counter()
    train_policy(problems, PPOSettings(total_timesteps=n_steps))
    return n_steps / (time.perf_counter() - started)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--json", type=Path)
options = parser.parse_args()
steps_a_second(500)  # the first steps fill memos
stepping = float(np.median([steps_a_second(2000) for _ in range(3)]))
training = training_steps_a_second(8192)
figures = {"env_steps_a_second": round(stepping), "training_steps_a_second": round(training), "training_over_stepping": round(training / stepping, 2)}
print(json.dumps(figures, indent=1))
if options.json:
    options.json.write_text(json.dumps(figures, indent=1))
