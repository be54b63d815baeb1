"""Recorded problems: names, damaged and hostile files, noise, what a recording says of itself."""

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprune_rl.compiler.devices.open import open_device
from cprune_rl.compiler.devices.spec import RecordedSpec, parse_device
from cprune_rl.core.protocols import TaskCost
from cprune_rl.envs import CPruneEnv
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.registry import (
    CLASS_ORDER,
    describe_recorded,
    open_recorded,
    recorded_names,
    save_recorded,
)
from cprune_rl.errors import ConfigError, DataError, UnknownNameError
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.latency.recorded import RecordedLatency
from cprune_rl.testing import toy_problem

PROVENANCE = {
    "device": "cpu=Board 3;mcpu=x;threads=2",
    "data": "toys",
    "recorded": "2026-01-02T03:04:05Z",
    "command": "record it",
    "n_cores": 4,
    "packages": {"tvm": "1"},
}


def save_toy(path: Path, spread: float = 0.05) -> Problem:
    """A recording of the toy problem: the dense network and three narrower ones."""
    problem = toy_problem()
    known = {}
    for ratio in (1.0, 0.75, 0.5, 0.3):
        plan = problem.network.uniform(ratio)
        known |= {
            w.key: (w, TaskCost(latency_s=c.latency_s, tile_factors=c.tile_factors, spread=spread))
            for w, c in zip(
                problem.network.workloads(plan), problem.latency.measure(plan), strict=True
            )
        }
    save_recorded(path, problem, list(known.values()), PROVENANCE)
    return problem


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    save_toy(tmp_path / "toy.json.gz")
    return tmp_path / "toy.json.gz"


@pytest.mark.parametrize("ending", [".json", ".json.gz"])
def test_a_recording_survives_its_file_packed_or_not(tmp_path: Path, ending: str) -> None:
    problem = save_toy(tmp_path / f"toy{ending}")
    opened = open_recorded(str(tmp_path / f"toy{ending}"))
    dense = problem.network.dense
    assert opened.network == problem.network
    assert [c.latency_s for c in opened.latency.measure(dense)] == [
        c.latency_s for c in problem.latency.measure(dense)
    ]
    assert opened.floor == pytest.approx(problem.floor)
    assert {c.spread for c in opened.latency.measure(dense)} == {0.05}


def test_equal_problems_give_equal_files(tmp_path: Path) -> None:
    for name in ("a.json.gz", "b.json.gz"):
        save_toy(tmp_path / name)
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


def test_every_packaged_recording_opens_steps_and_says_what_machine_it_is_of() -> None:
    assert recorded_names()
    for name in recorded_names():
        said = describe_recorded(name)
        assert said.name == name
        assert name.partition("@")[0] == said.network
        assert said.n_tasks > 50
        assert 1e-5 < said.dense_latency_s < 1.0
        assert "not stated" not in said.machine
        env = CPruneEnv(name)
        _, info = env.reset(seed=0)
        assert info["latency_s"] == pytest.approx(said.dense_latency_s)
        env.step(int(np.flatnonzero(env.action_masks())[0]))


