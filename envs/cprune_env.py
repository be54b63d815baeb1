"""CPrune as a Gymnasium environment: one class for measured and recorded problems."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.floor import resolve_floor
from cprune_rl.core.network import Plan
from cprune_rl.core.protocols import TaskCost
from cprune_rl.core.subgraph_table import SubgraphTable
from cprune_rl.envs.actions.base import ActionSet, ActionTable, EpisodeState, PruneAction
from cprune_rl.envs.actions.channel_actions import ChannelActions
from cprune_rl.envs.observation import Observer, features
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.registry import open_recorded
from cprune_rl.envs.rewards import Outcome, get_reward
from cprune_rl.errors import ConfigError, DeviceError, UnknownNameError

__all__ = [
    "MAX_EPISODE_STEPS",
    "RESET_OPTIONS",
    "CPruneEnv",
    "ProblemChoice",
    "ProblemSampler",
    "no_problem",
]

ProblemSampler = Callable[[np.random.Generator], Problem]
ProblemChoice = Problem | ProblemSampler | str
MAX_EPISODE_STEPS = 200  # episodes end by themselves long before
RESET_OPTIONS = ("problem", "floor")


class CPruneEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Prune a network for a device, one legal step at a time, and keep its accuracy.

    ## Description
    The environment is CPrune (Kim et al., ECCV 2022): compiler-informed pruning. A convolutional
    network is compiled for a device and becomes a sequence of *tasks*: tuning workloads, each
    shared by one or more layers. An action makes the channels of one task narrower, by steps that
    leave the loop structure of its fastest schedule as it is. The latency of the narrower network
    is estimated as the sum of its tasks. Its accuracy is judged by an oracle. A step that falls
    below the accuracy *floor* is undone. The goal is the lowest latency that holds the floor.

    `cprune_rl/CPruneRecorded-v0` reads a recorded problem: it needs neither a compiler nor a
    device, and is deterministic. `cprune_rl/CPrune-v0` measures on a device.

    ## Observation Space
    `Box(-10, 10, (max_rows, 49), float32)`: the subgraph table. A row is a task of the present
    plan, in the order of first execution. Rows without a task are 0. Tasks split and join during an
    episode, because layers of different widths do not share one.

    "Trust" is the loss that this episode observed for the row's groups over the loss that was
    predicted for them, in [0.2, 5]; a "trusted" loss is a predicted one times the trust. "Slack" is
    the accuracy that may still be lost, in points.

    | Column | Name | Meaning |
    |--------|------|---------|
    | 0 | `valid` | 1: the row is a task |
    | 1 | `log_share` | log of the task's share of the latency, all its subgraphs together, plus 3 |
    | 2 | `share` | 3 times the same share |
    | 3 | `weight` | subgraphs that share the task, over 3 |
    | 4 | `log2_channels_in` | log2 of the channels read, over 4, less 1.5 |
    | 5 | `log2_channels_out` | log2 of the channels written, over 4, less 1.5 |
    | 6 | `kept_in` | mean kept ratio of the groups that are read |
    | 7 | `kept_out` | mean kept ratio of the groups that are written |
    | 8 | `log_latency` | half the log of the latency over the mean one at the start |
    | 9 | `log_density` | log of the operations a second, less 23, over 2 |
    | 10 | `n_groups` | groups that are written, over 3 |
    | 11 | `is_depthwise` | 1: a depthwise convolution |
    | 12 | `is_dense` | 1: a fully connected layer |
    | 13 | `is_3x3` | 1: a 3x3 kernel |
    | 14 | `stride` | stride less 1 |
    | 15 | `log2_height` | log2 of the output's height, over 3 |
    | 16 | `log_importance` | half the log of the predicted loss of all channels of its groups |
    | 17 | `curvature` | mean power of the groups' predicted loss, less 2 |
    | 18 | `log_realised_over_predicted` | log of the trust |
    | 19 | `evidence` | points of loss predicted for the steps that trust rests on, at most 2 |
    | 20 | `legal_x1` | 1: the action of 1 step is legal |
    | 21 | `legal_x2` | 1: the action of 2 steps is legal |
    | 22 | `legal_x4` | 1: the action of 4 steps is legal |
    | 23 | `fraction_removed_x1` | 3 times the share of channels that 1 step takes away |
    | 24 | `fraction_removed_x2` | 3 times the share of channels that 2 steps take away |
    | 25 | `fraction_removed_x4` | 3 times the share of channels that 4 steps take away |
    | 26 | `log_gain_x1` | half the log of the predicted log latency ratio of 1 step, plus 1.5 |
    | 27 | `log_gain_x2` | half the log of the predicted log latency ratio of 2 steps, plus 1.5 |
    | 28 | `log_gain_x4` | half the log of the predicted log latency ratio of 4 steps, plus 1.5 |
    | 29 | `log_loss_over_slack_x1` | half the log of trusted loss of 1 step over slack |
    | 30 | `log_loss_over_slack_x2` | half the log of trusted loss of 2 steps over slack |
    | 31 | `log_loss_over_slack_x4` | half the log of trusted loss of 4 steps over slack |
    | 32 | `score_x1` | half the log of predicted gain over predicted loss of 1 step |
    | 33 | `score_x2` | half the log of predicted gain over predicted loss of 2 steps |
    | 34 | `score_x4` | half the log of predicted gain over predicted loss of 4 steps |
    | 35 | `log_slack` | half the log of the slack |
    | 36 | `slack_share` | slack over the accuracy that may be lost in all, at most 2 |
    | 37 | `floor_drop` | accuracy that may be lost in all, in points, over 3 |
    | 38 | `log_gain_so_far` | log latency ratio of the episode |
    | 39 | `steps` | steps taken, over 60, at most 1 |
    | 40 | `rejections` | rejected steps, over 8 |
    | 41 | `device_conv3x3_gflops` | log10 of the device's GFLOP/s on 3x3 convolutions, over 2.5 |
    | 42 | `device_conv3x3_small_gflops` | the same with 8 channels |
    | 43 | `device_conv1x1_gflops` | the same on 1x1 convolutions |
    | 44 | `device_depthwise_gflops` | the same on depthwise convolutions |
    | 45 | `device_bandwidth_gb_s` | log10 of its GB/s, over 2 |
    | 46 | `device_launch_ns` | log10 of the nanoseconds of an empty function, over 4 |
    | 47 | `device_threads` | log10 of its threads, over 1.2 |
    | 48 | `device_vector_lanes` | log10 of the float32 values of a vector register, over 1.2 |

    Columns 35 to 48 are the same in every row. A column's place never depends on the network, so
    one policy reads every problem.

    ## Action Space
    `Discrete(3 * max_rows + 1)`. Action `3 * row + i` makes every group that the row's task writes
    1, 2 or 4 legal steps narrower (`i` is 0, 1 or 2). The last action, `3 * max_rows`, stops.

    An action is legal where the row is a task that writes groups, no group falls below its minimum
    (20 % of its channels unless the problem says otherwise), and no width is one that was rejected
    for the group, or a narrower one. Stop is always legal. `info["action_mask"]` and
    `action_masks()` say which actions are legal. An illegal action changes nothing, and pays and
    counts as a rejection.

    ## Rewards
    An accepted step pays `log(latency before / latency after)`, a rejected one and stop pay 0. So
    the undiscounted return is exactly `log(latency at the start / final latency)`. Other rewards
    are for research: see the argument `reward`.

    ## Starting State
    The dense network, or the plan that the problem starts from. A problem that is a sampler draws
    network, floor, device and losses anew at each reset.

    ## Episode End
    The episode ends if any one of the following occurs:

    1. Termination: the action is stop.
    2. Termination: `max_rejections` steps were rejected.
    3. Termination: no action but stop is legal.
    4. Termination: the device is gone (`info["error_type"]` is `"device"`).
    5. Truncation: the episode has 200 steps.

    ## Info
    | Key | Type | Meaning |
    |-----|------|---------|
    | `action_mask` | int8 array | 1: the action is legal; `action_space.sample` takes it |
    | `plan` | `Plan` | what is kept; it holds the floor |
    | `latency_s` | float | its estimate, in seconds |
    | `accuracy` | float | by the oracle, in [0, 1] |
    | `dense_latency_s` | float | estimate of the plan that the episode started from |
    | `accepted` | bool | the step was accepted |
    | `tried_latency_s` | float | estimate of the plan that was tried; infinite if it failed |
    | `tried_accuracy` | float | its accuracy; 0 if it was not judged |
    | `standard_error` | float | of that accuracy; absent if it was not judged |
    | `stopped` | bool | only after stop |
    | `error_type` | str | after a failure: `"illegal_action"`, `"measurement"` or `"device"` |
    | `error_details` | str | what failed |

    `reset` gives the first five. A failed measurement is a rejected step, not an exception.

    ## Arguments
    ```python
    >>> import gymnasium as gym
    >>> import cprune_rl  # registers the environments
    >>> env = gym.make("cprune_rl/CPruneRecorded-v0", problem="resnet8@znver4-1t:-0.02")
    >>> obs, info = env.reset(seed=0)
    >>> obs, info = env.reset(options={"problem": "vgg-small", "floor": -0.01})

    ```

    | Parameter | Type | Default | Description |
    |-----------|------|---------|-------------|
    | `problem` | see below | `None` | what to solve |
    | `max_rows` | `int` | `32` | rows of the observation; further tasks are left out |
    | `max_steps` | `int` | `None` | truncates an episode earlier than after 200 steps |
    | `max_rejections` | `int` | `8` | rejected steps that end an episode |
    | `reward` | `str` | `"gated"` | or `"gated-with-cost"`: 0.01 less for a rejection |
    | `render_mode` | `str` | `None` | `"ansi"` or `"rgb_array"`, see below |
    | `action_set` | `ActionSet` | `None` | `None` makes groups narrower |
    | `on_close` | callable | `None` | called once by `close()` |

    `problem` is a recording's name or path, which may end in a floor; a `Problem`; or a callable
    that draws one from a numpy `Generator` at each reset. `None` opens `resnet8`.

    `gymnasium.make` truncates by its own `max_episode_steps`, 200 by default: give it that argument
    for longer episodes.

    `render_mode="ansi"` gives the subgraph table as text. `"rgb_array"` draws a panel for each
    task: its *staircase*, the predicted latency over the channels, and where the plan stands.

    `reset` takes `options` for one episode:

    | Option | Type | Description |
    |--------|------|-------------|
    | `problem` | as the argument | in place of the environment's own |
    | `floor` | `float` | accuracy that must hold: relative to the dense network if 0 or less |

    ## Vectorized Environment
    `gymnasium.make_vec("cprune_rl/CPruneRecorded-v0", num_envs=8)` steps environments in batches,
    with `n_workers=2` in two processes (see `CPruneVectorEnv`).

    ## Version History
    * v0: initial version. `info["action_mask"]`, reset options, the vector entry point, the
      `"rgb_array"` render mode and `max_episode_steps` were added later; observations, rewards and
      episodes stayed the same.
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 1}  # noqa: RUF012  # Gymnasium's own declaration

    def __init__(  # gymnasium.make gives options by keyword
        self,
        problem: ProblemChoice | None = None,
        *,
        max_rows: int = 32,
        max_steps: int | None = None,
        max_rejections: int = 8,
        reward: str = "gated",
        render_mode: str | None = None,
        action_set: ActionSet | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self._recorded: dict[str | None, Problem] = {}
        self._source = self._open(problem)
        self._max_rows = max_rows
        self._max_steps = max_steps
        self._max_rejections = max_rejections
        self._reward = get_reward(reward)
        self._on_close = on_close
        self.render_mode = render_mode
        self.action_set: ActionSet = action_set or ChannelActions()
        self._n_changes = len(self.action_set.changes)
        shape = (max_rows, len(features(self.action_set)))
        self.observation_space = gymnasium.spaces.Box(-10.0, 10.0, shape, np.float32)
        self.action_space = gymnasium.spaces.Discrete(self._n_changes * max_rows + 1)
        self._problem: Problem | None = None
        self._state: EpisodeState | None = None
        self._action_table: ActionTable | None = None
        self._mask: NDArray[np.bool_] = np.zeros(self.stop_action + 1, bool)
        self._observer: Observer | None = None
        self.failure: DeviceError | None = None  # that ended the episode

    @property
    def problem(self) -> Problem:
        """What the present episode solves."""
        if self._problem is None:
            raise gymnasium.error.ResetNeeded("call reset() first")
        return self._problem

    @property
    def state(self) -> EpisodeState:
        """Where the present episode stands."""
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset() first")
        return self._state

    @property
    def action_table(self) -> ActionTable:
        """What each action would do now."""
        if self._action_table is None:
            raise gymnasium.error.ResetNeeded("call reset() first")
        return self._action_table

    @property
    def stop_action(self) -> int:
        """The action that ends the episode."""
        return self._n_changes * self._max_rows

    def action_masks(self) -> NDArray[np.bool_]:
        """Say which actions are legal, `(n_actions,)`, by sb3-contrib's convention."""
        return self._mask.copy()

    def prune_action(self, action: int) -> PruneAction | None:
        """Say what an action would do; None for stop and for an illegal one."""
        row, change = divmod(int(action), self._n_changes)
        table = self.action_table
        if row >= len(table.legal) or not table.legal[row, change]:
            return None
        return table.action(row, change)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: of the sampler of problems.
            options: for this episode alone: `problem` and `floor`, as the class describes them.

        Raises:
            UnknownNameError: an option is unknown, or no recording has the name.
            ConfigError: the problem or the number of steps is none.
            FloorError: nothing can hold the floor.
            DeviceError: the network that it starts from cannot be measured.
        """
        super().reset(seed=seed)
        self.failure = None
        if self.spec is not None and (self._max_steps or 0) > MAX_EPISODE_STEPS:
            raise ConfigError(
                f"max_steps={self._max_steps} never counts: gymnasium.make truncates episodes at "
                f"{MAX_EPISODE_STEPS} steps. Give it max_episode_steps={self._max_steps} instead"
            )
        problem = self._draw_problem(options or {})
        self._problem = problem
        plan = problem.start_plan
        costs = problem.latency.measure(plan)
        table = SubgraphTable.from_costs(problem.network, plan, costs)
        accuracy = problem.dense_accuracy
        if plan != problem.network.dense:
            accuracy = problem.oracle.accuracy(plan).value
        scale, _ = self.action_set.unit_shapes(problem.loss_model)
        self._state = EpisodeState(
            plan=plan,
            costs=costs,
            table=table,
            accuracy=accuracy,
            start_latency_s=table.latency_s,
            rejected=self.action_set.no_rejections(problem.network),
            observed_loss=np.zeros(len(scale)),
            predicted_loss=np.zeros(len(scale)),
        )
        self._update_actions()
        return self._observation(), self._info()

    def step(
        self, action: np.int64 | int
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Try an action."""
        state = self.state
        if int(action) == self.stop_action:
            return self._observation(), 0.0, True, False, self._info(stopped=True)
        before_s = state.table.latency_s
        state.n_steps += 1
        try:
            info = self._try(int(action))
        except DeviceError as error:
            self.failure = error
            info = _failed("device", str(error))
        outcome = Outcome(
            accepted=info["accepted"],
            latency_before_s=before_s,
            latency_after_s=info["tried_latency_s"],
            accuracy=info["tried_accuracy"],
            floor=self.problem.floor,
        )
        self._update_actions()
        terminated = bool(
            state.n_rejections >= self._max_rejections
            or not self._mask[:-1].any()
            or self.failure is not None
        )
        truncated = not terminated and self._is_truncated()
        return self._observation(), self._reward(outcome), terminated, truncated, self._info(**info)

    def render(self) -> str | NDArray[np.uint8] | None:
        """Give the subgraph table as text, or as an image `(height, width, 3)`."""
        if self.render_mode == "ansi":
            return self._text()
        if self.render_mode == "rgb_array":
            # matplotlib is slow to load, and most environments draw nothing
            from cprune_rl.envs.rendering import draw_table

            return draw_table(self.problem, self.state)
        return None

    def close(self) -> None:
        """Close what the problem opened: the device, the cost cache; may be called twice."""
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    def _open(self, choice: ProblemChoice | None) -> Problem | ProblemSampler:
        """Open a recording by its name, once; give anything else as it is."""
        if choice is None or isinstance(choice, str):
            if choice not in self._recorded:
                self._recorded[choice] = open_recorded(choice)
            return self._recorded[choice]
        if isinstance(choice, Problem) or callable(choice):
            return choice
        raise no_problem(choice)

    def _draw_problem(self, options: Mapping[str, Any]) -> Problem:
        unknown = set(options) - set(RESET_OPTIONS)
        if unknown:
            raise UnknownNameError("reset option", min(unknown), RESET_OPTIONS)
        choice = options.get("problem")
        source = self._source if choice is None else self._open(choice)
        problem = source if isinstance(source, Problem) else source(self.np_random)
        floor = options.get("floor")
        if floor is None:
            return problem
        return replace(problem, floor=resolve_floor(floor, problem.dense_accuracy))

    def _is_truncated(self) -> bool:
        """Say whether the episode is too long, where no TimeLimit of `gymnasium.make` does."""
        limit = self._max_steps
        if limit is None:
            limit = MAX_EPISODE_STEPS if self.spec is None else None
        return limit is not None and self.state.n_steps >= limit

    def _try(self, action: int) -> dict[str, Any]:
        """Measure an action's plan and ask the gate; keep it, or undo it and note the rejection."""
        state, problem = self.state, self.problem
        pruning = self.prune_action(action)
        if pruning is None:
            state.n_rejections += 1
            return _failed("illegal_action", f"action {action} is not legal here: see action_masks")
        costs = problem.latency.measure(pruning.plan)
        broken = next((cost for cost in costs if _is_broken(cost)), None)
        if broken is not None:
            self._reject(pruning)
            return _failed("measurement", broken.error or "no latency")
        judged = problem.oracle.accuracy(pruning.plan)
        table = SubgraphTable.from_costs(problem.network, pruning.plan, costs)
        self._observe_loss(pruning.plan, judged.value)
        accepted = problem.holds(judged.value)
        if accepted:
            state.plan = pruning.plan
            state.costs = costs
            state.table = table
            state.accuracy = judged.value
        else:
            self._reject(pruning)
        return {
            "accepted": accepted,
            "tried_latency_s": table.latency_s,
            "tried_accuracy": judged.value,
            "standard_error": judged.standard_error,
        }

    def _reject(self, pruning: PruneAction) -> None:
        self.state.n_rejections += 1
        self.action_set.reject(self.state, pruning)

    def _observe_loss(self, plan: Plan, accuracy: float) -> None:
        """Share the loss of a step between its units, in proportion to the predicted losses."""
        state, problem = self.state, self.problem
        before = self.action_set.unit_losses(problem, state.plan)
        predicted = self.action_set.unit_losses(problem, plan) - before
        total = float(predicted.sum())
        # A scheme of another kind may be predicted to lose less than the one it replaces: its loss
        # says nothing of the prediction's size.
        if total > 0:
            lost = max(state.accuracy - accuracy, 0.0)
            state.predicted_loss += predicted
            state.observed_loss += predicted / total * lost

    def _update_actions(self) -> None:
        """Work out what each action would do now."""
        self._action_table = self.action_set.action_table(self.problem, self.state, self._max_rows)
        legal = self._action_table.legal.ravel()
        mask = np.zeros(self.stop_action + 1, bool)
        mask[: len(legal)] = legal
        mask[-1] = True
        self._mask = mask

    def _observation(self) -> NDArray[np.float32]:
        network = self.problem.network
        if self._observer is None or self._observer.network is not network:
            self._observer = Observer(network, self._max_rows, self.action_set)
        return self._observer.observe(self.problem, self.state, self.action_table)

    def _info(self, **more: Any) -> dict[str, Any]:
        state = self.state
        return {
            "action_mask": self._mask.astype(np.int8),
            "plan": state.plan,
            "latency_s": state.table.latency_s,
            "accuracy": state.accuracy,
            "dense_latency_s": state.start_latency_s,
            **more,
        }

    def _text(self) -> str:
        state, problem = self.state, self.problem
        lines = [
            f"{problem.name}: {state.table.latency_s * 1e6:.1f} us, "
            f"accuracy {state.accuracy:.4f}, floor {problem.floor:.4f}"
        ]
        for row in state.table.rows:
            name = problem.network.subgraphs[row.subgraphs[0]].name
            channels = f"{row.workload.channels_in:4} -> {row.workload.channels_out:4}"
            lines.append(f"{name:28} x{row.weight} {channels} {row.latency_s * 1e6:9.1f} us")
        return "\n".join(lines)


def no_problem(choice: object) -> ConfigError:
    """Give the error about what an environment was given as its problem."""
    return ConfigError(
        f"problem {choice!r} is none: give a Problem, the name or path of a recording, "
        "or a callable that draws a Problem from a numpy Generator"
    )


def _is_broken(cost: TaskCost) -> bool:
    return cost.error is not None or not math.isfinite(cost.latency_s)


def _failed(error_type: str, details: str) -> dict[str, Any]:
    """Give the info of a step that came to no accuracy."""
    return {
        "accepted": False,
        "tried_latency_s": math.inf,
        "tried_accuracy": 0.0,
        "error_type": error_type,
        "error_details": details,
    }
