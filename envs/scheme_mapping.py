"""The mapping of pruning schemes to layers as a Gymnasium environment."""

from __future__ import annotations

from typing import Any

from cprune_rl.envs.actions.scheme_actions import SchemeActions
from cprune_rl.envs.cprune_env import CPruneEnv, ProblemChoice
from cprune_rl.envs.vector_env import CPruneVectorEnv

__all__ = ["SchemeMappingEnv", "SchemeMappingVectorEnv"]


class SchemeMappingEnv(CPruneEnv):
    """Prune the layers of a network by schemes that its device runs fast, and keep its accuracy.

    ## Description
    A *scheme* prunes within the channels of a layer, in a regular pattern that a compiler can use:
    blocks of output channels share their inputs, whole 3x3 kernels go, or each kernel keeps four of
    its nine weights. An action gives the layers of one task a scheme, in place of what they have.
    Gong et al. (2021) choose among the same schemes, layer by layer. The rest is as in `CPruneEnv`:
    latencies are sums of tasks, an oracle judges accuracy, and a step that falls below the floor is
    undone.

    `cprune_rl/SchemeMappingRecorded-v0` reads a recording that was made with schemes (`cprune-rl
    record --change channels,schemes`); `cprune-rl problems list` says which have them. The
    packaged ones do not. `cprune_rl/SchemeMapping-v0` measures on a device.

    ## Observation Space
    `Box(-10, 10, (max_rows, 274), float32)`: the subgraph table as in `CPruneEnv`, with columns of
    schemes. The units of losses are layers, not groups.

    | Column | Name | Meaning |
    |--------|------|---------|
    | 0-19 | as in `CPruneEnv` | the task |
    | 20 | `density` | share of the weights that its layers keep: 1 where they are dense |
    | 21 | `log2_block` | log2 of the block size, over 4; 0 where they are dense |
    | 22 | `is_block` | 1: pruned in blocks |
    | 23 | `is_kernel` | 1: pruned by whole kernels |
    | 24 | `is_pattern` | 1: pruned by patterns |
    | 25-71 | `legal_*` | 1: the action is legal |
    | 72-118 | `fraction_removed_*` | 3 times the share of present weights that it takes away |
    | 119-165 | `log_gain_*` | half the log of its predicted log latency ratio, plus 1.5 |
    | 166-212 | `log_loss_over_slack_*` | half the log of its trusted loss over the slack |
    | 213-259 | `score_*` | half the log of its predicted gain over its predicted loss |
    | 260-273 | as 35-48 in `CPruneEnv` | the episode and the device |

    The star stands for each of 47 schemes in turn, `block_4_0.5` to `pattern_4_0.0625`: kind, block
    size and density.

    ## Action Space
    `Discrete(47 * max_rows + 1)`. Action `47 * row + i` gives every layer of the row's task scheme
    `i` of `scheme_actions.SCHEMES`. The last action stops.

    An action is legal where it can prune every layer of the task, is sparser than each of them is,
    is predicted to be faster, and was not rejected. A rejected scheme rules out all of its kind
    that are as dense or sparser, in blocks as large or larger.

    ## Rewards
    As in `CPruneEnv`: `log(latency before / latency after)` for an accepted step, else 0.

    ## Starting State
    The dense network, or the plan that the problem starts from: channels may have been pruned
    before.

    ## Episode End
    As in `CPruneEnv`.

    ## Info
    As in `CPruneEnv`.

    ## Arguments
    Those of `CPruneEnv`, without `action_set`.

    ## Version History
    * v0: initial version.
    """

    def __init__(self, problem: ProblemChoice | None = None, **options: Any) -> None:
        super().__init__(problem, action_set=SchemeActions(), **options)


class SchemeMappingVectorEnv(CPruneVectorEnv):
    """Step many `SchemeMappingEnv`s at once; all else is as in `CPruneVectorEnv`."""

    env_class = SchemeMappingEnv
