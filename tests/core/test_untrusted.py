"""What a damaged or hostile file is refused for, in one line."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from cprune_rl.core.untrusted import DAMAGED, damage, number, read_json, read_yaml, whole
from cprune_rl.errors import DataError


def short(value: object) -> str:
    """Name a value; Python writes no whole number of 5,000 digits."""
    return "huge" if isinstance(value, int) and value > 10**100 else repr(value)


def refusal(read: Callable[[Path], object], path: Path) -> str:
    """Say in one line why a file was refused."""
    try:
        read(path)
    except (OSError, ValueError) as error:
        line = damage(error)
        assert line.isprintable()
        return line
    raise AssertionError("it was read")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[1, NaN]", "it holds NaN, which is no number"),
        (b"[1, 1e999]", "1e999, which is larger than any number here"),
        (b"[" * 100_000, "nested too deep"),
        (b"9" * 5000, "integer"),
        (b"", "Expecting value"),
        (b"\xff\xfe\x00", "can't decode"),
    ],
)
def test_json_that_is_none_is_refused(tmp_path: Path, text: bytes, reason: str) -> None:
    (tmp_path / "a.json").write_bytes(text)
    assert reason in refusal(read_json, tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &a [x]\nb: [*a, *a]", "it has an alias"),
        ("a: " + "[" * 200, "nested too deep"),
        ("a: !!timestamp x", "not what its tag says"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("a: 2001-99-99", "month must be in 1..12"),
        ("? {a: b}\n: c", "unhashable key"),
        ("a: [", "expected the node content"),
    ],
)
def test_yaml_with_more_than_plain_values_is_refused(
    tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert reason in refusal(read_yaml, tmp_path / "a.yaml")


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    for path, reason in ((tmp_path, "is a directory"), (tmp_path / "a", "no such file")):
        assert reason in refusal(read_json, path)


@pytest.mark.parametrize("value", [True, "1", None, 0, 10**18, 1 << 20000, 1.0], ids=short)
def test_a_size_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="it must be a whole number from 1 to 100"):
        whole(value, "size", 1, 100)
    assert whole(100, "size", 1, 100) == 100


@pytest.mark.parametrize("value", [True, "1", None, -1, math.inf, math.nan, 1 << 20000], ids=short)
def test_a_number_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="it must be a number from 0 to 2"):
        number(value, "share", 0, 2)
    assert number(2, "share", 0, 2) == 2.0


def test_a_strangers_text_moves_no_cursor() -> None:
    assert damage(KeyError("\x1b[31m")) == r"it has no '\x1b[31m'"
    assert damage(ValueError("a\x1b[31mb")) == "a?[31mb"
    assert issubclass(DataError, DAMAGED)
