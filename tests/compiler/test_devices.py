"""Devices: names, the contract, several devices of one key, compilers, lists, networks."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from cprune_rl.cli import app
from cprune_rl.compiler.deploy.run_networks import run_on_device
from cprune_rl.compiler.devices.local import LocalDevice
from cprune_rl.compiler.devices.open import open_device
from cprune_rl.compiler.devices.spec import LocalSpec, TrackerSpec, parse_device
from cprune_rl.compiler.devices.target import make_target, vector_width
from cprune_rl.compiler.devices.tracker_client import TrackerAddress
from cprune_rl.compiler.tuning.probe import probe_device
from cprune_rl.core.device_descriptor import UNKNOWN_DEVICE
from cprune_rl.core.protocols import Device, Measurement
from cprune_rl.cost_cache import StoredTrial, open_store
from cprune_rl.errors import ConfigError, DeviceError, ToolchainError, UnknownNameError
from cprune_rl.models.weights import export_torch
from cprune_rl.testing import check_device
from cprune_rl.validation.run import export_checks
from tests.doubles.device_fixtures import (
    BRIEF,
    ROOT,
    RpcCluster,
    SampleArtifacts,
    TimesTwo,
    build_doubling_network,
    free_port,
    open_key,
)

# --- names


@pytest.mark.parametrize(
    ("name", "error", "message"),
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
def test_a_wrong_name_says_what_is_allowed(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message.replace("?", r"\?")):
        parse_device(name)


def test_a_name_is_read_without_opening_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_device("local?threads=1&mcpu=haswell") == LocalSpec(1, "haswell")
    spec = parse_device(
        "rpc://board.lan:9191/pi?target=llvm,mtriple=aarch64-linux-gnu,mattr=+neon,+fp16,num-cores=4&cc=my-g++&devices=2&wait=5"
    )
    target = {
        "kind": "llvm",
        "mtriple": "aarch64-linux-gnu",
        "mattr": ["+neon", "+fp16"],
        "num-cores": 4,
    }
    assert spec == TrackerSpec(
        tracker=TrackerAddress("board.lan", 9191),
        key="pi",
        target=target,
        linker="my-g++",
        threads=4,
        devices=2,
        wait_s=5.0,
    )
    assert parse_device("rpc://h:1/k?target=" + json.dumps(target)) == replace(
        spec, tracker=TrackerAddress("h", 1), key="k", linker=None, devices=None, wait_s=180.0
    )
    for variable, value in (("HOST", "10.0.0.7"), ("PORT", "9192"), ("KEY", "phone")):
        monkeypatch.setenv(f"TVM_TRACKER_{variable}", value)
    assert parse_device("rpc:") == TrackerSpec(
        tracker=TrackerAddress("10.0.0.7", 9192), key="phone"
    )


def test_a_wrong_name_is_answered_without_loading_tvm() -> None:
    code = (
        "import sys; from cprune_rl.compiler.devices.spec import parse_device; "
        "parse_device('rpc://h:1/k'); print('tvm' in sys.modules)"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert outcome.stdout.strip() == "False"


def test_the_vector_width_follows_the_processor() -> None:
    widths = [
        vector_width(make_target(1, mcpu)) for mcpu in ("skylake-avx512", "haswell", "nehalem")
    ]
    assert widths == [16, 8, 4]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("local?mcpu=haswel", "Did you mean 'haswell'"),
        (
            "rpc://127.0.0.1:1/board?target=llvm,mtriple=aarch64-linux-gnu,mcpu=cortex-a7x",
            "unknown processor 'cortex-a7x'. Did you mean 'cortex-a7",
        ),
        (
            "rpc://127.0.0.1:1/board?target=llvm,mtriple=aarch64-linux-gnu,mcpu=haswell",
            "unknown processor 'haswell'",
        ),
        (
            "rpc://127.0.0.1:1/board?target=llvm,mtriple=nonsense,mcpu=haswell",
            "machines 'nonsense'",
        ),
    ],
)
def test_a_processor_that_llvm_does_not_know_is_no_device(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        open_device(name)


# --- the contract


@pytest.mark.parametrize("kind", ["local", "board"])
def test_every_device_keeps_the_contract(
    kind: str, artifacts: SampleArtifacts, cluster: RpcCluster
) -> None:
    openers: dict[str, Callable[[], Device]] = {
        "local": lambda: LocalDevice(timing=BRIEF),
        "board": lambda: open_key(cluster, "board"),
    }
    image = np.arange(4, dtype=np.float32)
    check_device(
        openers[kind], artifacts.good, artifacts.crashing, artifacts.hanging, [image], [image * 2]
    )


def test_a_device_knows_whether_it_is_remote_and_what_it_is(cluster: RpcCluster) -> None:
    with open_key(cluster, "board") as board:
        assert board.is_remote
        assert not LocalDevice.is_remote.fget(LocalDevice.__new__(LocalDevice))
        assert "key=board;cpu=" in board.fingerprint
        assert parse_device(board.name) == TrackerSpec(tracker=cluster.tracker, key="board")
        assert str(board.target.attrs["mcpu"]) == str(make_target(1).attrs["mcpu"]), (
            "compiled for what the device says it is"
        )


def test_tvms_own_server_will_do(cluster: RpcCluster, artifacts: SampleArtifacts) -> None:
    with open_key(cluster, "stock", "?devices=1") as device:
        assert [m.error for m in device.time([artifacts.good, artifacts.good])] == [None, None]
        assert "cpu=unknown" in device.fingerprint


# --- several devices of one key


def test_twins_time_in_parallel_each_program_once_and_in_order(
    cluster: RpcCluster, artifacts: SampleArtifacts
) -> None:
    before = [len(cluster.log(log)) for log in ("twin1", "twin2")]
    with open_key(cluster, "twin", timing=replace(BRIEF, reference_every=2)) as device:
        assert device.n_sessions == 2
        batch = [artifacts.good] * 5 + [artifacts.slow] + [artifacts.good] * 6
        timed = device.time(batch)
    assert [m.error for m in timed] == [None] * 12
    assert int(np.argmax([m.latency_s for m in timed])) == 5
    logs = [cluster.log(log)[n:] for log, n in zip(("twin1", "twin2"), before, strict=True)]
    assert all("load_module" in log for log in logs), "both had work"
    assert sum(log.count("-slow.so") for log in logs) == 1
    assert sum(log.count("-good.so") for log in logs) == 11


def test_a_device_that_somebody_else_has_holds_nothing_up(
    cluster: RpcCluster, artifacts: SampleArtifacts
) -> None:
    with (
        open_key(cluster, "twin", "?devices=1") as mine,
        open_key(cluster, "twin", "?devices=2") as both,
    ):
        assert mine.time([artifacts.good])[0].error is None
        started = time.monotonic()
        assert [m.error for m in both.time([artifacts.good] * 6)] == [None] * 6
        assert time.monotonic() - started < 10
        assert both.n_sessions == 2, "it may be free again for the next batch"


def test_the_twin_that_stays_does_the_work_of_the_one_that_went(
    cluster: RpcCluster, artifacts: SampleArtifacts
) -> None:
    one, _ = cluster.serve("pair", "pair1"), cluster.serve("pair", "pair2")
    cluster.wait_for({"pair": 2})
    with open_key(cluster, "pair", "?wait=1", timing=replace(BRIEF, reference_every=1)) as device:
        assert device.n_sessions == 2
        device.time([artifacts.good] * 4)
        os.killpg(one.pid, signal.SIGKILL)
        timed = device.time([artifacts.good] * 8)
        assert len(timed) == 8
        assert sum(m.error is None for m in timed) >= 7, (
            "at most the trial that was under way is lost"
        )
        assert device.n_sessions == 1


# --- compilers


def test_a_cross_compiler_is_used_and_a_missing_one_is_named(
    cluster: RpcCluster, artifacts: SampleArtifacts, tmp_path: Path
) -> None:
    compiler, log = tmp_path / "board-g++", tmp_path / "calls"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec g++ "$@"\n')
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    with open_key(cluster, "board", f"?cc={compiler}") as device:
        artifact = device.build(TimesTwo, device.build_folder / "cross.so")
        assert device.time([artifact])[0].error is None
    assert "cross.so" in log.read_text()
    with pytest.raises(ToolchainError, match="apt-get install g\\+\\+-riscv64-linux-gnu"):
        open_key(cluster, "board", "?target=llvm,mtriple=riscv64-linux-gnu")
    with pytest.raises(ConfigError, match="TVM knows no target"):
        open_key(cluster, "board", "?target=llvm,colour=blue")


# --- the lists


def test_the_list_shows_a_trackers_devices_and_what_this_machine_offers(
    cluster: RpcCluster,
) -> None:
    with open_key(cluster, "twin", "?devices=1"):
        outcome = CliRunner().invoke(
            app, ["device", "list", "--tracker", str(cluster.tracker)], env={"COLUMNS": "200"}
        )
    assert outcome.exit_code == 0, outcome.output
    row = next(line for line in outcome.output.splitlines() if "/twin" in line)
    assert [c.strip() for c in row.strip("│").split("│")][1:4] == ["1", "1", "0"]
    assert "local?threads=1&mcpu=haswell" in outcome.output


def test_a_tracker_that_does_not_answer_is_a_clear_error() -> None:
    tracker = f"127.0.0.1:{free_port()}"
    outcome = CliRunner().invoke(app, ["device", "list", "--tracker", tracker])
    assert isinstance(outcome.exception, DeviceError)
    assert "Start one with" in str(outcome.exception)


def test_the_probe_prints_the_figures_it_knows_as_json(cluster: RpcCluster, tmp_path: Path) -> None:
    name, url = f"rpc://{cluster.tracker}/board", f"sqlite:///{tmp_path}/costs.db"
    timed = [n for n in UNKNOWN_DEVICE.to_json() if n not in ("threads", "vector_lanes")]
    store = open_store(url)
    with open_device(name) as opened:
        for figure in timed:
            store.add_trials(
                opened.context,
                [
                    StoredTrial(
                        workload=f"probe v1: {figure}",
                        trace_digest="p",
                        trace_json="[]",
                        measurement=Measurement((1e-4,)),
                    )
                ],
            )
        figures = probe_device(opened, store)
    store.close()
    outcome = CliRunner().invoke(app, ["device", "probe", name, "--json", "--storage", url])
    value = json.loads(outcome.stdout)
    assert value["figures"] == figures.to_json()
    assert value["figures"]["launch_ns"] == pytest.approx(1e5)
    assert list(value["vector"].values()) == list(figures.vector())


# --- networks side by side


@pytest.mark.parametrize(
    ("device", "networks", "options", "message"),
    [
        ("recorded:resnet8@znver4-1t", ["a.so", "b.so"], [], "run on a device only"),
        ("local", ["a.so"], [], "two networks or more"),
        ("local", ["a.so", "missing.so"], [], "missing.so is not there"),
        ("local", ["a.so", "a.so"], [], "given twice"),
        ("local", ["a.so", "b.so"], [], "give --input-shape"),
        ("local", ["a.so", "b.so"], ["--input-shape", "1,3,x"], "is no shape"),
    ],
)
def test_networks_that_cannot_be_compared_say_why(
    device: str, networks: list[str], options: list[str], message: str, tmp_path: Path
) -> None:
    for name in ("a.so", "b.so"):
        (tmp_path / name).touch()
    outcome = CliRunner().invoke(
        app, ["device", "compare", device, *(str(tmp_path / n) for n in networks), *options]
    )
    assert isinstance(outcome.exception, ConfigError)
    assert message in str(outcome.exception)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled network that doubles its input."""
    return build_doubling_network(tmp_path_factory.mktemp("network"))


