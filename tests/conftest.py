"""What the tests share:

a user cache of their own, and one lowered network for all that need the compiler.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # as many workers as cores: one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cprune_rl.compiler.devices.local import LocalDevice
    from cprune_rl.compiler.layouts.variants import LayoutVariants
    from cprune_rl.core.network import Network
    from cprune_rl.pruning.groups import CoupledGroups
    from tests.doubles.local_postgres import LocalPostgres

    from .doubles.device_fixtures import RpcCluster, SampleArtifacts


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that are slow as a whole, so that no core waits for one in the end."""

    def is_quick(item: pytest.Item) -> bool:
        module = item.getparent(pytest.Module)
        marks = getattr(getattr(module, "obj", None), "pytestmark", [])
        marks = marks if isinstance(marks, list) else [marks]
        return all(mark.name != "slow" for mark in marks)

    items.sort(key=is_quick)


@pytest.fixture(autouse=True, scope="session")
def _own_user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the user's own networks and costs."""
    path = tmp_path_factory.mktemp("user-cache")
    before = {name: os.environ.pop(name, None) for name in ("XDG_CACHE_HOME", "CPRUNE_RL_STORAGE")}
    os.environ["XDG_CACHE_HOME"] = str(path)
    yield path
    os.environ.pop("XDG_CACHE_HOME")
    os.environ.update({name: value for name, value in before.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """A packaged network, ready for the compiler."""

    model: nn.Module
    example: torch.Tensor
    coupled: CoupledGroups
    variants: LayoutVariants

    @property
    def network(self) -> Network:
        """As every search sees it."""
        return self.variants.network


@pytest.fixture(scope="session")
def lowered() -> Lowered:
    """`resnet8-w8` with random weights and batch-norm statistics, lowered once."""
    return lower("resnet8-w8")


@functools.cache
def lower(name: str) -> Lowered:
    """Lower any packaged network, once."""
    return lower_anew(name)


def lower_anew(name: str) -> Lowered:
    """Lower any packaged network."""
    import torch

    from cprune_rl.models.registry import build_model
    from cprune_rl.models.zoo import MODELS
    from cprune_rl.pruning.groups import find_groups
    from tests.compiler.compiled import layout_variants

    model = build_model(name, 10)
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
    model.eval()
    example = torch.zeros(MODELS[name].input_shape)
    coupled = find_groups(model, example)
    return Lowered(
        model=model,
        example=example,
        coupled=coupled,
        variants=layout_variants(model, example, coupled),
    )


@pytest.fixture(scope="session")
def device() -> Iterator[LocalDevice]:
    """The local device, timing briefly and giving up soon."""
    from cprune_rl.compiler.devices.base import TimingSettings
    from cprune_rl.compiler.devices.local import LocalDevice

    with LocalDevice(timing=TimingSettings(n_repeats=2, min_repeat_ms=1, timeout_s=3.0)) as local:
        yield local


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> SampleArtifacts:
    """SampleArtifacts that work, crash and hang."""
    from .doubles.device_fixtures import SampleArtifacts

    return SampleArtifacts(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RpcCluster]:
    """A tracker with four servers."""
    from .doubles.device_fixtures import RpcCluster

    cluster = RpcCluster(tmp_path_factory.mktemp("cluster"))
    try:
        for log in ("twin1", "twin2"):
            cluster.serve("twin", log)
        cluster.serve("board")
        cluster.serve_stock("stock")
        cluster.wait_for({"twin": 2, "board": 1, "stock": 1})
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[LocalPostgres]:
    """A real PostgreSQL server on loopback, where one is installed."""
    pytest.importorskip(
        "psycopg", reason="the driver is not installed: pip install 'cprune-rl[postgres]'"
    )
    from tests.doubles.local_postgres import LocalPostgres, find_binaries

    if find_binaries() is None:
        pytest.skip("no PostgreSQL server is installed: apt-get install postgresql")
    with LocalPostgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty storage that several processes can open:

    once a file, once a database of a server.
    """
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new/costs.db"
    server: LocalPostgres = request.getfixturevalue("postgres")
    return server.new_database()
