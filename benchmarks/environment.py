"""How fast the packaged recorded environment steps and the agent trains, on this machine.

`python benchmarks/environment.py [--problem NAME] [--json FILE]`.

Steps a second are of this process's own CPU time (`time.process_time`), on one thread: what one
core gives, whoever else works on the machine. Training of one policy for many problems is timed by
the clock, on all cores. Absolute speeds depend on the machine. Compare the ratios: training against
stepping, and a step against one fresh trial's 0.35 s.
"""

import argparse
import json
import os
import time
from pathlib import Path

import gymnasium
import numpy as np
import torch

import cprune_rl  # noqa: F401  # registers the environments
from cprune_rl.agents.rl.training import TrainingSettings, train_policy
from cprune_rl.envs.problems.generated import GeneratedProblems, ProblemSource
from cprune_rl.envs.problems.registry import describe_recorded, open_recorded, recorded_names
from cprune_rl.latency.interpolation import LatencyInterpolator

ENVIRONMENT = "cprune_rl/CPruneRecorded-v0"
N_ENVS = 8


def steps_a_second(n_steps: int, problem: str | None) -> float:
    """Take random legal actions in one environment, resets included."""
    env = gymnasium.make(ENVIRONMENT, problem=problem).unwrapped
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    started = time.process_time()
    for _ in range(n_steps):
        *_, terminated, truncated, _ = env.step(rng.choice(np.flatnonzero(env.action_masks())))
        if terminated or truncated:
            env.reset()
    return n_steps / (time.process_time() - started)


def vector_steps_a_second(n_steps: int, problem: str | None) -> float:
    """Take random legal actions in the batch of environments that `gymnasium.make_vec` gives."""
    envs = gymnasium.make_vec(ENVIRONMENT, num_envs=N_ENVS, problem=problem)
    rng = np.random.default_rng(0)
    _, infos = envs.reset(seed=0)
    started = time.process_time()
    for _ in range(n_steps // N_ENVS):
        actions = [rng.choice(np.flatnonzero(mask)) for mask in infos["action_mask"]]
        *_, infos = envs.step(np.array(actions))
    return n_steps / (time.process_time() - started)


def training_steps_a_second(n_steps: int, problem: str | None) -> float:
    """Train MaskablePPO end to end on variations of the recorded problem."""
    recorded = open_recorded(problem)
    source = ProblemSource(
        name=recorded.name,
        network=recorded.network,
        interpolator=LatencyInterpolator(recorded.latency.interpolator.measured_tasks()),
        loss_model=recorded.loss_model,
        dense_accuracy=recorded.dense_accuracy,
        descriptor=recorded.descriptor,
    )
    started = time.process_time()
    train_policy(GeneratedProblems.from_source(source), TrainingSettings(total_timesteps=n_steps))
    return n_steps / (time.process_time() - started)


def policy_training_steps_a_second(n_steps: int) -> float:
    """Train one policy for many problems on all cores, by the clock, without reading recordings."""
    problems = GeneratedProblems.from_recordings(recorded_names())
    started = time.perf_counter()
    train_policy(problems, TrainingSettings(total_timesteps=n_steps, n_workers=None))
    return n_steps / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problem", help="name or path of a recording [default: resnet8]")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps_a_second(500, options.problem)  # the first steps fill memos
    stepping = float(np.median([steps_a_second(2000, options.problem) for _ in range(3)]))
    batched = float(np.median([vector_steps_a_second(2000, options.problem) for _ in range(3)]))
    training = training_steps_a_second(8192, options.problem)
    torch.set_num_threads(os.cpu_count() or 1)
    figures = {
        "problem": describe_recorded(options.problem).name,
        "basis": "CPU time of the process, one thread; policy_training by the clock, on all cores",
        "n_cores": os.cpu_count(),
        "env_steps_a_second": round(stepping),
        "vector_env_steps_a_second": round(batched),
        "training_steps_a_second": round(training),
        "training_over_stepping": round(training / stepping, 2),
        "policy_training_steps_a_second": round(policy_training_steps_a_second(102_400)),
    }
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
