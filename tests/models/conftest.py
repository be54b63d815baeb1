"""A user's own networks."""

from __future__ import annotations

from pathlib import Path

import pytest

OWN = """
import torch
from torch import nn
def build(n_classes):
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, n_classes)]
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), *head)
def fixed():
    return build(10)
def number(n):
    return n
def fails(n):
    raise RuntimeError("no weights here")
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A file with functions that build networks."""
    (tmp_path / "mynet.py").write_text(OWN)
    return tmp_path / "mynet.py"
