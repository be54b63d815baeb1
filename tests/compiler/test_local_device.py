"""The local device: a schedule that hangs or crashes costs one trial."""

from __future__ import annotations

import pytest

from cprune_rl.compiler.devices.local import LocalDevice
from cprune_rl.compiler.devices.open import open_device
from cprune_rl.compiler.devices.target import require_cxx_compiler
from cprune_rl.core.protocols import Artifact
from cprune_rl.errors import ConfigError, ToolchainError, UnknownNameError
from tests.doubles.device_fixtures import SampleArtifacts


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
