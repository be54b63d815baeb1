"""CPrune as a Gymnasium environment: one class, two sources of cost, two sets of actions.

`cprune_rl/CPrune-v0` measures through TVM; `cprune_rl/CPruneRecorded-v0` reads a recording. The
state is
the subgraph table, an action narrows a task's groups, a step that the gate refuses is undone. In
`cprune_rl/SchemeMapping-v0` and its recorded counterpart an action gives a task's layers a scheme
instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.network import Plan
from cprune_rl.core.protocols import TaskCost
from cprune_rl.core.subgraph_table import SubgraphTable
from cprune_rl.envs.actions.base import ActionSet, ActionTable, EpisodeState, PruneAction
from cprune_rl.envs.actions.channel_steps import ChannelActions
from cprune_rl.envs.observation import Observer, features
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.rewards import Outcome, get_reward
from cprune_rl.errors import DeviceError

__all__ = ["CPruneEnv"]

ProblemSampler = Callable[[np.random.Generator], Problem]


class CPruneEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Prunes one network for one device, one legal step at a time.

    Observation: `Box(max_rows, n_features)`, a row for each task (see `observation.features`),
        padded.
    Action: `Discrete(n_changes * max_rows + 1)`: row x change, here {1, 2, 4} legal steps; the last
        one stops.
    Reward: log latency ratio of an accepted step, else 0, so that the return is `log(dense /
        final)`.

    An episode ends at stop, after `max_rejections`, or when nothing is legal; it is truncated at
    `max_steps`. `info` holds plan, latency, accuracy and whether the step was accepted; a failed
    measurement is a rejected step with `error_type` and `error_details`; a device that is gone ends
    the
    episode where it stands, with `error_type` "device".

    Args:
        problem: what to solve; a callable draws a new one at each reset; a name or a path opens a
            recorded one; None opens the packaged recording.
        max_rows: rows of the observation. Only padding: policies do not depend on it.
        max_steps: truncation.
        max_rejections: the episode ends after so many.
        reward: name of the reward (see `envs.reward`).
        render_mode: "ansi" prints the table.
        action_set: which changes there are: narrower groups where not given (see `envs.action_set`).
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012  # Gymnasium's own declaration

    def __init__(
        self,
        problem: Problem | ProblemSampler | str | None = None,
        max_rows: int = 32,
        max_steps: int = 200,
        max_rejections: int = 8,
        reward: str = "gated",
        render_mode: str | None = None,
        action_set: ActionSet | None = None,
    ) -> None:
        if problem is None or isinstance(problem, str):
            from cprune_rl.envs.problems.registry import open_recorded

            problem = open_recorded(problem)
        self._source = problem
        self._max_rows, self._max_steps, self._max_rejections = max_rows, max_steps, max_rejections
        self._reward = get_reward(reward)
        self.render_mode = render_mode
        self.action_set: ActionSet = action_set or ChannelActions()
        self._n_changes = len(self.action_set.changes)
        self.observation_space = gymnasium.spaces.Box(
            -10.0, 10.0, (max_rows, len(features(self.action_set))), np.float32
        )
        self.action_space = gymnasium.spaces.Discrete(self._n_changes * max_rows + 1)
        self._problem: Problem | None = None
        self._state: EpisodeState | None = None
        self._action_table: ActionTable | None = None
        self._observer: Observer | None = None
        self.failure: DeviceError | None = None  # that ended the episode

    @property
    def problem(self) -> Problem:
        """What the current episode solves."""
        if self._problem is None:
            raise gymnasium.error.ResetNeeded("call reset() first")
        return self._problem

    @property
    def state(self) -> EpisodeState:
        """Where the current episode stands."""
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset() first")
        return self._state

    @property
    def stop_action(self) -> int:
        """The action that ends the episode."""
        return self._n_changes * self._max_rows

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions are legal, `(n_changes * max_rows + 1,)`:

        sb3-contrib's convention. Stop always is.
        """
        mask = np.zeros(self.stop_action + 1, bool)
        legal = self.action_table.legal.ravel()
        mask[: len(legal)] = legal
        mask[-1] = True
        return mask

    @property
    def action_table(self) -> ActionTable:
        """What may be done now."""
        if self._action_table is None:
            raise gymnasium.error.ResetNeeded("call reset() first")
        return self._action_table

    def prune_action(self, action: int) -> PruneAction | None:
        """What a legal action would do; None for stop."""
        row, change = divmod(int(action), self._n_changes)
        legal = self.action_table.legal
        return (
            self.action_table.make(row, change) if row < len(legal) and legal[row, change] else None
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Starts from the dense network, or from where the problem says.

        Raises:
            DeviceError: the network that it starts from cannot be measured.
        """
        super().reset(seed=seed)
        self.failure = None
        problem = (
            self._source if isinstance(self._source, Problem) else self._source(self.np_random)
        )
        self._problem = problem
        network, plan, n_units = (
            problem.network,
            problem.start_plan,
            self.action_set.n_units(problem.network),
        )
        costs = problem.latency.measure(plan)
        table = _table(problem, plan, costs)
        accuracy = (
            problem.dense_accuracy if plan == network.dense else problem.oracle.accuracy(plan).value
        )
        self._state = EpisodeState(
            plan,
            costs,
            table,
            accuracy,
            table.latency_s,
            self.action_set.begin(network),
            np.zeros(n_units),
            np.zeros(n_units),
        )
        self._look_around()
        return self._observation(), self._info()

    def step(
        self, action: np.int64 | int
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Tries an action; a masked one changes nothing, pays nothing and counts as a rejection."""
        state, move = self.state, self.prune_action(int(action))
        if int(action) == self.stop_action:
            return self._observation(), 0.0, True, False, self._info(stopped=True)
        state.n_steps += 1
        before_s = state.table.latency_s
        try:
            info = self._try(move) if move is not None else self._refuse(int(action))
        except DeviceError as error:
            self.failure = error
            info = {
                "accepted": False,
                "tried_latency_s": math.inf,
                "tried_accuracy": 0.0,
                "error_type": "device",
                "error_details": str(error),
            }
        outcome = Outcome(
            info["accepted"],
            before_s,
            info["tried_latency_s"],
            info["tried_accuracy"],
            self.problem.floor,
        )
        self._look_around()
        terminated = bool(
            state.n_rejections >= self._max_rejections
            or not self.action_table.legal.any()
            or self.failure is not None
        )
        truncated = bool(state.n_steps >= self._max_steps and not terminated)
        return self._observation(), self._reward(outcome), terminated, truncated, self._info(**info)

    def render(self) -> str | None:
        """The subgraph table as text."""
        if self.render_mode != "ansi":
            return None
        state = self.state
        lines = [
            f"{self.problem.name}: {state.table.latency_s * 1e6:.1f} us, accuracy {state.accuracy:.4f}, floor {self.problem.floor:.4f}"
        ]
        for row in state.table.rows:
            name = self.problem.network.subgraphs[row.subgraphs[0]].name
            lines.append(
                f"{name:28} x{row.weight} {row.workload.channels_in:4} -> {row.workload.channels_out:4} {row.latency_s * 1e6:9.1f} us"
            )
        return "\n".join(lines)

    def _refuse(self, action: int) -> dict[str, Any]:
        self.state.n_rejections += 1
        details = f"action {action} is not legal here; see action_masks()"
        return {
            "accepted": False,
            "tried_latency_s": math.inf,
            "tried_accuracy": 0.0,
            "error_type": "illegal_action",
            "error_details": details,
        }

    def _try(self, move: PruneAction) -> dict[str, Any]:
        """Measures a move and asks the gate; keeps it, or undoes it and remembers the widths."""
        state, problem = self.state, self.problem
        costs = problem.latency.measure(move.plan)
        failed = next(
            (c for c in costs if c.error is not None or not math.isfinite(c.latency_s)), None
        )
        if failed is not None:
            self._reject(move)
            return {
                "accepted": False,
                "tried_latency_s": math.inf,
                "tried_accuracy": 0.0,
                "error_type": "measurement",
                "error_details": failed.error or "no latency",
            }
        judged = problem.oracle.accuracy(move.plan)
        accuracy = judged.value
        table = _table(problem, move.plan, costs)
        self._learn_loss(move, accuracy)
        accepted = accuracy >= problem.floor
        if accepted:
            state.plan, state.costs, state.table, state.accuracy = move.plan, costs, table, accuracy
        else:
            self._reject(move)
        return {
            "accepted": accepted,
            "tried_latency_s": table.latency_s,
            "tried_accuracy": accuracy,
            "standard_error": judged.standard_error,
        }

    def _reject(self, move: PruneAction) -> None:
        self.state.n_rejections += 1
        self.action_set.reject(self.state, move)

    def _learn_loss(self, move: PruneAction, accuracy: float) -> None:
        """Shares the loss that a step brought between its units, as it was predicted."""
        state, problem = self.state, self.problem
        predicted = self.action_set.losses(problem, move.plan) - self.action_set.losses(
            problem, state.plan
        )
        if (
            predicted.sum() > 0
        ):  # a change of kind may be expected to lose less than what it replaces: nothing is learnt of its size
            state.predicted_loss += predicted
            state.observed_loss += (
                predicted / float(predicted.sum()) * max(state.accuracy - accuracy, 0.0)
            )

    def _look_around(self) -> None:
        self._action_table = self.action_set.action_table(self.problem, self.state, self._max_rows)

    def _observation(self) -> NDArray[np.float32]:
        if self._observer is None or self._observer.network is not self.problem.network:
            self._observer = Observer(self.problem.network, self._max_rows, self.action_set)
        return self._observer.observe(self.problem, self.state, self.action_table)

    def _info(self, **more: Any) -> dict[str, Any]:
        state = self.state
        return {
            "plan": state.plan,
            "latency_s": state.table.latency_s,
            "accuracy": state.accuracy,
            "dense_latency_s": state.dense_latency_s,
            **more,
        }


def _table(problem: Problem, plan: Plan, costs: list[TaskCost]) -> SubgraphTable:
    return SubgraphTable.from_costs(problem.network, plan, costs)
