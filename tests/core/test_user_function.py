"""Users' own functions by name."""

from pathlib import Path

import pytest

from cprune_rl.core.user_function import is_factory, load_factory
from cprune_rl.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("mine.py:build", True),
        ("folder/mine.py:build", True),
        ("package.module:build", True),
        ("torchvision:resnet18", False),
        ("resnet8", False),
        ("mine.py:", False),
        ("mine.py:not a name", False),
    ],
)
def test_a_name_with_a_module_is_a_factory(name: str, is_one: bool) -> None:
    assert is_factory(name) == is_one


def test_a_file_imports_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "user_width.py").write_text("WIDTH = 8\n")
    file = tmp_path / "user_net.py"
    file.write_text("from user_width import WIDTH\n\ndef build():\n    return WIDTH\n")
    assert load_factory("model", f"{file}:build")() == 8


def test_a_package_in_the_working_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "user_package").mkdir()
    (tmp_path / "user_package" / "nets.py").write_text("def build():\n    return 3\n")
    monkeypatch.chdir(tmp_path)
    assert load_factory("model", "user_package.nets:build")() == 3


@pytest.mark.parametrize(
    ("source", "function", "message"),
    [
        (None, "build", "there is no file"),
        ("raise RuntimeError('no')", "build", "importing .* fails: RuntimeError: no"),
        ("from math import sin\ndef make():\n    pass\n", "build", "It has: make"),
        ("x = 1\n", "x", "It has: none"),
    ],
)
def test_what_is_not_there_or_fails_is_a_clear_error(
    tmp_path: Path, source: str | None, function: str, message: str
) -> None:
    file = tmp_path / "user_broken.py"
    if source is not None:
        file.write_text(source)
    with pytest.raises(ConfigError, match=message):
        load_factory("model", f"{file}:{function}")
