"""Devices that hang, crash, disappear and come back."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from cprune_rl.cli import app
from cprune_rl.compiler.devices import open_device
from cprune_rl.compiler.probe import probe_device
from cprune_rl.compiler.relay import Relay
from cprune_rl.cost_cache import open_store
from cprune_rl.errors import DeviceError
from cprune_rl.job.folder import RunFolder

from .yard import BRIEF, Programs, Yard, open_key


def sessions(yard: Yard, key: str) -> list[psutil.Process]:
    mine = [p for p in yard._processes if p.poll() is None and "--key" in p.args and p.args[p.args.index("--key") + 1] == key]
    return [child for p in mine for child in psutil.Process(p.pid).children()]


def after(seconds: float, what: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, what)
    timer.start()
    return timer


def test_a_session_killed_in_a_trial_costs_that_trial(yard: Yard, programs: Programs) -> None:
    with open_key(yard, "board") as device:
        assert device.time([programs.good])[0].error is None
        killer = after(0.7, lambda: [s.kill() for s in sessions(yard, "board")])
        hung, good = device.time([programs.hanging, programs.good])
        killer.join()
        assert hung.error, "tried once more on a new session, where it hangs again"
        assert good.error is None


def test_a_hang_is_given_up_and_frees_the_device(yard: Yard, programs: Programs) -> None:
    with open_key(yard, "board") as device:
        started = time.monotonic()
        hung, good = device.time([programs.hanging, programs.good])
        assert "no answer within 2.5 s" in (hung.error or "")
        assert good.error is None
        assert time.monotonic() - started < 15
    yard.wait_for({"board": 1}, 5)


def test_a_board_that_stops_answering_without_a_word_is_given_up(yard: Yard, programs: Programs) -> None:
    with open_key(yard, "board") as device:
        assert device.time([programs.good])[0].error is None
        for session in sessions(yard, "board"):
            session.suspend()  # as when it loses its power: the connection stays
        started = time.monotonic()
        assert [m.error for m in device.time([programs.good, programs.good])] == [None, None], "the look before them found it out"
        assert BRIEF.timeout_s < time.monotonic() - started < 15


def test_a_server_that_is_killed_and_comes_back_is_waited_for(yard: Yard, programs: Programs) -> None:
    server = yard.serve("phoenix")
    yard.wait_for({"phoenix": 1})
    with open_key(yard, "phoenix") as device:
        assert device.time([programs.good])[0].error is None
        killer, reviver = after(0.5, server.kill), after(1.0, lambda: yard.serve("phoenix"))
        hung, good = device.time([programs.hanging, programs.good])
        killer.join()
        reviver.join()
        assert hung.error
        assert good.error is None


def test_a_server_that_stays_away_retires_the_device_and_what_was_timed_is_kept(yard: Yard, tmp_path: Path) -> None:
    server = yard.serve("mortal")
    yard.wait_for({"mortal": 1})
    store = open_store(f"sqlite:///{tmp_path}/costs.db")
    with open_key(yard, "mortal", "?wait=2") as device:
        context = device.context
        started: list[float] = []

        def kill_after_two(done: int) -> None:
            if done == 2:
                os.killpg(server.pid, signal.SIGKILL)
                started.append(time.monotonic())

        with pytest.raises(DeviceError, match="no device of key 'mortal' could be had"):
            probe_device(device, store, kill_after_two)
        assert time.monotonic() - started[0] < 20
        with pytest.raises(DeviceError, match="mortal"):
            device.time_reference()
    kept = {w: store.trials(context, f"probe v1: {w}") for w in ("conv3x3_gflops", "conv3x3_small_gflops")}
    assert all(kept.values())
    yard.serve("mortal")
    yard.wait_for({"mortal": 1})
    with open_key(yard, "mortal") as device:
        assert device.context == context, "the same device to the cost cache"
        found = probe_device(device, store)
        assert {w: store.trials(context, f"probe v1: {w}") for w in kept} == kept, "nothing is timed twice"
        assert found == probe_device(device, store)
    store.close()


def test_a_run_without_its_device_says_how_to_go_on(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path / "run"
    outcome = CliRunner().invoke(app, ["train", "--fast", "--device", f"rpc://127.0.0.1:{port}/board", "--out", str(folder), "--storage", f"sqlite:///{tmp_path}/c.db"])
    assert isinstance(outcome.exception, DeviceError)
    assert "tvm.exec.rpc_tracker" in str(outcome.exception)
    assert f"--resume {folder}" in str(outcome.exception)
    assert RunFolder.resume(folder).config.device.endswith("/board")


def test_a_door_that_leads_nowhere_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(OSError, match="does not answer"):
        Relay("127.0.0.1", port, 2.0, 5.0)


def test_a_key_that_nobody_has_is_answered_with_those_there_are(yard: Yard) -> None:
    with pytest.raises(DeviceError, match=r"Known: .*board.*rpc_server --tracker"):
        open_device(f"rpc://{yard.tracker}/bord")
