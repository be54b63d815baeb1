"""The folder of a run: its name, its lock, and what a damaged one says."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cprune_rl.errors import ConfigError
from cprune_rl.pipeline.config import RunConfig
from cprune_rl.pipeline.run import plan_searches
from cprune_rl.pipeline.run_folder import RunFolder

HOLDER = """
import sys, time
from pathlib import Path
from cprune_rl.pipeline.run_folder import RunFolder

with RunFolder.resume(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    time.sleep(600)
"""


def test_runs_that_begin_in_one_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "20261130-120000")
    paths = [RunFolder.create(RunConfig()).path for _ in range(3)]
    name = "resnet8-agent-20261130-120000"
    assert [path.name for path in paths] == [name, f"{name}-2", f"{name}-3"]
    assert all((path / "config.yaml").is_file() for path in paths)
    for path in paths:
        RunFolder.resume(path).discard_if_empty()
    assert list(tmp_path.iterdir()) == []


def test_a_run_in_progress_is_not_resumed_and_one_that_was_killed_is(tmp_path: Path) -> None:
    folder = RunFolder.create(RunConfig(out=tmp_path / "run"))
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder.path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(ConfigError, match="run is a run in progress"), folder.lock():
            pass
        folder.discard_if_empty()
        assert (folder.path / "config.yaml").is_file(), "another process works on it"
        holder.send_signal(signal.SIGKILL)
    with folder.lock():
        assert (folder.path / "config.yaml").is_file()
    folder.discard_if_empty()
    assert not folder.path.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", b"[1, 2]"),
        ("config.yaml", b"a: &a [1]\nb: *a"),
        ("config.yaml", b"\xff\xfe"),
        ("config.yaml", b"model: !!timestamp x"),
        ("config.yaml", b"a_newer_option: 3"),
        ("system.json", b""),
        ("system.json", b'{"started": 1e999}'),
        ("system.json", b'{"started": "now"}'),
    ],
)
def test_a_damaged_folder_is_an_error_that_names_it(
    tmp_path: Path, name: str, content: bytes
) -> None:
    folder = RunFolder.create(RunConfig(out=tmp_path / "run"))
    folder.file(name).write_bytes(content)
    with pytest.raises(ConfigError, match="holds no run to resume") as raised:
        RunFolder.resume(folder.path)
    assert str(folder.path) in str(raised.value)
    assert str(raised.value).isprintable()


def test_a_front_of_one_floor_of_before_stays_a_front(tmp_path: Path) -> None:
    folder = RunFolder.create(RunConfig(out=tmp_path / "run"))
    options = yaml.safe_load(folder.file("config.yaml").read_text())
    folder.file("config.yaml").write_text(yaml.safe_dump({**options, "front": [-0.02]}))
    config = RunFolder.resume(folder.path).config
    assert config.is_front
    assert [job.label for job in plan_searches(config)] == ["agent-0.02"]
    assert not RunConfig(floor=(-0.02,)).is_front
