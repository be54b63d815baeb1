"""The one list of methods."""

import subprocess
import sys

import pytest

from cprune_rl.agents.registry import (
    METHODS,
    POLICY_KINDS,
    check_run_methods,
    compared_methods,
    make_searcher,
)
from cprune_rl.errors import ConfigError, UnknownNameError
from cprune_rl.testing import toy_problem

TRUTH = toy_problem().loss_model
WITHOUT_POLICY = [name for name, method in METHODS.items() if method.policy is None]


def test_reading_the_list_loads_neither_torch_nor_a_solver() -> None:
    code = (
        "import sys, cprune_rl.agents.registry as r; r.compared_methods(); "
        "print([m for m in ('torch', 'stable_baselines3', 'optuna', 'scipy') if m in sys.modules])"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.strip() == "[]"


@pytest.mark.parametrize("name", WITHOUT_POLICY)
def test_a_method_without_a_policy_is_made_under_its_own_name(name: str) -> None:
    assert make_searcher(name, seed=3, truth=TRUTH).name == name


@pytest.mark.parametrize("name", [n for n in compared_methods() if n not in WITHOUT_POLICY])
def test_a_method_is_made_with_the_policy_of_its_kind(name: str) -> None:
    assert METHODS[name].policy in POLICY_KINDS
    assert callable(make_searcher(name, seed=0, policy=None).search)


def test_runs_have_methods_that_know_nothing_a_run_does_not() -> None:
    check_run_methods(["mdp", "agent"], has_schemes=False)
    check_run_methods(["channels-then-rule"], has_schemes=True)
    for name in ("exact", "ppo", "agent-macs"):
        with pytest.raises(ConfigError, match="no true losses"):
            check_run_methods([name], has_schemes=True)
    with pytest.raises(UnknownNameError, match="mdp"):
        check_run_methods(["mpd"], has_schemes=False)
    assert "channels-then-rule" not in compared_methods()
