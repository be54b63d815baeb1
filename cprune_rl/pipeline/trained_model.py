"""What a run prunes and judges:

a trained network, its groups, its images. Put together by `job.assemble`.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from cprune_rl.accuracy.data import ImageData
from cprune_rl.accuracy.oracle import FinetuneEvaluation
from cprune_rl.accuracy.training import TrainSettings
from cprune_rl.core.network import Plan
from cprune_rl.core.scheme import Scheme
from cprune_rl.models.weights import network_hash
from cprune_rl.pruning.groups import CoupledGroups
from cprune_rl.pruning.scheme_masks import apply_masks, increase_sparsity
from cprune_rl.pruning.surgery import prune

__all__ = ["GRADUAL_PRUNING", "TrainedModel", "gradual_pruning"]

_SPARSER_EVERY = (
    10  # steps of a full fine-tune, at which layers that are pruned by schemes lose further entries
)
_FINAL_DENSITY_AT = 0.6  # of its steps: from there on the scheme's density holds
GRADUAL_PRUNING = f"by steps of {_SPARSER_EVERY} to {_FINAL_DENSITY_AT}, cubic"
"""Names how the density falls, for what is kept of a training."""


def gradual_pruning(
    model: nn.Module, plan: Plan, n_steps: int
) -> Callable[[int, float], None] | None:
    """Makes a network whole again and gives what prunes it step by step while it is trained;

    None where no layer is pruned by a scheme.

    Args:
        model: of the plan, as `TrainedModel.pruned` gives it; changed in place.
        plan: whose schemes hold from 0.6 of the training on.
        n_steps: of the training.
    """
    schemes = {layer: Scheme.parse(text) for layer, text in plan.schemes}
    if not schemes:
        return None
    increase_sparsity(model, schemes, 0.0)

    def on_step(step: int, _: float) -> None:
        if (
            step % _SPARSER_EVERY == 0 or step == n_steps
        ) and step < _FINAL_DENSITY_AT * n_steps + _SPARSER_EVERY:
            increase_sparsity(model, schemes, min(1.0, step / (_FINAL_DENSITY_AT * n_steps)))

    return on_step


@dataclass(frozen=True)
class TrainedModel:
    """What is judged: a trained network, its groups and its images.

    Attributes:
        data: images.
        model: the dense network.
        example: one batch of its input.
        coupled: its groups.
    """

    data: ImageData
    model: nn.Module
    example: torch.Tensor
    coupled: CoupledGroups

    @functools.cached_property
    def weights(self) -> str:
        """Names the dense network's weights and the ranking of its channels."""
        return hashlib.sha256(
            json.dumps([network_hash(self.model), sorted(self.coupled.ranking.items())]).encode()
        ).hexdigest()[:20]

    def pruned(self, plan: Plan) -> nn.Module:
        """The network a plan leaves, with the dense network's weights."""
        return self.pruned_of(self.model, plan)

    def pruned_of(self, model: nn.Module, plan: Plan) -> nn.Module:
        """The network a plan leaves of another network of the same shape;

        layers that are pruned by a scheme hold to it while it is trained.

        Raises:
            PlanError: a layer cannot be pruned by its scheme.
        """
        narrow = prune(model, self.coupled, plan)
        return (
            apply_masks(narrow, {layer: Scheme.parse(text) for layer, text in plan.schemes})
            if plan.schemes
            else narrow
        )

    def finetuned(self, settings: TrainSettings, is_gradual: bool = False) -> FinetuneEvaluation:
        """Fine-tuning as an evaluation.

        Args:
            settings: of the training.
            is_gradual: whether the density of layers that are pruned by schemes falls step by step,
                as in the full fine-tune; a short one has them pruned from the start.
        """
        return FinetuneEvaluation(
            pruner=self.pruned,
            weights=self.weights,
            data=self.data,
            settings=settings,
            teacher=self.model,
            gradual_pruning=gradual_pruning if is_gradual else None,
            gradual_pruning_name=GRADUAL_PRUNING if is_gradual else "",
        )
