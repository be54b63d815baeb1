"""Errors say what would have worked."""

import pytest

from cprune_rl import errors
from cprune_rl.errors import ConfigError, CPruneError, UnknownNameError


def test_an_unknown_name_comes_with_the_nearest_one_and_all_others() -> None:
    error = UnknownNameError("model", "resnet9", ["vgg", "resnet8"])
    assert str(error) == ("unknown model 'resnet9'. Did you mean 'resnet8'? Known: resnet8, vgg.")
    assert isinstance(error, (ConfigError, CPruneError, ValueError))


def test_a_message_does_not_list_hundreds_of_names() -> None:
    message = str(UnknownNameError("model", "x", [f"name{i:03}" for i in range(100)]))
    assert message.endswith("name039 and 60 more.")
    assert "Did you mean" not in message


@pytest.mark.parametrize("name", ["ConfigError", "DataError", "DeviceError", "BudgetSpentError"])
def test_every_error_is_ours_and_a_builtin_one(name: str) -> None:
    assert name in errors.__all__
    bases = getattr(errors, name).__mro__
    assert CPruneError in bases
    assert ValueError in bases or RuntimeError in bases
