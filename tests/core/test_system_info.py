"""The command and the machine that a file comes from."""

import json
import sys

import pytest

from cprune_rl.core.system_info import command_line, describe_system, processor_name


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("/home/ann/bench.json", "bench.json"),
        ("--json=/home/ann/bench.json", "--json=bench.json"),
        ("npz:/home/ann/mine.npz?seed=1", "npz:mine.npz?seed=1"),
        ("~/nets/mynet.py:build", "mynet.py:build"),
        ("docs/results/figures.json", "docs/results/figures.json"),
        ("sqlite:////home/ann/costs.db", "sqlite:///costs.db"),
        ("sqlite:///costs.db", "sqlite:///costs.db"),
        (
            "postgresql+psycopg://ann:secret@host:5432/costs",
            "postgresql+psycopg://ann@host:5432/costs",
        ),
        ("rpc://10.0.0.1:9190/pi4?threads=2", "rpc://10.0.0.1:9190/pi4?threads=2"),
        ("local?threads=2", "local?threads=2"),
    ],
)
def test_a_command_is_written_without_folders_and_passwords(
    monkeypatch: pytest.MonkeyPatch, given: str, written: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["/home/ann/measurement.py", "--only", given])
    assert command_line().replace("'", "") == f"measurement.py --only {written}"


def test_a_machine_is_described_in_plain_values() -> None:
    system = describe_system()
    assert json.loads(json.dumps(system)) == system
    assert system["processor"] == processor_name() != ""
    assert system["packages"]["numpy"][0].isdigit()
