"""The cost cache: the conformance suite, damage, other schemas, two writers at once."""

import resource
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import sqlalchemy as sa

from cprune_rl.core.protocols import Accuracy
from cprune_rl.core.workload import OperatorKind, Workload
from cprune_rl.cost_cache import Provenance, SqlStore, default_url, open_store
from cprune_rl.errors import StoreError
from cprune_rl.testing import check_cost_store
from tests.doubles.stored_trials import trial


def test_a_database_passes_the_conformance_suite(storage: str) -> None:
    check_cost_store(lambda: open_store(storage))


def test_memory_passes_the_conformance_suite() -> None:
    check_cost_store(lambda: open_store(None), is_kept=False)


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


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://127.0.0.1:1/db",
        "mysql://127.0.0.1/db",
        "no-such://127.0.0.1/db",
        "not a url",
        "sqlite:////proc/none/costs.db",
    ],
)
def test_a_storage_that_cannot_be_opened_says_what_to_write(url: str) -> None:
    with pytest.raises(StoreError, match="sqlite:///"):
        open_store(url)


def test_a_full_disk_is_an_error_of_ours_and_loses_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/costs.db"
    store = SqlStore(url)
    store.put_accuracy("kept", Accuracy(value=0.5))
    # The next connection may not grow the file, which SQLite reports as a full disk.
    sa.event.listen(
        store.database.engine, "connect", lambda c, _: c.execute("PRAGMA max_page_count = 1")
    )
    store.database.engine.dispose()
    with pytest.raises(StoreError, match="disk is full"):
        store.put_accuracy("k" * 1_000_000, Accuracy(value=0.5))
    store.close()
    again = open_store(url)
    assert again.accuracy("kept") is not None
    again.close()


def test_a_disk_without_shared_memory_maps_is_told_with_the_remedy(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/costs.db"
    open_store(url).close()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))  # SQLite's map cannot be made
    try:
        with pytest.raises(StoreError, match=r"I/O error\. Its disk.*--storage sqlite:///FILE"):
            open_store(url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_password_is_in_no_message() -> None:
    with pytest.raises(StoreError, match="sqlite:///") as caught:
        open_store("postgresql+psycopg://me:secret@127.0.0.1:1/db")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@host:port/db",
        "postgresql://me:secret",
        "postgresql:/me:secret@host/db",
        "sqlite:/me:secret@costs.db",
    ],
)
def test_a_url_that_cannot_be_read_is_not_shown_with_its_password(url: str) -> None:
    with pytest.raises(StoreError, match="is no storage URL") as caught:
        open_store(url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


_OPENER = """
import sys
from cprune_rl.cost_cache import open_store
from tests.doubles.stored_trials import trial
print("ready", flush=True)
sys.stdin.readline()
store = open_store(sys.argv[1])
for i in range(20):
    store.add_trials("c", [trial("conv", f"{sys.argv[2]}-{i}", 1.0 + i)])
store.close()
"""


def test_processes_open_an_empty_storage_at_once_and_write_it(storage: str) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writers = [
        subprocess.Popen([sys.executable, "-c", _OPENER, storage, name], **pipes) for name in "abcd"
    ]  # type: ignore[call-overload]
    assert [w.stdout.readline() for w in writers] == ["ready\n"] * 4
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
    assert [w.returncode for w in writers] == [0] * 4
    store = open_store(storage)
    assert len(store.trials("c", "conv")) == 80
    store.close()


def test_the_fastest_of_many_workloads_are_found_in_one_query() -> None:
    store = SqlStore("sqlite://")
    workloads = [
        Workload(
            key=f"conv{i}",
            family=f"family{i % 2}",
            channels_in=i,
            channels_out=i,
            macs=i,
            operator=OperatorKind(name="conv2d"),
        )
        for i in range(1, 41)
    ]
    store.describe(workloads)
    store.add_trials(
        "c", [trial(w.key, f"p{number}", number) for w in workloads for number in (3, 1, 2)]
    )
    statements: list[str] = []
    sa.event.listen(
        store.database.engine,
        "before_cursor_execute",
        lambda _c, _k, statement, *_: statements.append(statement),
    )
    assert [(w, t.trace_digest) for w, t in store.fastest("c")] == [
        (w, "p1") for w in sorted(workloads, key=lambda w: w.key)
    ]
    assert len(store.fastest("c", "family1")) == 20
    assert len([s for s in statements if not s.startswith("BEGIN")]) == 2
    store.close()


def test_a_trial_says_who_measured_it_and_when() -> None:
    store = SqlStore("sqlite://")
    who = Provenance(version="0.0.9", processor="a 6502", os="none", python="2.7")
    mine = trial("conv", "a", 1.0)
    given = trial("conv", "b", 2.0, provenance=who, created=17.0)
    store.add_trials("c", [mine, given])
    first, second = store.trials("c", "conv")
    assert first.provenance == Provenance.here()
    assert (second.provenance, second.created) == (who, 17.0)
    store.close()
