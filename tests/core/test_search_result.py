"""What a search found, and its file."""

import json
import math
import warnings

import pytest

from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import AcceptedPlan, SearchResult, SearchStep, current_method


def make_result() -> SearchResult:
    dense, narrow = Plan((8, 8)), Plan((8, 4), (("conv", "block(4,0.25)"),))
    step = SearchStep(
        plan=narrow,
        what="conv x1",
        latency_s=2.0,
        accuracy=0.9,
        accepted=True,
        why="score +1",
        standard_error=0.01,
    )
    return SearchResult(
        method="mdp",
        accepted=(AcceptedPlan(dense, 4.0, 0.95), AcceptedPlan(narrow, 2.0, 0.9)),
        history=(step, SearchStep(plan=dense, what="crashed", latency_s=math.inf)),
        cost={"fresh_trials": 3.0},
    )


def test_the_file_holds_all_that_was_found() -> None:
    result = make_result()
    text = json.dumps(result.to_json(), allow_nan=False)
    assert SearchResult.from_json(json.loads(text)) == result
    assert result.best.latency_s == 2.0


def test_a_file_of_0_2_opens_under_the_methods_new_name() -> None:
    step = {"plan": [4], "what": "conv x1", "latency_s": None, "accuracy": None, "accepted": False}
    value = {"method": "greedy", "accepted": [], "history": [step], "cost": {}}
    result = SearchResult.from_json(value)
    assert result.method == "cprune"
    (read,) = result.history
    assert read == SearchStep(plan=Plan((4,)), what="conv x1", latency_s=math.inf)


def test_who_asks_for_an_old_name_is_told_the_new_one() -> None:
    with pytest.warns(FutureWarning, match="'greedy' is now called 'cprune'"):
        assert current_method("greedy", warns=True) == "cprune"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert current_method("mdp", warns=True) == "mdp"
