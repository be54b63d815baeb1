"""Attention heads as groups, from a network's weights to the compiled library."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from cprune_rl.core.network import Plan
from cprune_rl.pruning.groups import CoupledGroups, GroupSettings, find_groups
from cprune_rl.pruning.surgery import prune
from tests.compiler.compiled import assert_compiled_equals_torch, layout_variants

EXAMPLE = torch.zeros(1, 3, 16, 16)
N_HEADS, SIZE = 4, 8


class Attention(nn.Module):
    """Self-attention as timm writes it."""

    def __init__(self, n_heads: int, size: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = n_heads, size, n_heads * size
        self.qkv, self.proj = (
            nn.Linear(n_heads * size, 3 * n_heads * size),
            nn.Linear(n_heads * size, n_heads * size),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, n, _ = x.shape
        q, k, v = (
            self.qkv(x)
            .reshape(batch, n, 3, self.num_heads, self.head_dim)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(batch, n, self.attn_dim))


class Transformer(nn.Module):
    """One block over patches of 4x4."""

    def __init__(self) -> None:
        super().__init__()
        width = N_HEADS * SIZE
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.norm1, self.attention = nn.LayerNorm(width), Attention(N_HEADS, SIZE)
        self.norm2, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, 40),
            nn.Linear(40, width),
        )
        self.fc = nn.Linear(width, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = x + self.attention(self.norm1(x))
        x = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return self.fc(x.mean(1))


def network(importance: str = "l2") -> tuple[nn.Module, CoupledGroups]:
    torch.manual_seed(0)
    model = Transformer().eval()

    def gradients(trainable: nn.Module) -> None:
        trainable(torch.randn(4, 3, 16, 16)).square().sum().backward()

    return model, find_groups(model, EXAMPLE, GroupSettings(importance=importance), gradients)


def test_heads_and_the_hidden_layer_can_go_and_the_embedding_stays() -> None:
    _, coupled = network()
    assert {g.name: g.channels for g in coupled.groups} == {"attention.qkv": N_HEADS, "up": 40}
    assert "fc" in dict(coupled.unprunable)
    assert len(coupled.unprunable) == 2, "the embedding is one group, with the reason"


@pytest.mark.parametrize("n_heads", [1, 3])
def test_a_network_without_a_head_computes_what_one_does_that_does_not_read_it(
    n_heads: int,
) -> None:
    model, coupled = network()
    widths = {"attention.qkv": n_heads, "up": 30}
    plan = Plan(tuple(widths[g.name] for g in coupled.groups))
    silent = copy.deepcopy(model)
    assert isinstance(silent, Transformer)
    with torch.no_grad():
        for head in coupled.ranking["attention.qkv"][n_heads:]:
            silent.attention.proj.weight[:, head * SIZE : (head + 1) * SIZE] = 0
        silent.down.weight[:, list(coupled.ranking["up"][30:])] = 0
        image = torch.randn(2, 3, 16, 16)
        torch.testing.assert_close(
            prune(model, coupled, plan)(image), silent(image), atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("importance", ["l1", "l2", "fpgm", "taylor", "random"])
def test_every_criterion_ranks_heads(importance: str) -> None:
    _, coupled = network(importance)
    assert sorted(coupled.ranking["attention.qkv"]) == list(range(N_HEADS))


@pytest.mark.parametrize("n_heads", [1, 2, 3, 4])
def test_a_compiled_network_with_fewer_heads_computes_what_torch_computes(
    n_heads: int, tmp_path: Path
) -> None:
    model, coupled = network()
    variants = layout_variants(model, EXAMPLE, coupled)
    widths = {"attention.qkv": n_heads, "up": 40 - 5 * n_heads}
    plan = Plan(tuple(widths[g.name] for g in coupled.groups))
    pruned = prune(model, coupled, plan)
    assert_compiled_equals_torch(variants, plan, variants.uniform_choice(0), pruned, tmp_path)
