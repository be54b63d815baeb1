"""The heads of attention layers as groups:

a dependency graph does not see them, because they are an axis of a view.

What is taken for an attention layer has one linear map `qkv` to queries, keys and values, one
`proj` back, and the
numbers `num_heads` and `head_dim` that its forward reads, as timm's has. Whether a network then
computes what it should
is for the guard to say. Three heads, or as many as a head has numbers, are left alone: in the view
`(3, heads, numbers)`
a compiler could not tell the axis that gets shorter. Called by `groups`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from numpy.typing import NDArray
from torch import nn

from cprune_rl.pruning.slices import ChannelSlice

__all__ = ["AttentionHeads", "find_attention_heads"]


@dataclass(frozen=True)
class AttentionHeads:
    """The heads of one attention layer.

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
        """Importance of each head by a criterion of `importance.IMPORTANCES`, `(count,)`;

        `random` is not for here.
        """
        if importance == "fpgm":
            found = torch.cdist(self.weights, self.weights).sum(1)
        elif importance == "taylor":
            assert self.gradients is not None
            found = (self.weights * self.gradients).sum(1).abs()
        else:
            found = self.weights.norm(p=1 if importance == "l1" else 2, dim=1)
        return np.asarray(found.double().numpy())


def find_attention_heads(model: nn.Module) -> list[AttentionHeads]:
    """The attention layers of a network whose heads may go."""
    return [
        _attention_heads(name, module)
        for name, module in model.named_modules()
        if _is_attention(module)
    ]


def _is_attention(module: Any) -> bool:
    qkv, proj, n_heads, size = (
        getattr(module, name, None) for name in ("qkv", "proj", "num_heads", "head_dim")
    )
    if not (
        isinstance(qkv, nn.Linear)
        and isinstance(proj, nn.Linear)
        and isinstance(n_heads, int)
        and isinstance(size, int)
    ):
        return False
    return (
        n_heads > 1
        and n_heads not in (3, size)
        and qkv.out_features == 3 * n_heads * size
        and proj.in_features == n_heads * size
    )


def _attention_heads(name: str, attention: Any) -> AttentionHeads:
    n_heads, size = attention.num_heads, attention.head_dim
    written = np.arange(3 * n_heads * size).reshape(3, n_heads, size)
    read, heads = np.arange(n_heads * size), np.arange(n_heads)
    group = f"{name}.qkv"
    slices = (
        ChannelSlice(
            layer=group,
            remove=tp.prune_linear_out_channels,
            axis=-1,
            reads=False,
            group=group,
            positions=written.reshape(-1),
            channels=np.tile(np.repeat(heads, size), 3),
        ),
        ChannelSlice(
            layer=f"{name}.proj",
            remove=tp.prune_linear_in_channels,
            axis=-1,
            reads=True,
            group=group,
            positions=read,
            channels=np.repeat(heads, size),
        ),
        ChannelSlice(
            layer=name,
            remove=_drop_heads,
            axis=None,
            reads=False,
            group=group,
            positions=heads,
            channels=heads,
        ),
    )
    qkv, proj = attention.qkv.weight, attention.proj.weight

    def of_heads(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        return torch.cat(
            [
                rows[torch.from_numpy(written)].transpose(0, 1).flatten(1),
                columns.T.reshape(n_heads, -1),
            ],
            1,
        ).detach()

    gradients = (
        of_heads(qkv.grad, proj.grad) if qkv.grad is not None and proj.grad is not None else None
    )
    return AttentionHeads(
        name=group,
        module=attention.qkv,
        count=n_heads,
        slices=slices,
        weights=of_heads(qkv, proj),
        gradients=gradients,
    )


def _drop_heads(attention: Any, gone: Sequence[int]) -> None:
    attention.num_heads -= len(gone)
    if hasattr(attention, "attn_dim"):
        attention.attn_dim = attention.num_heads * attention.head_dim
