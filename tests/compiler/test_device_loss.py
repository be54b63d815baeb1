"""Devices that hang, crash, disappear and come back."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

from cprune_rl.cli import app
from cprune_rl.compiler.devices.base import RpcDevice, TimingSettings
from cprune_rl.compiler.devices.local import LocalDevice
from cprune_rl.compiler.devices.open import open_device
from cprune_rl.compiler.devices.rpc_session import RpcSession
from cprune_rl.compiler.devices.target import make_target
from cprune_rl.compiler.devices.tcp_proxy import TcpProxy
from cprune_rl.compiler.tuning.probe import probe_device
from cprune_rl.core.protocols import Artifact, Measurement
from cprune_rl.cost_cache import open_store
from cprune_rl.errors import DeviceError
from cprune_rl.pipeline.run_folder import RunFolder
from tests.doubles.device_fixtures import (
    BRIEF,
    RpcCluster,
    SampleArtifacts,
    free_port,
    open_key,
)

IMAGE = [np.arange(4, dtype=np.float32)]


def after(seconds: float, what: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, what)
    timer.start()
    return timer


def test_a_session_killed_in_a_trial_costs_that_trial(
    cluster: RpcCluster, artifacts: SampleArtifacts
) -> None:
    with open_key(cluster, "board") as device:
        assert device.time([artifacts.good])[0].error is None
        killer = after(0.7, lambda: [s.kill() for s in cluster.sessions("board")])
        hung, good = device.time([artifacts.hanging, artifacts.good])
        killer.join()
        assert hung.error, "tried once more on a new session, where it hangs again"
        assert good.error is None


def test_a_program_whose_session_was_lost_is_run_once_more(
    cluster: RpcCluster, artifacts: SampleArtifacts
) -> None:
    with open_key(cluster, "board", timing=replace(BRIEF, timeout_s=1.0)) as device:
        # A session ends, or is silent as when its board loses its power.
        for lose in (psutil.Process.kill, psutil.Process.suspend):
            assert not isinstance(device.run(artifacts.good, IMAGE), Measurement)
            for session in cluster.sessions("board"):
                lose(session)
            outputs = device.run(artifacts.good, IMAGE)
            assert not isinstance(outputs, Measurement), outputs.error
            np.testing.assert_allclose(outputs[0], IMAGE[0] * 2)
        assert "device went away" in (device.run(artifacts.crashing, IMAGE).error or ""), (
            "a second time is the program's doing"
        )


def test_one_program_is_run_on_the_twin_that_is_there(
    cluster: RpcCluster, artifacts: SampleArtifacts
) -> None:
    with open_key(cluster, "twin", "?devices=2&wait=1") as both:
        assert [m.error for m in both.time([artifacts.good] * 12)] == [None] * 12
        first, second = both._sessions
        second.connect(0.0)
        first.disconnect()
        with open_key(cluster, "twin", "?devices=1"):  # the first's server is somebody else's now
            assert not isinstance(both.run(artifacts.good, IMAGE), Measurement)
            assert both._sessions == [first, second], "nobody waited for the first"


class Stub(RpcSession):
    """A session that is a word; without one its device is away."""

    def __init__(self, word: str | None) -> None:
        super().__init__()
        self.word = word

    def abort(self) -> None: ...

    def _open(self, needed_s: float, is_wanted: Callable[[], bool] | None) -> str:
        if self.word is None:
            raise DeviceError("away")
        return self.word

    def _is_usable(self, needed_s: float) -> bool:
        return True


class Scripted(RpcDevice):
    """A device over stubs, whose timings follow a script."""

    name = "scripted"
    _hardware = "scripted"
    is_remote = True

    def __init__(self, sessions: list[Stub], *timings: Measurement) -> None:
        super().__init__(make_target(1), sessions, TimingSettings(max_spread=0.25))
        self.timings = list(timings)

    def _time_once(self, artifact: Artifact, session: RpcSession) -> Measurement:
        return self.timings.pop(0)


def test_a_device_that_stays_away_leaves_its_work_to_the_next() -> None:
    with Scripted([Stub(None), Stub("second")]) as device:
        assert device._try_anywhere(lambda remote: remote) == "second"
        assert device.n_sessions == 1
    with Scripted([Stub(None)]) as device, pytest.raises(DeviceError, match="away"):
        device._try_anywhere(lambda remote: remote)


UNSTEADY = Measurement((1.0, 2.0))


@pytest.mark.parametrize(
    ("again", "wanted"),
    [
        (Measurement((1.5,)), Measurement((1.0, 2.0, 1.5))),
        (Measurement(error="the program crashed, or its device went away: kShutdown"), UNSTEADY),
        (Measurement(error="TimeoutError: no answer within 10 s; the session was ended"), UNSTEADY),
        (Measurement(error="RPCError: bad shape"), Measurement(error="RPCError: bad shape")),
    ],
)
def test_a_timing_is_kept_where_the_second_one_lost_its_session(
    again: Measurement, wanted: Measurement
) -> None:
    with Scripted([Stub("it")], UNSTEADY, again) as device:
        artifact = Artifact(path="", shapes=(), dtypes=())
        assert device._time_well(artifact, device._sessions[0]) == wanted


def test_a_hang_is_given_up_and_frees_the_device(
    cluster: RpcCluster, artifacts: SampleArtifacts
) -> None:
    with open_key(cluster, "board") as device:
        started = time.monotonic()
        hung, good = device.time([artifacts.hanging, artifacts.good])
        assert "no answer within 2.5 s" in (hung.error or "")
        assert good.error is None
        assert time.monotonic() - started < 15
    cluster.wait_for({"board": 1}, 5)


def test_a_board_that_stops_answering_without_a_word_is_given_up(
    cluster: RpcCluster, artifacts: SampleArtifacts
) -> None:
    with open_key(cluster, "board") as device:
        assert device.time([artifacts.good])[0].error is None
        for session in cluster.sessions("board"):
            session.suspend()  # as when it loses its power: the connection stays
        started = time.monotonic()
        assert [m.error for m in device.time([artifacts.good, artifacts.good])] == [None, None], (
            "the reference timing before them noticed it"
        )
        assert BRIEF.timeout_s < time.monotonic() - started < 15


def test_a_server_that_is_killed_and_comes_back_is_waited_for(
    cluster: RpcCluster, artifacts: SampleArtifacts
) -> None:
    server = cluster.serve("phoenix")
    cluster.wait_for({"phoenix": 1})
    with open_key(cluster, "phoenix") as device:
        assert device.time([artifacts.good])[0].error is None
        killer = after(0.5, server.kill)
        reviver = after(1.0, lambda: cluster.serve("phoenix"))
        hung, good = device.time([artifacts.hanging, artifacts.good])
        killer.join()
        reviver.join()
        assert hung.error
        assert good.error is None


def test_a_server_that_stays_away_retires_the_device_and_what_was_timed_is_kept(
    cluster: RpcCluster, tmp_path: Path
) -> None:
    server = cluster.serve("mortal")
    cluster.wait_for({"mortal": 1})
    store = open_store(f"sqlite:///{tmp_path}/costs.db")
    with open_key(cluster, "mortal", "?wait=2") as device:
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
    timed = ("probe v1: conv3x3_gflops", "probe v1: conv3x3_small_gflops")
    kept = {workload: store.trials(context, workload) for workload in timed}
    assert all(kept.values())
    cluster.serve("mortal")
    cluster.wait_for({"mortal": 1})
    with open_key(cluster, "mortal") as device:
        assert device.context == context, "the same device to the cost cache"
        figures = probe_device(device, store)
        again = {workload: store.trials(context, workload) for workload in timed}
        assert again == kept, "nothing is timed twice"
        assert figures == probe_device(device, store)
    store.close()


def test_a_run_without_its_device_says_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    outcome = CliRunner().invoke(
        app,
        [
            "train",
            "--effort",
            "fast",
            "--device",
            f"rpc://127.0.0.1:{free_port()}/board",
            "--out",
            str(folder),
            "--storage",
            f"sqlite:///{tmp_path}/c.db",
        ],
    )
    assert isinstance(outcome.exception, DeviceError)
    assert "tvm.exec.rpc_tracker" in str(outcome.exception)
    assert f"--resume {folder}" in str(outcome.exception)
    assert RunFolder.resume(folder).config.device.endswith("/board")


def test_a_local_session_ends_with_its_server_leaves_no_files_and_nobody_can_read_its_key(
    artifacts: SampleArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with LocalDevice(timing=BRIEF) as device:
        assert not isinstance(device.run(artifacts.good, IMAGE), Measurement)
        assert list(tmp_path.glob("cprune-rpc-*/*")), "its files are there"
        server = device._session.server
        assert server is not None
        shown = psutil.Process(server.process.pid)
        assert server.key not in " ".join([*shown.cmdline(), *shown.environ().values()])
        running = server.sessions()
        assert running
        server.process.kill()
        server.process.wait()
        _, alive = psutil.wait_procs(running, timeout=3)
        assert all(s.status() == psutil.STATUS_ZOMBIE for s in alive), (
            "a program that hangs does not spin on"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_local_server_that_cannot_be_started_is_no_programs_failure(
    artifacts: SampleArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalDevice(timing=BRIEF) as device:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
        with pytest.raises(DeviceError, match="cannot be started"):
            device.run(artifacts.good, IMAGE)


def test_a_boards_session_that_is_killed_leaves_no_files(
    cluster: RpcCluster, artifacts: SampleArtifacts
) -> None:
    def folders() -> set[Path]:
        return set(cluster.tmp.glob("cprune-rpc-*"))

    before = folders()
    with open_key(cluster, "board") as board:
        assert not isinstance(board.run(artifacts.good, IMAGE), Measurement)
        its_own = folders() - before
        assert its_own
        for session in cluster.sessions("board"):
            session.kill()
        deadline = time.monotonic() + 5
        while its_own & folders() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not its_own & folders(), "a board has little room"


def test_a_proxy_to_nowhere_is_an_error() -> None:
    with pytest.raises(OSError, match="does not answer"):
        TcpProxy("127.0.0.1", free_port(), connect_s=2.0, lifetime_s=5.0)


def test_a_key_that_nobody_has_is_answered_with_those_there_are(cluster: RpcCluster) -> None:
    with pytest.raises(DeviceError, match=r"Known: .*board.*rpc_server --tracker"):
        open_device(f"rpc://{cluster.tracker}/bord")
