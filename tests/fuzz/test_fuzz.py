"""Damaged files of every format: no traceback, no warning, no gibibyte, and nothing is run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from cprune_rl.errors import DataError
from cprune_rl.models.weights import load_weights
from tests.doubles.networks import small_network
from tests.fuzz.formats import FORMATS
from tests.fuzz.runner import read_damaged

N_INPUTS = int(os.environ.get("CPRUNE_RL_FUZZ_INPUTS", "2000"))


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_opens_or_is_refused_in_one_line_that_names_it(
    tmp_path: Path, name: str
) -> None:
    findings = read_damaged(FORMATS[name], tmp_path, n_inputs=N_INPUTS)
    assert dict(findings.faults) == {}
    assert findings.n_refused > N_INPUTS / 10, "the damage is noticed"
    assert findings.n_refused + findings.n_read == N_INPUTS


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {self.path}",))


def test_code_in_weights_is_not_run(tmp_path: Path) -> None:
    for name, content in (
        ("zip.pt", None),
        ("plain.pt", pickle.dumps(_Touch(tmp_path / "run"))),
    ):
        if content is None:
            torch.save({"state_dict": _Touch(tmp_path / "run")}, tmp_path / name)
        else:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="cannot be read as weights"):
            load_weights(small_network(), tmp_path / name)
    assert not (tmp_path / "run").exists()
