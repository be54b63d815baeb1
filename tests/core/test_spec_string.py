"""Names with options: devices and data sets are named alike."""

from __future__ import annotations

import pytest

from cprune_rl.core.spec_string import SpecString
from cprune_rl.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("local", ("local", "", {})),
        ("local?threads=2&mcpu=haswell", ("local", "", {"threads": "2", "mcpu": "haswell"})),
        ("rpc://host:9190/key", ("rpc", "//host:9190/key", {})),
        ("npz:a b.npz?seed=3&", ("npz", "a b.npz", {"seed": "3"})),
        ("npz:x?std=0.1,0.2&mean", ("npz", "x", {"std": "0.1,0.2", "mean": ""})),
        ("my/data.py:make?seed=1", ("my/data.py:make", "", {"seed": "1"})),
        ("rpc://h/k?cc=g%2B%2B&target=a=b", ("rpc", "//h/k", {"cc": "g++", "target": "a=b"})),
        ("", ("", "", {})),
    ],
)
def test_a_name_is_split_into_kind_argument_and_options(
    name: str, parts: tuple[str, str, dict[str, str]]
) -> None:
    spec = SpecString.from_name("data", name)
    assert (spec.kind, spec.argument, spec.options) == parts
    assert spec.name == name


@pytest.mark.parametrize(
    ("name", "known", "message"),
    [
        ("local?b=1&a=2", ("c", "d"), "device 'local?b=1&a=2': unknown option 'a'. Known: c, d."),
        ("local?a=1", (), "device 'local?a=1': unknown option 'a'. Known: none."),
        ("local?b=&a", ("a", "b"), "device 'local?b=&a': option 'a' has no value"),
    ],
)
def test_an_option_that_is_unknown_or_empty_is_named(
    name: str, known: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        SpecString.from_name("device", name).check_options(known)
    assert str(caught.value) == message


def test_options_that_are_known_and_given_pass() -> None:
    SpecString.from_name("device", "local?threads=2").check_options(("mcpu", "threads"))
