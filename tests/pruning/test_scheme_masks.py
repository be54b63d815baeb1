"""Masks of layers that are pruned by a scheme: which entries they keep, and how they are held."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cprune_rl.core.scheme import Scheme
from cprune_rl.errors import PlanError
from cprune_rl.pruning.scheme_masks import (
    N_PATTERNS,
    apply_masks,
    bake_masks,
    find_patterns,
    increase_sparsity,
    satisfies_scheme,
    scheme_mask,
)


@pytest.mark.parametrize(
    ("block", "density"), [(1, 0.3), (4, 0.25), (8, 0.5), (100, 0.2), (3, 1.0)]
)
def test_each_block_keeps_its_largest_entries_the_same_number_in_each(
    block: int, density: float
) -> None:
    weight = torch.randn(16, 6, 3, 3)
    mask = scheme_mask(weight, Scheme("block", block, density), find_patterns([]))
    n_kept = max(1, round(54 * density))
    for first in range(0, 16, min(block, 16)):
        of_block = mask[first : first + block].reshape(-1, 54)
        assert (of_block == of_block[0]).all(), "the channels of a block keep the same"
        assert int(of_block[0].sum()) == n_kept
        scores = (weight[first : first + block] ** 2).reshape(-1, 54).sum(0)
        kept = of_block[0].bool()
        assert kept.all() or scores[kept].min() >= scores[~kept].max()


def test_each_block_keeps_its_largest_kernels_whole_and_the_same_number_in_each() -> None:
    weight = torch.randn(16, 10, 3, 3)
    scheme = Scheme("kernel", 4, 0.3)
    assert scheme.n_kept(90) == 27
    kernels = scheme_mask(weight, scheme, find_patterns([])).reshape(4, 4, 10, 9)
    assert (kernels == kernels[:, :1, :, :1]).all(), (
        "a kernel is kept by the whole block, with all of its entries"
    )
    kept = kernels[:, 0, :, 0].bool()
    assert (kept.sum(1) == 3).all()
    scores = (weight**2).reshape(4, 4, 10, 9).sum((1, 3))
    assert all(
        of_block[k].min() >= of_block[~k].max() for of_block, k in zip(scores, kept, strict=True)
    )
    with pytest.raises(PlanError, match="3x3"):
        scheme_mask(torch.randn(4, 4, 1, 1), scheme, find_patterns([]))


def test_a_kept_kernel_may_hold_zeros_but_no_other_kernel_may_hold_a_weight() -> None:
    weight = torch.randn(8, 4, 3, 3)
    scheme = Scheme("kernel", 4, 0.5)
    masked = weight * scheme_mask(weight, scheme, find_patterns([]))
    masked[masked != 0] *= (torch.arange(int((masked != 0).sum())) % 5 > 0).float()
    assert satisfies_scheme(masked, scheme)
    in_blocks = weight * scheme_mask(weight, Scheme("block", 4, 0.5), find_patterns([]))
    assert not satisfies_scheme(in_blocks, scheme), "as many entries, of more kernels"


def test_a_kernel_keeps_a_pattern_or_nothing() -> None:
    weight = torch.randn(12, 10, 3, 3)
    patterns = find_patterns([weight])
    assert len(patterns) == N_PATTERNS
    assert (patterns.sum(1) == 4).all()
    assert (patterns[:, 4] == 1).all(), "the centre is in each"
    kernels = scheme_mask(weight, Scheme("pattern", 1, 0.3), patterns).reshape(12, 10, 9)
    kept = kernels.sum(2) > 0
    assert (kept.sum(1) == round(90 * 0.3 / 4)).all(), "as many kernels for each output channel"
    assert all(any((k == p).all() for p in patterns) for k in kernels[kept])
    with pytest.raises(PlanError, match="3x3"):
        scheme_mask(torch.randn(4, 4, 1, 1), Scheme("pattern", 1, 0.25), patterns)


def test_what_is_pruned_stays_so_while_the_network_learns_and_after() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    schemes = {"0": Scheme("block", 4, 0.25), "3": Scheme("block", 1, 0.1)}
    masked = apply_masks(model, schemes)
    optimiser = torch.optim.SGD(masked.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    for _ in range(3):
        optimiser.zero_grad()
        masked(torch.randn(4, 3, 8, 8)).square().sum().backward()
        optimiser.step()
    baked = bake_masks(masked)
    assert set(baked.state_dict()) == set(model.state_dict()), "saved as any network"
    for name, scheme in schemes.items():
        weight = baked.get_submodule(name).weight
        n_entries = (weight != 0).sum().item()
        assert 0 < n_entries <= scheme.n_kept(weight[0].numel()) * weight.shape[0]
        assert not torch.equal(weight, model.get_submodule(name).weight)
    image = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(baked(image), masked(image))
    with pytest.raises(PlanError, match="'1'"):
        apply_masks(model, {"1": schemes["0"]})


@pytest.mark.parametrize("channels_in", [8, 20, 80])
@pytest.mark.parametrize(
    ("kind", "density"),
    [
        ("block", 0.2),
        ("block", 0.9),
        ("block", 0.175),
        ("kernel", 0.25),
        ("kernel", 0.01),
        ("kernel", 0.175),
        ("pattern", 0.2),
        ("pattern", 0.175),
        ("pattern", 0.4444),
    ],
)
def test_a_layer_whose_sparsity_increases_loses_entries_until_it_satisfies_its_scheme(
    kind: str, density: float, channels_in: int
) -> None:
    model = nn.Sequential(nn.Conv2d(channels_in, 8, 3))
    scheme = Scheme(kind, 4, density)
    masked = apply_masks(model, {"0": scheme})
    n_entries = []
    for share in (0.0, 0.3, 0.6, 1.0):
        increase_sparsity(masked, {"0": scheme}, share)
        weight = bake_masks(masked).get_submodule("0").weight
        n_entries.append(int(weight.count_nonzero()))
    assert n_entries[0] == model[0].weight.numel()
    assert n_entries == sorted(n_entries, reverse=True)
    n_kept = scheme.n_kept(9 * channels_in) * 8
    assert n_entries[-1] == n_kept, "also where the density is half an entry off"
    assert 0 < n_entries[-1] < n_entries[0]
    assert satisfies_scheme(weight, scheme)
    assert not satisfies_scheme(model[0].weight, scheme)