def test_a_models_name_alone_opens_the_first_class_in_the_stated_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With packaged files of our own, because those that ship may change."""
    from cprune_rl.envs.problems import registry as recordings

    for name in ("m@zebra", f"m@{CLASS_ORDER[1]}", f"m@{CLASS_ORDER[0]}", "n@zebra"):
        save_toy(tmp_path / f"{name}.json.gz")
    monkeypatch.setattr(recordings.resources, "files", lambda _: tmp_path)
    assert recorded_names() == [f"m@{CLASS_ORDER[0]}", f"m@{CLASS_ORDER[1]}", "m@zebra", "n@zebra"]
    assert describe_recorded("m").name == f"m@{CLASS_ORDER[0]}"
    assert describe_recorded("n").name == "n@zebra"
    with pytest.raises(UnknownNameError, match=r"Did you mean 'm@zebra'\?.*n@zebra"):
        open_recorded("m@zebr")


def test_a_recording_says_of_itself_what_is_known(toy: Path) -> None:
    said = describe_recorded(str(toy))
    assert (said.network, said.data, said.recorded, said.command, said.packages) == (
        "toy",
        "toys",
        "2026-01-02T03:04:05Z",
        "record it",
        {"tvm": "1"},
    )
    assert said.machine == "Board 3, 4 cores"
    assert "Board 3" in said.source
    assert "2026-01-02" in said.source


Change = Callable[[dict[str, Any]], Any]
CHANGES: dict[str, Change] = {
    "format": lambda v: v.update(format=1),
    "no tasks": lambda v: v.update(tasks=[]),
    "negative latency": lambda v: v["tasks"][0].update(latency_s=-1.0),
    "a latency that is a text": lambda v: v["tasks"][0].update(latency_s="1"),
    "not a number": lambda v: v["tasks"][0].update(latency_s=math.nan),
    "infinite": lambda v: v["tasks"][0].update(latency_s=math.inf),
    "infinite spread": lambda v: v["tasks"][0].update(spread=math.inf),
    "a number beyond floats": lambda v: v["tasks"][0].update(latency_s=10**400),
    "tile factors of 0": lambda v: v["tasks"][0].update(tile_factors=[0]),
    "losses of another length": lambda v: v["curves"].update(scale=[0.1]),
    "power 0": lambda v: v["curves"].update(power=[0, 0, 0]),
    "accuracy above 1": lambda v: v.update(dense_accuracy=1.5),
    "an absolute floor": lambda v: v.update(floor=0.5),
    "no descriptor": lambda v: v.pop("descriptor"),
    "a descriptor of nothing": lambda v: v.update(descriptor={}),
    "provenance of no object": lambda v: v.update(provenance=[]),
    "groups of no channels": lambda v: v["network"]["groups"][0].update(channels=0),
    "groups of a name too many": lambda v: v["network"]["groups"].append(v["network"]["groups"][0]),
    "an axis of an unknown group": lambda v: v["network"]["subgraphs"][0].update(
        channels_out=[0, [["nobody", 1]]]
    ),
    "an axis that shrinks": lambda v: v["network"]["subgraphs"][0].update(
        channels_out=[0, [["conv0", -1]]]
    ),
    "a group that nobody has": lambda v: v["network"]["subgraphs"][0].update(writes=["nobody"]),
    "a template that pads": lambda v: v["network"]["templates"][0].update(text="{0:999999999999}"),
    "a template that reads attributes": lambda v: v["network"]["templates"][0].update(
        text="{0.__class__}"
    ),
    "a template of too many axes": lambda v: v["network"]["templates"][0].update(text="{7}"),
    "a template of axes without number": lambda v: v["network"]["templates"][0].update(text="{}"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_file_with_a_wrong_value_is_refused(tmp_path: Path, toy: Path, what: str) -> None:
    value = json.loads(gzip.decompress(toy.read_bytes()))
    CHANGES[what](value)
    (tmp_path / "wrong.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match="is no recorded problem"):
        open_recorded(str(tmp_path / "wrong.json"))


def damaged(packed: bytes) -> dict[str, bytes]:
    """Files that are no recording any more, by what was done to them."""
    middle = len(packed) // 2
    return {
        "empty": b"",
        "cut short": packed[:-20],
        "a byte changed": packed[:middle] + bytes([packed[middle] ^ 255]) + packed[middle + 1 :],
        "no text": gzip.compress(b"\xff\xfe"),
        "no object": b"[1, 2]",
        "of somebody else": b'{"name": "package", "version": "1.0"}',
        "nested without end": b"[" * 200_000,
        "a bomb": gzip.compress(bytes(40 << 20)),
        "too large": bytes(33 << 20),
    }


@pytest.mark.parametrize("what", list(damaged(b"1234")))
def test_a_damaged_or_foreign_file_is_refused_and_named(
    tmp_path: Path, toy: Path, what: str
) -> None:
    (tmp_path / "damaged.json.gz").write_bytes(damaged(toy.read_bytes())[what])
    with pytest.raises(DataError, match=r"damaged\.json\.gz' is no recorded problem"):
        open_recorded(str(tmp_path / "damaged.json.gz"))


def test_without_a_seed_a_recording_answers_what_it_holds(toy: Path) -> None:
    opened, network = open_recorded(str(toy)), toy_problem().network
    first, again = opened.latency.measure(network.dense), opened.latency.measure(network.dense)
    assert first == again == opened.latency.predict(network.workloads(network.dense))
    assert opened.latency.spending.fresh_trials == 0
    assert opened.latency.spending.cached_trials == len(
        {w.key for w in network.workloads(network.dense)}
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_a_seed_is_a_device_of_its_own_and_says_what_was_measured(seed: int) -> None:
    problem = toy_problem()
    network = problem.network
    dense = network.workloads(network.dense)
    costs = [
        TaskCost(latency_s=c.latency_s, tile_factors=c.tile_factors, spread=0.1)
        for c in problem.latency.measure(network.dense)
    ]
    tasks = LatencyInterpolator(zip(dense, costs, strict=True))
    still, noisy, twin, other = (
        RecordedLatency(network, tasks, s) for s in (None, seed, seed, seed + 1)
    )
    assert noisy.predict(dense) == still.predict(dense), "a cheap look is no look at a device"
    looked = noisy.measure(network.dense)
    assert looked == twin.measure(network.dense) != other.measure(network.dense)
    assert looked == noisy.predict(dense), "what was looked at is known"
    assert all(c.is_measured for c in looked)
    narrow = noisy.measure(network.uniform(0.5))
    assert [c.is_measured for c in narrow] == [
        w.key in {d.key for d in dense} for w in network.workloads(network.uniform(0.5))
    ]


def test_looks_deviate_by_the_spread_that_was_measured() -> None:
    problem = toy_problem()
    network, dense = problem.network, problem.network.dense
    truth = [
        TaskCost(latency_s=c.latency_s, tile_factors=c.tile_factors, spread=s)
        for c, s in zip(problem.latency.measure(dense), (0.02, 0.2, 0.2, 0.0), strict=True)
    ]
    tasks = LatencyInterpolator(zip(network.workloads(dense), truth, strict=True))
    drawn = np.array(
        [
            [c.latency_s for c in RecordedLatency(network, tasks, seed).measure(dense)]
            for seed in range(400)
        ]
    )
    deviation = np.log(drawn / [c.latency_s for c in truth])
    np.testing.assert_allclose(deviation.std(axis=0), (0.02, 0.2, 0.2, 0.0), rtol=0.15)
    assert abs(deviation.mean(axis=0)).max() < 0.05


def test_interpolated_tasks_deviate_by_the_error_of_the_interpolation(toy: Path) -> None:
    recorded = open_recorded(str(toy)).latency
    assert isinstance(recorded, RecordedLatency)
    error = recorded.interpolator.leave_one_out_error
    again = LatencyInterpolator(recorded.interpolator.measured_tasks())
    assert 0 < error == again.leave_one_out_error < 1
    between = recorded.network.uniform(0.9)
    still = np.array([c.latency_s for c in recorded.measure(between)])
    assert not any(c.is_measured for c in recorded.measure(between)[:3])
    drawn = np.array(
        [
            [
                c.latency_s
                for c in RecordedLatency(recorded.network, recorded.interpolator, seed).measure(
                    between
                )
            ]
            for seed in range(400)
        ]
    )
    np.testing.assert_allclose(np.log(drawn / still)[:, :3].std(axis=0), error, rtol=0.15)


def test_a_task_alone_of_its_kind_says_nothing_of_the_interpolation() -> None:
    problem = toy_problem()
    workload = problem.network.workloads(problem.network.dense)[-1]
    assert LatencyInterpolator([(workload, TaskCost(latency_s=1e-6))]).leave_one_out_error == 0.0
    (lost,) = RecordedLatency(problem.network, LatencyInterpolator()).predict([workload])
    assert lost.error is not None
    assert "no task of this kind" in lost.error


def test_the_environment_with_a_seed_repeats_itself(toy: Path) -> None:
    def latencies(seed: int | None) -> list[float]:
        env, rng = CPruneEnv(open_recorded(str(toy), noise_seed=seed)), np.random.default_rng(0)
        found = [env.reset(seed=0)[1]["latency_s"]]
        for _ in range(4):
            found.append(
                env.step(int(rng.choice(np.flatnonzero(env.action_masks()[:-1]))))[4]["latency_s"]
            )
        return found

    assert latencies(7) == latencies(7)
    assert latencies(7)[0] != latencies(8)[0] != latencies(None)[0]


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("recorded:resnet8", RecordedSpec("resnet8")),
        ("recorded:resnet8@znver4-1t?noise=7", RecordedSpec("resnet8@znver4-1t", 7)),
        ("recorded:/tmp/a b.json.gz?noise=0", RecordedSpec("/tmp/a b.json.gz", 0)),
    ],
)
def test_a_recording_is_a_device_by_name(name: str, spec: RecordedSpec) -> None:
    assert parse_device(name) == spec
    with pytest.raises(ConfigError, match="nothing can be built for it or timed on it"):
        open_device(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("recorded:", "names no recording"),
        ("recorded:x?noise=-1", "noise is '-1'"),
        ("recorded:x?threads=2", "unknown option 'threads'"),
    ],
)
def test_a_recorded_device_with_a_wrong_option_is_a_clear_error(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_device(name)


def test_the_list_of_devices_shows_the_packaged_recordings() -> None:
    from rich.console import Console

    from cprune_rl.cli.device import recorded_table

    console = Console(width=200, record=True)
    console.print(recorded_table())
    text = console.export_text()
    assert all(f"recorded:{name}" in text for name in recorded_names())
    assert describe_recorded().machine.split(",")[0] in text
