"""Problems with schemes: kept in recordings, drawn for training, replayed and compared."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from cprune_rl.agents.core.budget_guard import search_within
from cprune_rl.agents.core.searcher import Budget, parse_budget
from cprune_rl.agents.planner.surrogate import SurrogateSettings
from cprune_rl.agents.schemes.rule import MappingRule
from cprune_rl.agents.schemes.search import MappingSearch
from cprune_rl.comparison.cases import make_cases
from cprune_rl.comparison.records import RunRecord
from cprune_rl.comparison.runner import Experiment, run_experiment
from cprune_rl.comparison.validation import check_record
from cprune_rl.envs.actions.scheme_actions import scheme_plans
from cprune_rl.envs.problems.registry import (
    add_problem,
    has_schemes,
    open_recorded,
    read_recording,
    save_recorded,
)
from cprune_rl.errors import ConfigError, DataError
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.testing import AnalyticLatency, toy_network, toy_problem

NAME = "toy@formula"


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recording of the toy problem, with schemes, among the user's own."""
    monkeypatch.setenv("CPRUNE_RL_PROBLEMS", str(tmp_path / "problems"))
    problem = toy_problem()
    known = {}
    for plan in (
        problem.network.dense,
        problem.network.uniform(0.5),
        *(p for d in (0.5, 0.25, 0.0625) for p in scheme_plans(problem.network, d)),
    ):
        known |= {
            w.key: (w, c)
            for w, c in zip(
                problem.network.workloads(plan), problem.latency.measure(plan), strict=True
            )
        }
    save_recorded(
        tmp_path / f"{NAME}.json",
        problem,
        list(known.values()),
        {"device": "formula"},
    )
    return add_problem(tmp_path / f"{NAME}.json")


def test_a_recording_keeps_what_layers_lose(recorded: str) -> None:
    assert has_schemes(recorded)
    assert not has_schemes("resnet8@znver4-1t")
    found = read_recording(recorded)
    np.testing.assert_array_equal(
        found.loss_model.layer_scale, toy_problem().loss_model.layer_scale
    )
    assert found.network == toy_network()
    env = gymnasium.make("cprune_rl/SchemeMappingRecorded-v0", problem=recorded, max_rows=8)
    env.reset(seed=0)
    assert env.unwrapped.action_masks().sum() > 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("layers", [[1.0], [1.0, -1.0], [1.0, "x"], 3])
def test_what_is_no_loss_of_layers_is_refused(
    recorded: str, tmp_path: Path, layers: object
) -> None:
    value = json.loads((tmp_path / f"{NAME}.json").read_text())
    value["curves"]["layers"] = layers
    (tmp_path / "bad.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match="no recorded problem"):
        open_recorded(str(tmp_path / "bad.json"))


def test_a_strangers_template_of_kernels_is_looked_at(recorded: str, tmp_path: Path) -> None:
    value = json.loads((tmp_path / f"{NAME}.json").read_text())
    block_sparse = next(s["blocked"] for s in value["network"]["subgraphs"] if "blocked" in s)
    value["network"]["templates"].append(
        {**value["network"]["templates"][0], "text": "{0.__class__}"}
    )
    block_sparse["of_kernels"] = len(value["network"]["templates"]) - 1
    (tmp_path / "bad.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match="template has the field"):
        open_recorded(str(tmp_path / "bad.json"))


@pytest.mark.parametrize("drop", [0.005, 0.02])
def test_a_search_is_never_slower_than_the_rule_that_it_begins_with(drop: float) -> None:
    rule, search = (
        MappingRule().search(toy_problem(drop=drop), Budget()),
        MappingSearch(None, SurrogateSettings(turns=1)).search(toy_problem(drop=drop), Budget()),
    )
    assert search.best.latency_s <= rule.best.latency_s < rule.accepted[0].latency_s
    assert {a.plan for a in rule.accepted} <= {a.plan for a in search.accepted}


@pytest.mark.slow
def test_mappings_are_compared_on_recordings_that_have_schemes(
    recorded: str, tmp_path: Path
) -> None:
    folder = tmp_path / "comparison"
    methods = ("uniform", "mapping-rule", "mapping-rounds")
    cases = make_cases([f"{recorded}:-0.02", "resnet8@znver4-1t:-0.01"], [0])
    run_experiment(
        Experiment(
            folder=folder,
            cases=tuple(cases),
            methods=methods,
            budget=parse_budget("trials=20000,evaluations=30"),
            n_jobs=1,
            timesteps=1000,
            own_timesteps=1000,
        ),
        ProgressLog(),
    )
    rows = {
        (r.method, r.problem): r
        for path in (folder / "rows").glob("*.json")
        for r in [RunRecord.from_json(path.read_text())]
    }
    assert {method for method, problem in rows if problem == "resnet8@znver4-1t"} == {"uniform"}, (
        "a recording without schemes has nothing to map"
    )
    assert {method for method, problem in rows if problem == recorded} == set(methods)
    mapped = rows["mapping-rounds", recorded]
    assert mapped.error is None
    assert mapped.schemes
    assert mapped.latency_s <= mapped.dense_s
    for path in (folder / "rows").glob("*mapping*.json"):
        assert [c for c in check_record(path) if c.passed is False] == []
    with pytest.raises(ConfigError, match="recorded with schemes"):
        run_experiment(
            Experiment(
                folder=tmp_path / "none",
                cases=tuple(make_cases(["resnet8@znver4-1t:-0.01"], [0])),
                methods=("mapping-rule",),
                n_jobs=1,
            ),
            ProgressLog(),
        )


def test_a_budget_of_evaluations_is_shared_with_the_rule() -> None:
    problem = toy_problem()
    found, _ = search_within(
        MappingSearch(None, SurrogateSettings(turns=1)), problem, Budget(accuracy_evaluations=8)
    )
    assert found.cost["accuracy_evaluations"] <= 8
    assert any(step.what.startswith("turn") for step in found.history), "the search has its part"
    assert isinstance(problem.latency, AnalyticLatency)
