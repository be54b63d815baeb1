"""Folders of a user's: where there is no home, and where one cannot be written."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from cprune_rl.core.folders import cache_folder, expanded, problems_folder
from cprune_rl.core.user_name import name_the_user
from cprune_rl.errors import ConfigError


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who is a number alone, as in a container."""

    def unknown(_: object) -> object:
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)
    for name in ("HOME", "LOGNAME", "USER", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("CPRUNE_RL_CACHE", "CPRUNE_RL_PROBLEMS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("nobody")
def test_without_a_home_a_cache_must_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"HOME is not set.*--cache DIR or CPRUNE_RL_CACHE"):
        cache_folder()
    assert problems_folder().is_absolute()
    with pytest.raises(ConfigError, match="write the whole path"):
        expanded("~/mine")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("CPRUNE_RL_CACHE", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache"


@pytest.mark.usefixtures("nobody")
def test_a_user_without_a_name_is_called_by_a_number() -> None:
    name_the_user()
    assert os.environ.pop("LOGNAME") == f"user{os.getuid()}"


def test_a_cache_that_cannot_be_made_or_written_is_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CPRUNE_RL_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"cannot be made: file exists.*--cache DIR"):
        cache_folder()
    monkeypatch.setenv("CPRUNE_RL_CACHE", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match=r"cannot be written.*--cache DIR"):
        cache_folder()


def test_the_compiler_loads_for_a_user_without_name_and_home() -> None:
    code = """
import os, pwd
def unknown(_):
    raise KeyError("uid not found")
pwd.getpwuid = unknown
os.environ.pop("HOME", None)
import cprune_rl.compiler, tvm
print("HOME" in os.environ, tvm.__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "tvm"]
