"""Files of other kinds where a command expects its own: one line that names them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pytest
from typer.testing import CliRunner

from cprune_rl.cli import app
from cprune_rl.errors import CPruneError

# By what lies there, what is made of it.
KINDS = {
    "a folder": Path.mkdir,
    "nothing in it": Path.touch,
    "no text": lambda path: path.write_bytes(b"\x80\x04\x95\xff" * 99),
    "another's JSON": lambda path: path.write_text('{"name": "package", "version": "1.0"}'),
    "a list": lambda path: path.write_text("[1, 2]"),
    "a link to itself": lambda path: path.symlink_to(path),
    "nothing": lambda _: None,
}
# Each command with the path that it is given, `{}`.
COMMANDS = {
    "validate a run": ["validate", "{}"],
    "validate a row": ["validate", "{}.json"],
    "prune weights": ["prune", "--weights", "{}", "--data", "digits"],
    "prune images": ["prune", "--data", "npz:{}", "--device", "recorded:resnet8"],
    "prune by options": ["prune", "--config", "{}"],
    "prune by a policy": ["prune", "--policy", "{}", "--model", "resnet8"],
    "prune on a recording": ["prune", "--device", "recorded:{}"],
    "prune a network": ["prune", "--model", "{}.py:build", "--device", "recorded:resnet8"],
    "resume": ["prune", "--resume", "{}"],
    "add a problem": ["problems", "add", "{}"],
    "add a live problem": ["problems", "add", "{}.yaml", "--name", "a@b"],
    "show a problem": ["problems", "show", "{}"],
    "import costs": ["cache", "import", "{}", "--storage", "sqlite://"],
    "use a cost cache": ["cache", "stats", "--storage", "sqlite:///{}"],
    "leaderboard": ["leaderboard", "{}"],
}


# An empty file of options asks for nothing: the defaults hold.
EMPTY_IS_FINE = ("prune by options", "add a live problem")
CASES = [
    (kind, command)
    for kind in KINDS
    for command in COMMANDS
    if not (kind == "nothing in it" and command in EMPTY_IS_FINE)
]


@pytest.mark.parametrize(("kind", "command"), CASES)
def test_a_file_of_another_kind_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CPRUNE_RL_PROBLEMS", str(tmp_path / "mine"))
    monkeypatch.setenv("CPRUNE_RL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "größer than 1"
    for ending in ("", ".json", ".yaml", ".py"):
        KINDS[kind](path.with_name(path.name + ending))
    words = [word.replace("{}", str(path)) for word in COMMANDS[command]]
    outcome = CliRunner().invoke(app, words)
    error = outcome.exception
    assert isinstance(error, (CPruneError, OSError)), f"{outcome.output}\n{error!r}"
    assert str(error).isprintable(), str(error)
    assert path.name in unquote(str(error)), str(error)  # a store is named by its URL
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())
