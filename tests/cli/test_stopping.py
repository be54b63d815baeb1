"""Commands that are stopped say so, exit as shells expect, and leave no temporary files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def stop(
    command: list[str], folder: Path, *, when: Callable[[], bool], by: signal.Signals
) -> tuple[int, str]:
    """Start a command, stop it once it is at work, and give its exit status and what it said."""
    environment = {
        **os.environ,
        "TMPDIR": str(folder / "tmp"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    (folder / "tmp").mkdir()
    # A process that is started inside hears SIGINT, also where the tests run in a background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "cprune_rl.cli", *command],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 200
    while not when() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(by)
    _, said = process.communicate(timeout=100)
    return process.returncode, said


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_a_training_that_is_stopped_says_how_it_goes_on(tmp_path: Path, by: signal.Signals) -> None:
    command = ["train-policy", "--problems", "resnet8@znver4-1t", "--workers", "0"]
    status, said = stop(
        [*command, "--timesteps", "100000000", "--out", "policy"],
        tmp_path,
        when=lambda: (tmp_path / "policy" / "options.json").exists(),
        by=by,
    )
    assert status == 128 + by, said
    assert "the same command goes on from it" in " ".join(said.split())
    assert "Traceback" not in said
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_device_that_is_stopped_leaves_no_files(tmp_path: Path) -> None:
    status, said = stop(
        ["device", "probe", "local", "--fresh", "--storage", f"sqlite:///{tmp_path}/costs.db"],
        tmp_path,
        when=lambda: any((tmp_path / "tmp").glob("cprune-rpc-*")),
        by=signal.SIGTERM,
    )
    assert status == 143, said
    assert "Stopped." in said
    assert "Traceback" not in said
    assert list((tmp_path / "tmp").iterdir()) == []
