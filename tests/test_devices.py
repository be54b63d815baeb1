"""Devices: names, the contract over local and tracker, what goes away and comes back, drift, the probe, the lists."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st
from tvm.script import ir as I
from tvm.script import tirx as T
from typer.testing import CliRunner

from cprune_rl.cli import app
from cprune_rl.compiler.device import TimingSettings, build
from cprune_rl.compiler.devices import LocalSpec, TrackerSpec, open_device, parse_device
from cprune_rl.compiler.drift import DriftWatch
from cprune_rl.compiler.local import LocalDevice
from cprune_rl.compiler.probe import N_WORKLOADS, probe_device
from cprune_rl.compiler.relay import Relay
from cprune_rl.compiler.target import make_target, vector_width
from cprune_rl.compiler.tracker import Patience, TrackerDevice
from cprune_rl.compiler.tracker_client import TrackerAddress, tracker_status
from cprune_rl.contracts import Artifact, Device, Measurement
from cprune_rl.cost_cache import StoredTrial, open_store
from cprune_rl.descriptor import UNKNOWN_DEVICE, DeviceDescriptor
from cprune_rl.envs import CPruneEnv
from cprune_rl.envs.observation import FEATURES
from cprune_rl.errors import ConfigError, DataError, DeviceError, ToolchainError, UnknownNameError
from cprune_rl.job.folder import RunFolder
from cprune_rl.testing import DriftingMachine, check_device, toy_problem

ROOT = Path(__file__).parent.parent
BRIEF = TimingSettings(n_repeats=2, min_repeat_ms=1, timeout_s=2.5, max_spread=1e9, max_drift=1e9)
SOON = Patience(session_s=60, first_pause_s=0.1, longest_pause_s=0.5)

# --- names


@pytest.mark.parametrize(
    ("name", "error", "what"),
    [
        ("lokal", UnknownNameError, "Did you mean 'local'"),
        ("localhost", UnknownNameError, "rpc://host:9190/key"),
        ("local?threads=0", ConfigError, "this machine allows 1 to"),
        ("local?threads=many", ConfigError, "many"),
        ("local?mcpu=", ConfigError, "has no value"),
        ("local?cores=1", ConfigError, "Known: threads, mcpu"),
        ("rpc://host:9190", ConfigError, "names no key"),
        ("rpc://host:port/key", ConfigError, "is no port"),
        ("rpc://host:99999/key", ConfigError, "is no port"),
        ("rpc://host:9190/key?gcc=x", ConfigError, "unknown option 'gcc'"),
        ("rpc://host:9190/key?devices=0", ConfigError, "devices"),
        ("rpc://host:9190/key?target=llvm,haswell", ConfigError, "no key=value"),
        ("rpc://host:9190/key?target={kind", ConfigError, "no JSON"),
        ('rpc://host:9190/key?target={"mcpu":"haswell"}', ConfigError, "no kind"),
    ],
)
def test_a_wrong_name_says_what_is_allowed(name: str, error: type[Exception], what: str) -> None:
    with pytest.raises(error, match=what.replace("?", r"\?")):
        parse_device(name)


def test_a_name_is_read_without_opening_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_device("local?threads=1&mcpu=haswell") == LocalSpec(1, "haswell")
    spec = parse_device("rpc://board.lan:9191/pi?target=llvm,mtriple=aarch64-linux-gnu,mattr=+neon,+fp16,num-cores=4&cc=my-g++&devices=2&wait=5")
    target = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mattr": ["+neon", "+fp16"], "num-cores": 4}
    assert spec == TrackerSpec(TrackerAddress("board.lan", 9191), "pi", target, "my-g++", 4, 2, 5.0)
    assert parse_device("rpc://h:1/k?target=" + json.dumps(target)) == replace(spec, tracker=TrackerAddress("h", 1), key="k", linker=None, devices=None, wait_s=180.0)
    for variable, value in (("HOST", "10.0.0.7"), ("PORT", "9192"), ("KEY", "phone")):
        monkeypatch.setenv(f"TVM_TRACKER_{variable}", value)
    assert parse_device("rpc:") == TrackerSpec(TrackerAddress("10.0.0.7", 9192), "phone")


def test_a_wrong_name_is_answered_without_loading_tvm() -> None:
    code = "import sys; from cprune_rl.compiler.devices import parse_device; parse_device('rpc://h:1/k'); print('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip() == "False"


def test_the_vector_width_follows_the_processor() -> None:
    widths = [vector_width(make_target(1, mcpu)) for mcpu in ("skylake-avx512", "haswell", "nehalem")]
    assert widths == [16, 8, 4]


# --- programs that work, crash and hang


@I.ir_module
class Doubles:
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((4,), "float32"), B: T.Buffer((4,), "float32")):  # noqa: N803, N805  # TVMScript's way to write a buffer
        T.func_attr({"global_symbol": "main"})
        for i in range(4):
            B[i] = A[i] * T.float32(2)


@I.ir_module
class Slow:
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((4,), "float32"), B: T.Buffer((4,), "float32")):  # noqa: N803, N805
        T.func_attr({"global_symbol": "main"})
        B[0] = A[0]
        for _ in range(3000000):
            B[0] = B[0] * T.float32(0.5) + A[0]


@I.ir_module
class Hangs:
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((4,), "float32")):  # noqa: N803, N805
        T.func_attr({"global_symbol": "main"})
        while A[0] < T.float32(9):
            A[0] = A[0] * T.float32(0)


@I.ir_module
class Crashes:
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((4,), "float32")):  # noqa: N803, N805
        T.func_attr({"global_symbol": "main"})
        T.evaluate(T.call_extern("int32", "abort"))


class Programs:
    """The four as libraries for this machine, which serves as every device here."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._target = folder, make_target(1)
        self.good, self.slow = self.built(Doubles, "good", 2), self.built(Slow, "slow", 2)
        self.hanging, self.crashing = self.built(Hangs, "hanging", 1), self.built(Crashes, "crashing", 1)

    def built(self, module: tvm.IRModule, name: str, n_arguments: int) -> Artifact:
        return build(module, ((4,),) * n_arguments, ("float32",) * n_arguments, self._target, self._folder / f"{name}.so")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return Programs(tmp_path_factory.mktemp("programs"))