def test_a_network_runs_on_its_device_and_not_in_this_process(
    network: Path, artifacts: SampleArtifacts, cluster: RpcCluster
) -> None:
    image, foreign = np.arange(4, dtype=np.float32).reshape(1, 4), network.parent / "foreign.so"
    foreign.write_bytes(b"of another kind of machine")
    with open_key(cluster, "board") as board:
        np.testing.assert_allclose(run_on_device(board, network, image), image * 2)
        assert f"-{network.name}" in cluster.log("board")
        with pytest.raises(DeviceError, match=r"running good.so failed"):
            run_on_device(board, Path(artifacts.good.path), image)
        with pytest.raises(DeviceError, match=r"running foreign.so failed"):
            run_on_device(board, foreign, image)
        np.testing.assert_allclose(run_on_device(board, network, image), image * 2)


def test_validation_runs_the_libraries_on_the_runs_own_device(
    network: Path, cluster: RpcCluster, tmp_path: Path
) -> None:
    class Doubling(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image + image

    export_torch(Doubling(), (1, 4), tmp_path / "model.pt2")
    shutil.copy(network, tmp_path / "lib.so")
    shutil.copy(network, tmp_path / "dense.so")
    before = cluster.log("board").count("-lib.so")
    with open_key(cluster, "board") as board:
        images = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
        libraries = {"lib.so": Doubling(), "dense.so": Doubling()}
        checks = [
            *export_checks(tmp_path, {"model.pt2": Doubling()}, images, None),
            *export_checks(tmp_path, libraries, images, board),
        ]
    assert [(c.claim.partition(" ")[0], c.passed) for c in checks] == [
        ("model.pt2", True),
        ("lib.so", True),
        ("dense.so", True),
    ]
    assert cluster.log("board").count("-lib.so") == before + 1


def test_a_library_that_does_not_run_is_a_clear_error(
    artifacts: SampleArtifacts, tmp_path: Path
) -> None:
    other = tmp_path / "other.so"
    other.write_bytes(b"no library")
    libraries = [artifacts.good.path, str(other)]
    command = ["device", "compare", "local", *libraries, "--input-shape", "1,3,32,32"]
    outcome = CliRunner().invoke(app, command)
    assert isinstance(outcome.exception, DeviceError)
    assert "timing the whole network failed" in str(outcome.exception)
