"""Published figures of ResNet-56 on CIFAR-10, to stand beside those of these runs."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PUBLISHED", "Published"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a paper states of one pruned ResNet-56.

    Attributes:
        method: as the paper calls it.
        paper: where it stands.
        before: test accuracy of its own dense network, in percent.
        after: of the pruned one, in percent.
        macs_removed: share of the multiply-accumulates, in percent.
    """

    method: str
    paper: str
    before: float
    after: float
    macs_removed: float


PUBLISHED = (
    Published(
        method="filters by L1 norm, B",
        paper="Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, table 1",
        before=93.04,
        after=93.06,
        macs_removed=27.6,
    ),
    Published(
        method="CP",
        paper="He, Zhang and Sun, Channel Pruning for Accelerating Very Deep Neural Networks, "
        "ICCV 2017",
        before=92.80,
        after=91.80,
        macs_removed=50.0,
    ),
    Published(
        method="AMC",
        paper="He et al., AMC: AutoML for Model Compression, ECCV 2018",
        before=92.80,
        after=91.90,
        macs_removed=50.0,
    ),
    Published(
        method="SFP",
        paper="He et al., Soft Filter Pruning, IJCAI 2018",
        before=93.59,
        after=93.36,
        macs_removed=52.6,
    ),
    Published(
        method="HRank",
        paper="Lin et al., HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020",
        before=93.26,
        after=93.17,
        macs_removed=50.0,
    ),
    Published(
        method="LFPC",
        paper="He et al., Learning Filter Pruning Criteria, CVPR 2020",
        before=93.59,
        after=93.34,
        macs_removed=52.9,
    ),
    Published(
        method="ResRep",
        paper="Ding et al., ResRep: Lossless CNN Pruning, ICCV 2021",
        before=93.71,
        after=93.71,
        macs_removed=52.9,
    ),
)