# --- a tracker with servers


class Yard:
    """A real tracker and real servers, as processes of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._processes = folder, []
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.tracker = TrackerAddress("127.0.0.1", self.port)
        self._start("tracker", "tvm.exec.rpc_tracker", "--host", "127.0.0.1", "--port", str(self.port), "--port-end", str(self.port + 1))

    def _start(self, log: str, module: str, *options: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{log}.log").open("ab") as output:
            process = subprocess.Popen([sys.executable, "-m", module, *options], cwd=ROOT, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True)
        self._processes.append(process)
        return process

    def serve(self, key: str, log: str | None = None) -> subprocess.Popen[bytes]:
        return self._start(log or key, "cprune_rl.compiler.rpc_server", "--tracker", str(self.tracker), "--key", key, "--host", "127.0.0.1")

    def serve_stock(self, key: str) -> subprocess.Popen[bytes]:
        return self._start(key, "tvm.exec.rpc_server", "--host", "127.0.0.1", "--tracker", str(self.tracker), "--key", key)

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def wait_for(self, free: dict[str, int], timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(DeviceError):
                if free.items() <= {s.key: s.n_free for s in tracker_status(self.tracker)}.items():
                    return
            time.sleep(0.1)
        raise AssertionError(f"servers did not come up: {tracker_status(self.tracker)}")

    def close(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its sessions too
            process.wait()


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    yard = Yard(tmp_path_factory.mktemp("yard"))
    try:
        for log in ("twin1", "twin2"):
            yard.serve("twin", log)
        yard.serve("board")
        yard.serve_stock("stock")
        yard.wait_for({"twin": 2, "board": 1, "stock": 1})
        yield yard
    finally:
        yard.close()


def open_key(yard: Yard, key: str, options: str = "", timing: TimingSettings = BRIEF) -> TrackerDevice:
    spec = parse_device(f"rpc://{yard.tracker}/{key}{options}")
    assert isinstance(spec, TrackerSpec)
    return TrackerDevice(spec, timing, SOON)


# --- the contract


@pytest.mark.parametrize("kind", ["local", "board"])
def test_every_device_keeps_the_contract(kind: str, programs: Programs, yard: Yard) -> None:
    openers: dict[str, Callable[[], Device]] = {"local": lambda: LocalDevice(timing=BRIEF), "board": lambda: open_key(yard, "board")}
    image = np.arange(4, dtype=np.float32)
    check_device(openers[kind], programs.good, programs.crashing, programs.hanging, [image], [image * 2])


def test_a_device_knows_whether_it_is_remote_and_what_it_is(yard: Yard) -> None:
    with open_key(yard, "board") as board:
        assert board.is_remote
        assert not LocalDevice.is_remote.fget(LocalDevice.__new__(LocalDevice))
        assert "key=board;cpu=" in board.fingerprint
        assert parse_device(board.name) == TrackerSpec(yard.tracker, "board")
        assert str(board.target.attrs["mcpu"]) == str(make_target(1).attrs["mcpu"]), "compiled for what the device says it is"


def test_tvms_own_server_will_do(yard: Yard, programs: Programs) -> None:
    with open_key(yard, "stock", "?devices=1") as device:
        assert [m.error for m in device.time([programs.good, programs.good])] == [None, None]
        assert "cpu=unknown" in device.fingerprint


# --- what goes away


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


# --- several devices of one key


def test_twins_time_in_parallel_each_program_once_and_in_order(yard: Yard, programs: Programs) -> None:
    before = [yard.log(log).count("load_module") for log in ("twin1", "twin2")]
    with open_key(yard, "twin", timing=replace(BRIEF, look_every=2)) as device:
        assert device.n_links == 2
        batch = [programs.good] * 5 + [programs.slow] + [programs.good] * 6
        found = device.time(batch)
    assert [m.error for m in found] == [None] * 12
    assert int(np.argmax([m.latency_s for m in found])) == 5
    logs = [yard.log(log) for log in ("twin1", "twin2")]
    assert all(log.count("load_module") > n for log, n in zip(logs, before, strict=True)), "both had work"
    assert sum(log.count("-slow.so") for log in logs) == 1
    assert sum(log.count("-good.so") for log in logs) == 11


def test_a_device_that_somebody_else_has_holds_nothing_up(yard: Yard, programs: Programs) -> None:
    with open_key(yard, "twin", "?devices=1") as mine, open_key(yard, "twin", "?devices=2") as both:
        assert mine.time([programs.good])[0].error is None
        started = time.monotonic()
        assert [m.error for m in both.time([programs.good] * 6)] == [None] * 6
        assert time.monotonic() - started < 10
        assert both.n_links == 2, "it may be free again for the next batch"


def test_the_twin_that_stays_does_the_work_of_the_one_that_went(yard: Yard, programs: Programs) -> None:
    one, _ = yard.serve("pair", "pair1"), yard.serve("pair", "pair2")
    yard.wait_for({"pair": 2})
    with open_key(yard, "pair", "?wait=1", timing=replace(BRIEF, look_every=1)) as device:
        assert device.n_links == 2
        device.time([programs.good] * 4)
        os.killpg(one.pid, signal.SIGKILL)
        found = device.time([programs.good] * 8)
        assert len(found) == 8
        assert sum(m.error is None for m in found) >= 7, "at most the trial that was under way is lost"
        assert device.n_links == 1


# --- compilers


def test_a_cross_compiler_is_used_and_a_missing_one_is_named(yard: Yard, programs: Programs, tmp_path: Path) -> None:
    compiler, log = tmp_path / "board-g++", tmp_path / "calls"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec g++ "$@"\n')
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    with open_key(yard, "board", f"?cc={compiler}") as device:
        artifact = device.build(Doubles, ((4,), (4,)), ("float32", "float32"), device.build_folder / "cross.so")
        assert device.time([artifact])[0].error is None
    assert "cross.so" in log.read_text()
    with pytest.raises(ToolchainError, match="apt-get install g\\+\\+-riscv64-linux-gnu"):
        open_key(yard, "board", "?target=llvm,mtriple=riscv64-linux-gnu")
    with pytest.raises(ConfigError, match="TVM knows no target"):
        open_key(yard, "board", "?target=llvm,colour=blue")


# --- drift


def test_trials_between_drifted_looks_are_timed_again() -> None:
    machine = DriftingMachine([1.0, 1, 1, 1.0, 2, 2, 2.0, 1, 1, 1.0])  # a look, two trials, a look; then the machine slows down for one group
    watch = DriftWatch(lambda: machine.time(1e-4), every=2, max_drift=0.25, n_again=3)
    found = watch.time([lambda: machine.time(5e-3)] * 4)
    assert [m.latency_s for m in found] == [5e-3] * 4
    assert machine.n_timed == (1 + 2 + 1) + 3 * (2 + 1), "the slow group was timed until both its looks were steady"
    assert all(m.reference_s == pytest.approx(1e-4) for m in found)


def test_a_machine_that_stays_slower_becomes_the_new_normal() -> None:
    machine = DriftingMachine([1.0, *[3.0] * 100])
    found = DriftWatch(lambda: machine.time(1e-4), every=1, n_again=5).time([lambda: machine.time(1e-3)])
    assert machine.n_timed == 1 + 2 * (1 + 1), "one look at the new speed may be chance, two are not"
    assert found[0].reference_s == pytest.approx(3e-4)


def test_drift_that_does_not_end_is_not_waited_for() -> None:
    machine = DriftingMachine([1.0, 1, 4.0, 1, 1.0, 1, 4.0, 1, 1.0])
    DriftWatch(lambda: machine.time(1e-4), every=1, n_again=2).time([lambda: machine.time(1e-3)])
    assert machine.n_timed == 1 + (1 + 2) * (1 + 1)


def test_a_trial_that_failed_is_not_tried_again_for_drift() -> None:
    machine = DriftingMachine([1.0, 2.0, *[1.0] * 20])
    calls = []

    def crashes() -> Measurement:
        calls.append(1)
        return Measurement(error="crashed")

    assert DriftWatch(lambda: machine.time(1e-4)).time([crashes])[0].error == "crashed"
    assert len(calls) == 1


def test_a_reference_that_cannot_be_timed_says_nothing_of_drift() -> None:
    found = DriftWatch(lambda: Measurement(error="gone")).time([lambda: Measurement((1.0,))])
    assert found == [Measurement((1.0,))]


# --- the probe and what an agent sees of it


def test_a_probe_gives_every_figure_and_is_remembered(device: LocalDevice) -> None:
    store, seen = open_store(None), []
    first = probe_device(device, store, seen.append)
    assert seen == list(range(1, N_WORKLOADS + 1))
    assert len(first.vector()) == len(first.vector_names()) <= 8
    assert all(-0.6 < v < 1.6 for v in first.vector())
    assert (first.threads, first.vector_lanes) == (1, vector_width(device.target))
    assert all(v > 0 for v in first.to_json().values())
    assert probe_device(device, store) == first, "the same device in every run"
    store.close()


@given(st.lists(st.floats(1e-3, 1e6), min_size=8, max_size=8), st.integers(1, 256), st.integers(1, 64))
def test_a_descriptor_survives_its_file(figures: list[float], threads: int, lanes: int) -> None:
    descriptor = DeviceDescriptor(*figures, threads=threads, vector_lanes=lanes)
    assert DeviceDescriptor.from_json(json.loads(json.dumps(descriptor.to_json()))) == descriptor


def test_nothing_known_of_a_device_is_a_vector_of_zeros() -> None:
    assert set(UNKNOWN_DEVICE.vector()) == {0.0}


@pytest.mark.parametrize("damage", [{"threads": 0}, {"launch_ns": float("nan")}, {"colour": 1}, {"conv3x3_gflops": "fast"}])
def test_a_damaged_descriptor_is_a_clear_error(damage: dict[str, float]) -> None:
    with pytest.raises(DataError, match="device descriptor"):
        DeviceDescriptor.from_json({**UNKNOWN_DEVICE.to_json(), **damage})


def test_an_agent_sees_the_descriptor_on_every_row() -> None:
    seen = DeviceDescriptor(conv3x3_gflops=100.0, threads=4)
    obs, _ = CPruneEnv(replace(toy_problem(), descriptor=seen)).reset(seed=0)
    rows = obs[obs[:, 0] > 0]
    for name, value in zip(seen.vector_names(), seen.vector(), strict=True):
        np.testing.assert_allclose(rows[:, FEATURES.index(f"device_{name}")], value, rtol=1e-5)


# --- the lists


def test_the_list_shows_a_trackers_devices_and_what_this_machine_offers(yard: Yard) -> None:
    with open_key(yard, "twin", "?devices=1"):
        outcome = CliRunner().invoke(app, ["device", "list", "--tracker", str(yard.tracker)], env={"COLUMNS": "200"})
    assert outcome.exit_code == 0, outcome.output
    row = next(line for line in outcome.output.splitlines() if "/twin" in line)
    assert [c.strip() for c in row.strip("│").split("│")][1:4] == ["1", "1", "0"]
    assert "local?threads=1&mcpu=haswell" in outcome.output


def test_a_tracker_that_does_not_answer_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    outcome = CliRunner().invoke(app, ["device", "list", "--tracker", f"127.0.0.1:{port}"])
    assert isinstance(outcome.exception, DeviceError)
    assert "Start one with" in str(outcome.exception)


def test_the_probe_prints_the_figures_it_knows_as_json(yard: Yard, tmp_path: Path) -> None:
    name, url = f"rpc://{yard.tracker}/board", f"sqlite:///{tmp_path}/costs.db"
    timed = [n for n in UNKNOWN_DEVICE.to_json() if n not in ("threads", "vector_lanes")]
    store = open_store(url)
    with open_device(name) as opened:
        for figure in timed:
            store.add_trials(opened.context, [StoredTrial(f"probe v1: {figure}", "p", "[]", Measurement((1e-4,)))])
        figures = probe_device(opened, store)
    store.close()
    outcome = CliRunner().invoke(app, ["device", "probe", name, "--json", "--storage", url])
    value = json.loads(outcome.stdout)
    assert value["figures"] == figures.to_json()
    assert value["figures"]["launch_ns"] == pytest.approx(1e5)
    assert list(value["vector"].values()) == list(figures.vector())
