"""The local device: a schedule that hangs or crashes costs one trial."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm.rpc import RPCSession

from cprune_rl.compiler.devices.local import LocalDevice
from cprune_rl.compiler.devices.open import open_device
from cprune_rl.compiler.devices.target import require_cxx_compiler
from cprune_rl.core.protocols import Artifact
from cprune_rl.errors import ConfigError, DeviceError, ToolchainError, UnknownNameError
from tests.doubles.device_fixtures import BRIEF, SampleArtifacts, TimesTwo


@pytest.mark.parametrize("broken", ["hanging", "crashing"])
def test_a_broken_library_costs_one_trial(
    device: LocalDevice, artifacts: SampleArtifacts, broken: str
) -> None:
    good = artifacts.good
    before, bad, after = device.time([good, getattr(artifacts, broken), good])
    assert bad.error
    assert bad.samples_s == ()
    assert before.error is None
    assert after.error is None
    assert after.latency_s > 0
    assert after.reference_s > 0


def test_a_server_killed_in_the_middle_is_started_again(
    device: LocalDevice, artifacts: SampleArtifacts
) -> None:
    assert device.time([artifacts.good])[0].error is None
    old = device.server_process
    old.kill()
    old.wait()
    hung, after = device.time([artifacts.hanging, artifacts.good])
    assert device.server_process.pid != old.pid
    assert hung.error
    assert after.error is None


def test_a_file_that_is_no_library_is_an_error_value(device: LocalDevice) -> None:
    path = device.build_folder / "none.so"
    path.write_text("not a library")
    assert device.time([Artifact(path=str(path), shapes=((4,),), dtypes=("float32",))])[0].error


def test_a_folder_from_which_nothing_can_be_loaded_is_no_programs_failure(
    artifacts: SampleArtifacts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a disk that is mounted noexec: no file that is sent can be run."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    upload = RPCSession.upload

    def upload_damaged(self: RPCSession, data: bytearray, target: str | None = None) -> None:
        upload(self, bytearray(b"failed to map segment"), target)

    with LocalDevice(timing=BRIEF) as device:
        assert device.time([artifacts.good])[0].error is None
        monkeypatch.setattr(RPCSession, "upload", upload_damaged)
        message = (
            rf"programs do not run on local: .*{tmp_path}.*\(TMPDIR\).*noexec.*TMPDIR=/var/tmp"
        )
        with pytest.raises(DeviceError, match=message):
            device.time([artifacts.good])
    with LocalDevice(timing=BRIEF) as device, pytest.raises(DeviceError, match=message):
        device.run(artifacts.good, [np.zeros(4, np.float32)])


@pytest.mark.parametrize("words", ["No space left on device", "Cannot allocate memory"])
def test_a_device_without_room_is_no_programs_failure(
    artifacts: SampleArtifacts, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(RPCSession, "upload", fail)
    with LocalDevice(timing=BRIEF) as device, pytest.raises(DeviceError, match=words):
        device.time([artifacts.good])


def test_a_machine_without_a_folder_for_temporary_files_is_told_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(ToolchainError, match="Set TMPDIR to a folder"):
        LocalDevice()


def test_where_nothing_can_be_built_no_function_is_at_fault(
    device: LocalDevice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tvm.IRModule({"main": TimesTwo["main"].with_attr("calling_conv", "none")})

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("unknown words")

    monkeypatch.setattr(tvm, "compile", refuse)
    with pytest.raises(ToolchainError, match=r"cannot be built or loaded here: .*unknown words"):
        device.build(broken, tmp_path / "program.so")


def test_a_machine_without_a_compiler_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolchainError, match=r"apt-get install g\+\+"):
        require_cxx_compiler()


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("lokal", UnknownNameError),
        ("local?threads=0", ConfigError),
        ("local?threads=999", ConfigError),
        ("local?cores=1", ConfigError),
    ],
)
def test_a_device_that_is_not_there_is_a_clear_error(spec: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="local"):
        open_device(spec)
