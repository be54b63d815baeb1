"""ExecuTorch out: what it computes is what torch computes, or the file is not written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cprune_rl.errors import ConfigError, ModelError
from cprune_rl.models import pte_export
from cprune_rl.models.export_formats import check_formats
from cprune_rl.models.pte_export import can_export_pte, export_pte, run_pte
from cprune_rl.models.registry import build_model

SHAPE = (1, 3, 32, 32)
needs_executorch = pytest.mark.skipif(
    not can_export_pte(), reason="pip install 'cprune-rl[executorch]'"
)


@needs_executorch
@pytest.mark.parametrize("name", ["resnet8-w8", "mobilenetv2-small"])
def test_the_file_computes_what_the_network_does(name: str, tmp_path: Path) -> None:
    model = build_model(name, 10).eval()
    export_pte(model, SHAPE, tmp_path / "model.pte")
    image = torch.randn(SHAPE)
    with torch.no_grad():
        expected = model(image).numpy()
    found = run_pte(tmp_path / "model.pte", image.numpy())
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pte"]


@needs_executorch
def test_what_computes_something_else_or_is_damaged_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.pte").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match=r"ExecuTorch cannot run .*broken\.pte"):
        run_pte(tmp_path / "broken.pte", np.zeros(SHAPE, np.float32))
    monkeypatch.setattr(pte_export, "run_pte", lambda path, images: np.ones((1, 10), np.float32))
    with pytest.raises(ModelError, match="ExecuTorch computes something else than torch"):
        export_pte(build_model("resnet8-w8", 10), SHAPE, tmp_path / "model.pte")
    assert [file.name for file in tmp_path.iterdir()] == ["broken.pte"]


def test_without_the_extra_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pte_export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--export pte needs executorch.*cprune-rl\[executorch"):
        check_formats(["pte"])
