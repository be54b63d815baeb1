"""Frozen files of every released schema open, or are upgraded with every row or not at all."""

import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from cprune_rl.cost_cache import Provenance, SqlStore, open_store
from cprune_rl.cost_cache.engine import Database
from cprune_rl.cost_cache.maintenance import find_damage
from cprune_rl.cost_cache.tables import METADATA, SCHEMA_VERSION
from cprune_rl.cost_cache.upgrade import migrate, upgrade
from cprune_rl.errors import StoreError
from tests.doubles.local_postgres import LocalPostgres

FROZEN = Path(__file__).parents[1] / "data"


@pytest.fixture(params=[f"costs-schema{n}.db" for n in range(1, SCHEMA_VERSION + 1)])
def frozen(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a frozen file, each schema in turn."""
    return Path(shutil.copy(FROZEN / request.param, tmp_path / "costs.db"))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the frozen file of 0.1.0."""
    return Path(shutil.copy(FROZEN / "costs-schema1.db", tmp_path / "costs.db"))


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def shape(database: Database) -> list[tuple[str, str]]:
    """Every table and index as SQLite wrote it down, without its quotes and line breaks."""
    with database.reading() as connection:
        definitions = connection.exec_driver_sql(
            "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"
        ).all()
    return sorted((name, "".join(sql.split()).replace('"', "")) for name, sql in definitions)


def differences(database: Database) -> list[object]:
    """What Alembic would change to bring a database to this version's tables."""
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, METADATA))


def test_every_released_schema_keeps_its_rows(frozen: Path) -> None:
    url = f"sqlite:///{frozen}"
    upgrade(url)
    store = SqlStore(url)
    summaries = store.contexts()
    assert len(summaries) == 2
    assert {s.n_failures for s in summaries} == {2}
    for summary in summaries:
        for workload in ("conv2d|1x16x8x8,32x16x3x3->1x32x8x8", "dense|1x64,10x64->1x10"):
            trials = store.trials(summary.context, workload)
            assert [t.measurement.latency_s for t in trials] == pytest.approx(
                [6e-5, 4e-4, 6e-4, 8e-4, float("inf")]
            )
            assert trials[-1].measurement.error == "crashed: signal 11"
            tuning = store.tuned(summary.context, workload, "dense:random=5:seed=0")
            assert tuning is not None
            assert set(tuning.trace_digests) == {t.trace_digest for t in trials}
            assert tuning.seconds == 12.5
    assert rows(frozen, "SELECT count(*), max(value) FROM accuracies") == [(3, 0.9)]
    assert find_damage(store.database) == []
    store.close()


def test_the_upgrade_leaves_a_copy_of_the_file_as_it_was(old: Path) -> None:
    before = rows(old, "SELECT * FROM trials")
    done = upgrade(f"sqlite:///{old}")
    assert (done.before, done.after) == (1, SCHEMA_VERSION)
    assert done.backup is not None
    assert rows(done.backup, "SELECT * FROM trials") == before
    assert upgrade(f"sqlite:///{old}").backup is None
    store = open_store(f"sqlite:///{old}")
    trial = store.trials(str(before[0][1]), str(before[0][2]))[0]
    assert trial.provenance == Provenance(
        version="0.1.0", processor="unknown", os="unknown", python="unknown"
    )
    store.close()


def test_an_older_schema_is_refused_with_the_command_that_upgrades_it(old: Path) -> None:
    with pytest.raises(
        StoreError, match=f"schema 1.*cprune-rl cache upgrade --storage sqlite:///{old}"
    ):
        open_store(f"sqlite:///{old}")


def test_a_newer_schema_and_another_program_are_not_upgraded(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/costs.db"
    open_store(url).close()
    connection = sqlite3.connect(tmp_path / "costs.db", isolation_level=None)
    connection.execute("UPDATE meta SET value = '99'")
    with pytest.raises(StoreError, match="newer"):
        open_store(url)
    with pytest.raises(StoreError, match="newer"):
        upgrade(url)
    connection.execute("DROP TABLE trials")
    with pytest.raises(StoreError, match="another program"):
        upgrade(url)
    connection.close()


def test_a_migrated_database_has_the_tables_of_a_new_one(old: Path, tmp_path: Path) -> None:
    upgrade(f"sqlite:///{old}")
    migrated, fresh = Database(f"sqlite:///{old}"), Database(f"sqlite:///{tmp_path}/fresh.db")
    assert shape(migrated) == shape(fresh)
    for database in (migrated, fresh):
        assert differences(database) == []
        database.close()


def test_the_frozen_file_of_this_schema_has_the_tables_of_a_new_database(tmp_path: Path) -> None:
    name = f"costs-schema{SCHEMA_VERSION}.db"
    frozen = Database(f"sqlite:///{shutil.copy(FROZEN / name, tmp_path)}")
    fresh = Database("sqlite://")
    assert shape(frozen) == shape(fresh), (
        "tables that change need a new SCHEMA_VERSION, a script and a frozen file"
    )
    frozen.close()
    fresh.close()


def test_a_server_is_migrated_from_nothing_through_every_schema(postgres: LocalPostgres) -> None:
    url = postgres.new_database()
    database = Database(url, create=False, check=False)
    with database.writing(alone=True) as connection:
        migrate(connection, None, 1)
        connection.execute(sa.text("INSERT INTO programs VALUES ('p', '[]')"))
        connection.execute(
            sa.text("INSERT INTO trials VALUES (7, 'c', 'conv', 'p', '[2.0, 1.0]', NULL, 0, 1)")
        )
    with pytest.raises(StoreError, match="cache upgrade"):
        open_store(url)
    assert upgrade(url).before == 1
    store = SqlStore(url)
    (trial,) = store.trials("c", "conv")
    store.add_trials("c", [trial])
    assert store.trials("c", "conv") == [trial]
    assert differences(store.database) == []
    assert find_damage(store.database) == []
    store.close()
    database.close()


_KILLED = """
import os, signal, sys
import sqlalchemy as sa
from cprune_rl.cost_cache.upgrade import upgrade
@sa.event.listens_for(sa.Engine, "before_cursor_execute")
def kill(_c, _k, statement, *_):
    if sys.argv[2] in statement:
        os.kill(os.getpid(), signal.SIGKILL)
upgrade(sys.argv[1])
"""


@pytest.mark.parametrize(
    "moment", ["INSERT INTO trials", "DROP TABLE tunings_1", "UPDATE alembic_version"]
)
def test_an_upgrade_killed_in_the_middle_leaves_the_old_schema_whole(
    old: Path, moment: str
) -> None:
    before = [
        rows(old, f"SELECT * FROM {table}") for table in ("trials", "tunings", "programs", "meta")
    ]
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, f"sqlite:///{old}", moment], check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    assert [
        rows(old, f"SELECT * FROM {table}") for table in ("trials", "tunings", "programs", "meta")
    ] == before
    assert rows(old, "SELECT name FROM sqlite_master WHERE name LIKE 'contexts%'") == []
    assert upgrade(f"sqlite:///{old}").before == 1, "and it can be done again"
    open_store(f"sqlite:///{old}").close()


def test_an_upgrade_that_fails_leaves_the_old_schema_whole(old: Path) -> None:
    connection = sqlite3.connect(old, isolation_level=None)
    connection.execute("UPDATE trials SET program = 'gone' WHERE id = 3")
    before = connection.execute("SELECT * FROM trials").fetchall()
    with pytest.raises(StoreError, match="FOREIGN KEY"):
        upgrade(f"sqlite:///{old}")
    assert connection.execute("SELECT * FROM trials").fetchall() == before
    connection.close()
