"""Trials: what is built, checked and kept when programs, the device or this machine fail.

The device is a double.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from cprune_rl.compiler.devices.library import build_library
from cprune_rl.compiler.devices.target import make_target
from cprune_rl.compiler.tuning.schedule import Candidate, ScheduleTrace
from cprune_rl.compiler.tuning.trials import TrialRunner
from cprune_rl.core.protocols import Artifact, Measurement
from cprune_rl.core.workload import OperatorKind, Workload
from cprune_rl.cost_cache import CostStore, StoredTrial, open_store
from cprune_rl.errors import DeviceError, ToolchainError
from tests.doubles.device_fixtures import TimesTwo

TASK = Workload(
    key="double",
    family="double",
    channels_in=4,
    channels_out=4,
    macs=4,
    operator=OperatorKind(name="double"),
)


class NumberedDevice:
    """A device on which each program takes the seconds that it is named after."""

    is_remote = True
    n_sessions = 1

    def __init__(self, folder: Path, error: Exception | None = None) -> None:
        self.build_folder = folder
        self.error = error

    def build(self, module: object, path: Path) -> Artifact:
        if self.error is not None:
            raise self.error
        path.touch()
        return Artifact(path=str(path), shapes=(), dtypes=())

    def time(self, artifacts: Sequence[Artifact]) -> list[Measurement]:
        return [Measurement((seconds(a),)) for a in artifacts]


def seconds(artifact: Artifact) -> float:
    """The runner numbers the libraries: the later, the slower."""
    return 1.0 + int(Path(artifact.path).stem.removeprefix("trial"))


def candidates(n: int) -> list[Candidate]:
    return [Candidate(ScheduleTrace(f"[{i}]"), TimesTwo) for i in range(n)]


@pytest.fixture
def store() -> Iterator[CostStore]:
    store = open_store(None)
    yield store
    store.close()


def kept(store: CostStore) -> dict[str, tuple[float, str | None]]:
    return {
        t.trace_json: (t.measurement.latency_s, t.measurement.error)
        for t in store.trials("c", TASK.key)
    }


def runner(tmp_path: Path, store: CostStore, error: Exception | None = None) -> TrialRunner:
    return TrialRunner(NumberedDevice(tmp_path, error), store, "c")  # type: ignore[arg-type]  # what the runner asks of a device


def test_where_the_fastest_is_wrong_the_next_is_checked_and_the_failure_is_kept(
    tmp_path: Path, store: CostStore
) -> None:
    checked: list[float] = []

    def check(artifact: Artifact) -> str | None:
        checked.append(seconds(artifact))
        return "wrong output" if seconds(artifact) < 3 else None

    measurements = runner(tmp_path, store).run(TASK, candidates(4), check)
    assert sorted(checked) == checked, "fastest first"
    assert len(checked) == 3, "until one is right; the slower ones are not looked at"
    assert sorted(m.error or "" for m in measurements) == ["", "", "wrong output", "wrong output"]
    assert sorted(s for s, error in kept(store).values() if error is None) == [3.0, 4.0]
    assert sum(error == "wrong output" for _, error in kept(store).values()) == 2
    assert list(tmp_path.iterdir()) == [], "the libraries are removed"


def goes_away(_: Artifact) -> str | None:
    raise DeviceError("gone")


@pytest.mark.parametrize(
    ("known_s", "left"), [(2.5, [2.5, 3.0, 4.0]), (0.5, [0.5, 1.0, 2.0, 3.0, 4.0]), (None, [])]
)
def test_a_device_that_goes_away_in_a_check_costs_only_what_no_check_vouches_for(
    known_s: float | None, left: list[float], tmp_path: Path, store: CostStore
) -> None:
    if known_s is not None:
        store.add_trials(
            "c",
            [
                StoredTrial(
                    workload=TASK.key,
                    trace_digest="known",
                    trace_json="[]",
                    measurement=Measurement((known_s,)),
                )
            ],
        )
    with pytest.raises(DeviceError, match="gone"):
        runner(tmp_path, store).run(TASK, candidates(4), goes_away)
    assert sorted(s for s, _ in kept(store).values()) == left, (
        "nothing unchecked is the fastest of its task"
    )


def test_a_device_that_goes_away_while_it_times_leaves_what_was_timed(
    tmp_path: Path, store: CostStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([NumberedDevice.time])

    def time(device: NumberedDevice, artifacts: Sequence[Artifact]) -> list[Measurement]:
        for answer in answers:
            return answer(device, artifacts)
        raise DeviceError("gone")

    monkeypatch.setattr(NumberedDevice, "time", time)
    with pytest.raises(DeviceError, match="gone"):
        runner(tmp_path, store).run(TASK, candidates(6))
    assert len(kept(store)) == 4, "the first that were sent together"


def test_what_is_wrong_with_this_machine_is_not_kept_as_a_programs_failure(
    tmp_path: Path, store: CostStore
) -> None:
    with pytest.raises(ToolchainError, match="no room"):
        runner(tmp_path, store, ToolchainError("no room")).run(TASK, candidates(2))
    assert kept(store) == {}
    measurements = runner(tmp_path, store, RuntimeError("first\nwhat is wrong")).run(
        TASK, candidates(1)
    )
    assert measurements[0].error == "build failed: RuntimeError: what is wrong"
    assert len(kept(store)) == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "built or loaded here: MemoryError.* End other programs"),
        (RuntimeError("compiler\nstd::bad_alloc"), "bad_alloc.* End other programs"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            r"No space left.* Make room on the disk of .* \(TMPDIR\)",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "Set TMPDIR to a folder"),
    ],
)
def test_memory_and_disks_are_never_a_programs_failure(
    tmp_path: Path, store: CostStore, error: Exception, message: str
) -> None:
    with pytest.raises(ToolchainError, match=message):
        runner(tmp_path, store, error).run(TASK, candidates(2))
    assert kept(store) == {}


def test_a_library_that_cannot_be_loaded_is_not_kept_as_the_programs_failure(
    tmp_path: Path, store: CostStore
) -> None:
    def check(_: Artifact) -> str | None:
        return "it ran when it was timed and not later: 1-x.so: cannot open shared object file"

    measurements = runner(tmp_path, store).run(TASK, candidates(1), check)
    assert measurements[0].error
    assert kept(store) == {}


@pytest.fixture
def linker(tmp_path: Path) -> Callable[[str], str]:
    def write(commands: str) -> str:
        path = tmp_path / "linker"
        path.write_text(f"#!/bin/sh\n{commands}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("commands", "error", "message"),
    [
        (
            "echo 'ld: undefined reference to f'; echo 'collect2: error: ld returned 1'; exit 1",
            RuntimeError,
            "^ld: undefined reference to f$",
        ),
        (
            "echo 'ld: final link failed: No space left on device'; exit 1",
            ToolchainError,
            "No space left on device. Make room",
        ),
        (
            "echo 'collect2: fatal error: ld terminated with signal 9 [Killed]'; exit 1",
            ToolchainError,
            "signal 9",
        ),
        ("kill -9 $$", ToolchainError, "was ended"),
    ],
)
def test_a_linker_that_fails_says_whether_it_is_the_programs_doing(
    commands: str,
    error: type[Exception],
    message: str,
    linker: Callable[[str], str],
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=message) as caught:
        build_library(TimesTwo, make_target(1), tmp_path / "program.so", linker(commands))
    assert type(caught.value) is error
