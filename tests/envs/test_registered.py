"""The registered environments: Gymnasium's and SB3's checks, and what their docstrings say."""

from __future__ import annotations

import doctest
import importlib
import re
import warnings

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_sb3_env

import cprune_rl  # noqa: F401  # registers the environments
from cprune_rl.envs.actions.scheme_actions import SchemeActions
from cprune_rl.envs.cprune_env import MAX_EPISODE_STEPS, RESET_OPTIONS, CPruneEnv
from cprune_rl.envs.evaluations import EVALUATION_COLUMNS, EvaluationsEnv
from cprune_rl.envs.observation import FEATURES, features
from cprune_rl.envs.scheme_mapping import SchemeMappingEnv
from cprune_rl.testing import toy_problem

IDS = sorted(name for name in gymnasium.registry if name.startswith("cprune_rl/"))
SECTIONS = (
    "Description",
    "Observation Space",
    "Action Space",
    "Rewards",
    "Starting State",
    "Episode End",
    "Info",
    "Arguments",
    "Version History",
)


def test_there_are_five() -> None:
    assert [name.partition("/")[2] for name in IDS] == [
        "CPrune-v0",
        "CPruneRecorded-v0",
        "Evaluations-v0",
        "SchemeMapping-v0",
        "SchemeMappingRecorded-v0",
    ]


@pytest.mark.parametrize("name", IDS)
def test_gymnasium_and_sb3_accept_the_environment(name: str) -> None:
    problem = "resnet8@znver4-1t" if name.endswith("Evaluations-v0") else toy_problem()
    env = gymnasium.make(name, problem=problem, max_rows=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on box bounds, not errors
        check_env(env.unwrapped)
        check_sb3_env(env.unwrapped)


@pytest.mark.parametrize("name", IDS)
def test_the_registered_number_of_steps_is_the_environments_own(name: str) -> None:
    assert gymnasium.spec(name).max_episode_steps == MAX_EPISODE_STEPS


def docstring(spec: EnvSpec) -> str:
    assert isinstance(spec.entry_point, str)
    module, _, name = spec.entry_point.partition(":")
    return str(getattr(importlib.import_module(module), name).__doc__)


@pytest.mark.parametrize("name", IDS)
def test_every_entry_point_has_the_text_of_its_page(name: str) -> None:
    text = docstring(gymnasium.spec(name))
    sections = re.findall(r"^ *## (.+)$", text, re.MULTILINE)
    if gymnasium.spec(name).nondeterministic:
        assert sections == ["Description", "Arguments", "Version History"]
    else:
        assert [section for section in sections if section in SECTIONS] == list(SECTIONS)


def documented_columns(env: type[gymnasium.Env]) -> list[tuple[int, int, str]]:
    """First and last column, and name, of each row of the docstring's table."""
    rows = re.findall(r"\| (\d+)(?:-(\d+))? \| (?:`(.+?)`|as .*?) \|", str(env.__doc__))
    return [(int(first), int(last or first), name) for first, last, name in rows]


@pytest.mark.parametrize(
    ("env", "names"),
    [
        (CPruneEnv, FEATURES),
        (SchemeMappingEnv, features(SchemeActions())),
        (EvaluationsEnv, EVALUATION_COLUMNS),
    ],
)
def test_the_table_of_columns_is_that_of_the_observation(
    env: type[gymnasium.Env], names: tuple[str, ...]
) -> None:
    columns = documented_columns(env)
    assert [first for first, _, _ in columns[1:]] == [last + 1 for _, last, _ in columns[:-1]]
    assert (columns[0][0], columns[-1][1]) == (0, len(names) - 1)
    for first, last, name in columns:
        described = {n for n in names[first : last + 1] if n.startswith(name.rstrip("*"))}
        assert len(described) == last - first + 1
    assert f"(max_rows, {len(names)})" in str(env.__doc__)


def test_the_page_names_every_key_of_info_and_every_option_of_reset() -> None:
    env = CPruneEnv(toy_problem(), max_rows=8)
    _, info = env.reset(seed=0)
    keys = set(info)
    for action in (0, int(env.action_masks().argmin()), env.stop_action):
        *_, info = env.step(action)
        keys |= set(info)
    documented = set(re.findall(r"\| `(\w+)` \|", str(CPruneEnv.__doc__)))
    assert keys <= documented
    assert set(RESET_OPTIONS) <= documented


@pytest.mark.parametrize("module", ["cprune_env", "evaluations", "vector_env", "wrappers"])
def test_examples_in_docstrings_run(module: str) -> None:
    loaded = importlib.import_module(f"cprune_rl.envs.{module}")
    result = doctest.testmod(loaded)
    assert result.attempted > 0
    assert result.failed == 0
