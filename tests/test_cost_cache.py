"""The cost cache: the contract's suite, damage, other schemas, two writers at once; and the predictor."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from cprune_rl.contracts import Accuracy, TaskCost
from cprune_rl.cost_cache import SqlStore, default_url, open_store
from cprune_rl.cost_cache.predictor import CostModel, EstimatedCosts
from cprune_rl.errors import StoreError
from cprune_rl.testing import FormulaCosts, check_cost_store, toy_network


def test_sqlite_passes_the_conformance_suite(tmp_path: Path) -> None:
    check_cost_store(lambda: open_store(f"sqlite:///{tmp_path}/new/costs.db"))


def test_memory_passes_the_conformance_suite() -> None:
    store = SqlStore("sqlite://")

    class Kept(SqlStore):
        """The same memory each time: what is closed there is gone, so nothing closes it."""

        def __init__(self) -> None:
            self._engine, self._url = store._engine, "sqlite://"

        def close(self) -> None:
            pass

    check_cost_store(Kept)
    store.close()


def test_a_store_is_taken_as_it_is() -> None:
    store = open_store(None)
    assert open_store(store) is store
    store.close()


def test_the_environment_variable_names_the_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPRUNE_RL_STORAGE", "sqlite:///elsewhere.db")
    assert default_url() == "sqlite:///elsewhere.db"


def test_a_corrupt_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "costs.db"
    path.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(StoreError, match="damaged"):
        open_store(f"sqlite:///{path}")
    assert path.read_bytes().startswith(b"this is no database")


def test_another_schema_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/costs.db"
    open_store(url).close()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE meta SET value = '99'"))
    engine.dispose()
    with pytest.raises(StoreError, match="schema 99"):
        open_store(url)


def test_tables_of_another_program_are_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/other.db"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE invoices (id INTEGER)"))
    engine.dispose()
    with pytest.raises(StoreError, match="another program"):
        open_store(url)


@pytest.mark.parametrize("url", ["postgresql://nowhere/db", "not a url", "sqlite:////proc/none/costs.db"])
def test_a_storage_that_cannot_be_opened_says_what_to_write(url: str) -> None:
    with pytest.raises(StoreError, match="sqlite:///"):
        open_store(url)


def test_a_full_disk_is_an_error_of_ours_and_loses_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/costs.db"
    store = SqlStore(url)
    store.put_accuracy("kept", Accuracy(0.5))
    sa.event.listen(store._engine, "connect", lambda c, _: c.execute("PRAGMA max_page_count = 1"))
    store._engine.dispose()  # the next connection may not grow the file: what SQLite reports is a full disk
    with pytest.raises(StoreError, match="disk is full"):
        store.put_accuracy("k" * 1_000_000, Accuracy(0.5))
    store.close()
    again = open_store(url)
    assert again.accuracy("kept") is not None
    again.close()


_WRITER = """
import sys
from cprune_rl.contracts import Measurement
from cprune_rl.cost_cache import StoredTrial, open_store
store = open_store(sys.argv[1])
for i in range(60):
    store.add_trials("c", [StoredTrial("conv", f"{sys.argv[2]}-{i}", "[]", Measurement((1.0 + i,)))])
store.close()
"""


def test_two_runs_write_one_cache_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/costs.db"
    writers = [subprocess.Popen([sys.executable, "-c", _WRITER, url, name]) for name in "ab"]
    assert [w.wait(60) for w in writers] == [0, 0]
    store = open_store(url)
    assert len(store.trials("c", "conv")) == 120
    store.close()


def test_the_model_gives_back_what_was_measured_and_interpolates_between() -> None:
    network = toy_network((64, 64, 64))
    costs = FormulaCosts(network)
    model = CostModel()
    for ratio in (1.0, 0.75, 0.5, 0.25):
        plan = network.uniform(ratio)
        for workload, cost in zip(network.workloads(plan), costs.measure(plan), strict=True):
            model.learn(workload, cost)
    dense = network.workloads(network.dense)
    assert [model.predict(w) for w in dense] == costs.measure(network.dense)
    between = network.uniform(0.625)
    for workload, true in zip(network.workloads(between), costs.measure(between), strict=True):
        predicted = model.predict(workload)
        assert not predicted.is_measured
        assert predicted.latency_s == pytest.approx(true.latency_s, rel=0.15)


def test_a_failed_task_teaches_the_model_nothing() -> None:
    network = toy_network()
    workload = network.workloads(network.dense)[0]
    model = CostModel([(workload, TaskCost(math.inf, error="crashed"))])
    assert model.known == {}
    assert math.isinf(model.predict(workload).latency_s)


def test_an_estimate_becomes_a_measurement_once_it_was_looked_at() -> None:
    network = toy_network()
    source = FormulaCosts(network)
    model = CostModel(zip(network.workloads(network.dense), source.measure(network.dense), strict=True))
    costs = EstimatedCosts(network, source, model)
    narrow = network.workloads(network.uniform(0.5))
    assert not any(c.is_measured for c in costs.predict(narrow)[:3])
    measured = costs.measure(network.uniform(0.5))
    assert costs.predict(narrow) == measured
    assert [replace(c, is_measured=True) for c in measured] == measured
