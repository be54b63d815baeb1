"""Entry points of the registered environments that measure on a device."""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Callable
from typing import Any

from cprune_rl.envs.cprune_env import CPruneEnv, ProblemChoice
from cprune_rl.envs.scheme_mapping import SchemeMappingEnv
from cprune_rl.pipeline.live_problems import live_options
from cprune_rl.pipeline.setup import open_live

__all__ = ["make_live_env", "make_live_mapping_env"]

# What the environments take; every other option is one of a run.
_ENV_OPTIONS = frozenset(
    ("max_rows", "max_steps", "max_rejections", "reward", "render_mode", "action_set")
)


def make_live_env(problem: ProblemChoice | None = None, **options: Any) -> CPruneEnv:
    """Make `cprune_rl/CPrune-v0`: `CPruneEnv`, measured on a device.

    ## Description
    A network of yours is prepared as `cprune-rl prune` prepares it. The base network is trained, or
    its weights are read; its groups are found; the device is opened; the dense network is tuned;
    and the accuracy oracle is calibrated. Then a step tunes the tasks that it changes, times them
    on the device and asks the oracle. Latencies go into the cost cache, so that a task that was
    timed before costs no trial.

    Spaces, actions, rewards, episodes and info are those of `CPruneEnv`
    (`cprune_rl/CPruneRecorded-v0`). Measurements differ from run to run, so the environment is not
    deterministic.

    `close()` closes the device and the cost cache.

    ## Arguments
    ```python
    >>> import gymnasium as gym
    >>> import cprune_rl  # registers the environments
    >>> env = gym.make("cprune_rl/CPrune-v0", model="resnet8", device="local", floor=-0.01)
    >>> obs, info = env.reset(seed=0)
    >>> env.close()

    ```

    | Parameter | Type | Default | Description |
    |-----------|------|---------|-------------|
    | `problem` | see below | `None` | what to solve |
    | `model`, `data`, `device`, `floor`, `storage`, ... | | | options of `cprune-rl prune` |
    | `max_rows`, `max_rejections`, ... | | | arguments of `CPruneEnv` |

    `problem` is the name of a live problem (`cprune-rl problems add`): its options are taken, and
    those that are given here replace them. Or it is a `Problem` or a sampler, which take no options
    of a run. `None` prepares the network that the options describe.

    ## Version History
    * v0: initial version. `close()` once closed nothing: the device closed with the process.
    """
    return _make_live(CPruneEnv, problem, options)


def make_live_mapping_env(problem: ProblemChoice | None = None, **options: Any) -> CPruneEnv:
    """Make `cprune_rl/SchemeMapping-v0`: `SchemeMappingEnv`, measured on a device.

    ## Description
    The network is prepared as `cprune_rl/CPrune-v0` prepares it, with `change="schemes"`: the
    oracle is also calibrated on plans that prune layers by schemes. Spaces, actions, rewards,
    episodes and info are those of `SchemeMappingEnv` (`cprune_rl/SchemeMappingRecorded-v0`).

    ## Arguments
    Those of `cprune_rl/CPrune-v0`.

    ## Version History
    * v0: initial version. `close()` once closed nothing: the device closed with the process.
    """
    if problem is None:
        options = {"change": "schemes", **options}
    return _make_live(SchemeMappingEnv, problem, options)


def _make_live(
    make: Callable[..., CPruneEnv], problem: ProblemChoice | None, options: dict[str, Any]
) -> CPruneEnv:
    env_options = {name: value for name, value in options.items() if name in _ENV_OPTIONS}
    run_options = {name: value for name, value in options.items() if name not in _ENV_OPTIONS}
    if problem is not None and not isinstance(problem, str):
        if run_options:
            raise TypeError(f"problem= is prepared already; it takes no {min(run_options)}=")
        return make(problem, **env_options)
    if problem is not None:
        run_options = {**live_options(problem), **run_options}
    resources = contextlib.ExitStack()
    try:
        live = resources.enter_context(open_live(**run_options))
        env = make(live, on_close=resources.close, **env_options)
    except BaseException:
        resources.close()
        raise
    atexit.register(resources.close)  # for a process that ends without close()
    return env
