"""Makes groups of the heads of attention layers.

A dependency graph does not see heads, because they are an axis of a view. An attention layer is
recognised by one linear map `qkv` to queries, keys and values, one `proj` back, and the numbers
`num_heads` and `head_dim` that its forward reads, as timm's has. Whether a network then computes
what it should, the equivalence check decides. Three heads, or as many as a head has numbers, are
left alone: in the view `(3, heads, numbers)` a compiler could not tell which axis gets shorter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cprune_rl.pruning.layer_cuts import cut_inputs, cut_outputs
from cprune_rl.pruning.slices import ChannelSlice

__all__ = ["AttentionHeads", "find_attention_heads"]


@dataclass(frozen=True, kw_only=True)
class AttentionHeads:
    """Describes the heads of one attention layer.

    Attributes:
        name: of its map to queries, keys and values; the group's name.
        module: this map.
        count: how many.
        slices: where the layer is cut when heads go.
        weights: `(count, n)` all weights that go with a head.
        gradients: `(count, n)` of a loss; None where there are none.
    """

    name: str
    module: nn.Linear
    count: int
    slices: tuple[ChannelSlice, ...]
    weights: torch.Tensor
    gradients: torch.Tensor | None

    def scores(self, importance: str) -> NDArray[np.float64]:
        """Scores each head by a criterion of `importance.IMPORTANCES` but `random`, `(count,)`."""
        if importance == "fpgm":
            scores = torch.cdist(self.weights, self.weights).sum(1)
        elif importance == "taylor":
            assert self.gradients is not None
            scores = (self.weights * self.gradients).sum(1).abs()
        else:
            scores = self.weights.norm(p=1 if importance == "l1" else 2, dim=1)
        return np.asarray(scores.double().numpy())


def find_attention_heads(model: nn.Module) -> list[AttentionHeads]:
    """Finds the attention layers of a network whose heads may go."""
    return [
        _attention_heads(name, module)
        for name, module in model.named_modules()
        if _is_attention(module)
    ]


def _is_attention(module: Any) -> bool:
    qkv = getattr(module, "qkv", None)
    proj = getattr(module, "proj", None)
    if not isinstance(qkv, nn.Linear) or not isinstance(proj, nn.Linear):
        return False
    n_heads = getattr(module, "num_heads", None)
    size = getattr(module, "head_dim", None)
    if not isinstance(n_heads, int) or not isinstance(size, int):
        return False
    width = n_heads * size
    has_heads = qkv.out_features == 3 * width and proj.in_features == width
    return has_heads and n_heads > 1 and n_heads not in (3, size)


def _attention_heads(name: str, attention: Any) -> AttentionHeads:
    n_heads = attention.num_heads
    size = attention.head_dim
    group = f"{name}.qkv"
    heads = np.arange(n_heads)
    head_of_proj = np.repeat(heads, size)
    slices = (
        ChannelSlice(
            layer=group,
            remove=cut_outputs,
            kind="out",
            group=group,
            positions=np.arange(3 * n_heads * size),
            channels=np.tile(head_of_proj, 3),
        ),
        ChannelSlice(
            layer=f"{name}.proj",
            remove=cut_inputs,
            kind="in",
            group=group,
            positions=np.arange(n_heads * size),
            channels=head_of_proj,
        ),
        ChannelSlice(
            layer=name,
            remove=_remove_heads,
            kind="heads",
            group=group,
            positions=heads,
            channels=heads,
        ),
    )

    def by_head(qkv: torch.Tensor, proj: torch.Tensor) -> torch.Tensor:
        """Sorts what belongs to the two maps by head, `(n_heads, n)`."""
        rows = qkv.reshape(3, n_heads, -1).transpose(0, 1).flatten(1)
        columns = proj.T.reshape(n_heads, -1)
        return torch.cat([rows, columns], 1).detach()

    qkv = attention.qkv.weight
    proj = attention.proj.weight
    has_gradients = qkv.grad is not None and proj.grad is not None
    return AttentionHeads(
        name=group,
        module=attention.qkv,
        count=n_heads,
        slices=slices,
        weights=by_head(qkv, proj),
        gradients=by_head(qkv.grad, proj.grad) if has_gradients else None,
    )


def _remove_heads(attention: Any, removed: Sequence[int]) -> None:
    attention.num_heads -= len(removed)
    if hasattr(attention, "attn_dim"):
        attention.attn_dim = attention.num_heads * attention.head_dim
