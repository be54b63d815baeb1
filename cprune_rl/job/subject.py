"""What a run prunes and judges: a trained network, its groups, its images. Put together by `job.assemble`."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass

import torch
from torch import nn

from cprune_rl.accuracy.data import ImageData
from cprune_rl.accuracy.oracle import Finetuned
from cprune_rl.accuracy.training import TrainSettings
from cprune_rl.pruning.blocks import hold
from cprune_rl.pruning.groups import CoupledGroups
from cprune_rl.pruning.surgery import prune
from cprune_rl.pruning.weights import network_hash
from cprune_rl.schemes import Scheme
from cprune_rl.table import Plan

__all__ = ["Subject"]


@dataclass(frozen=True)
class Subject:
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
        return hashlib.sha256(json.dumps([network_hash(self.model), sorted(self.coupled.ranking.items())]).encode()).hexdigest()[:20]

    def pruned(self, plan: Plan) -> nn.Module:
        """The network a plan leaves, with the dense network's weights."""
        return self.pruned_of(self.model, plan)

    def pruned_of(self, model: nn.Module, plan: Plan) -> nn.Module:
        """The network a plan leaves of another network of the same shape; layers that are pruned by a scheme hold to it while it is trained.

        Raises:
            PlanError: a layer cannot be pruned by its scheme.
        """
        narrow = prune(model, self.coupled, plan)
        return hold(narrow, {layer: Scheme.parse(text) for layer, text in plan.schemes}) if plan.schemes else narrow

    def finetuned(self, settings: TrainSettings) -> Finetuned:
        """Fine-tuning as an evaluation."""
        return Finetuned(self.pruned, self.weights, self.data, settings, self.model)
