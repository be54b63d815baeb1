"""The cost store on SQLAlchemy: in memory, or a SQLite file that many processes share."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from platformdirs import user_cache_path
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import StaticPool

from cprune_rl.contracts import Accuracy, Measurement
from cprune_rl.cost_cache.store import CostStore, StoredTrial, Tuning
from cprune_rl.errors import StoreError

__all__ = ["SCHEMA_VERSION", "SqlStore", "default_url", "open_store"]

SCHEMA_VERSION = 1

_METADATA = sa.MetaData()
_META = sa.Table("meta", _METADATA, sa.Column("name", sa.String, primary_key=True), sa.Column("value", sa.String, nullable=False))
_PROGRAMS = sa.Table("programs", _METADATA, sa.Column("digest", sa.String, primary_key=True), sa.Column("trace", sa.Text, nullable=False))
_TRIALS = sa.Table(
    "trials",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("context", sa.String, nullable=False),
    sa.Column("workload", sa.String, nullable=False),
    sa.Column("program", sa.String, sa.ForeignKey("programs.digest"), nullable=False),
    sa.Column("samples_s", sa.Text, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("reference_s", sa.Float, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.UniqueConstraint("context", "workload", "program"),
)
_TUNINGS = sa.Table(
    "tunings",
    _METADATA,
    sa.Column("context", sa.String, primary_key=True),
    sa.Column("workload", sa.String, primary_key=True),
    sa.Column("recipe", sa.String, primary_key=True),
    sa.Column("programs", sa.Text, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
)
_ACCURACIES = sa.Table(
    "accuracies",
    _METADATA,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("value", sa.Float, nullable=False),
    sa.Column("standard_error", sa.Float, nullable=False),
    sa.Column("n_images", sa.Integer, nullable=False),
    sa.Column("cost_s", sa.Float, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
)


def default_url() -> str:
    """Where costs are kept unless told otherwise: `CPRUNE_RL_STORAGE`, or a file in the user cache folder."""
    if url := os.environ.get("CPRUNE_RL_STORAGE"):
        return url
    return f"sqlite:///{user_cache_path('cprune-rl', ensure_exists=True) / 'costs.db'}"


def open_store(storage: str | CostStore | None) -> CostStore:
    """Opens a cost store.

    Args:
        storage: None for one in memory, a URL such as `sqlite:///costs.db`, or a store, which is returned.

    Raises:
        StoreError: the file is no database, is of another schema, or cannot be written.
    """
    if storage is None:
        return SqlStore("sqlite://")
    return SqlStore(storage) if isinstance(storage, str) else storage


class SqlStore:
    """A `CostStore` in a SQLite database.

    Args:
        url: an SQLAlchemy URL; `sqlite://` is in memory.

    Raises:
        StoreError: the file is no database, is of another schema, or cannot be written.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            parsed = sa.make_url(url)
        except ArgumentError as error:
            raise StoreError(f"{url!r} is no storage URL; write e.g. sqlite:///costs.db") from error
        if parsed.get_backend_name() != "sqlite":
            raise StoreError(f"storage {url!r}: only sqlite is supported so far; write e.g. sqlite:///costs.db")
        if parsed.database:
            with self._translated():
                Path(parsed.database).absolute().parent.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {"poolclass": StaticPool} if not parsed.database else {}
        self._engine = sa.create_engine(parsed, connect_args={"timeout": 60}, **options)
        sa.event.listen(self._engine, "connect", _configure)
        sa.event.listen(self._engine, "begin", _begin)
        try:
            self._create_or_check()
        except StoreError:
            self.close()
            raise

    def add_trials(self, context: str, trials: Sequence[StoredTrial]) -> None:
        if not trials:
            return
        now = time.time()
        programs = [{"digest": t.program, "trace": t.program_json} for t in trials]
        rows = [
            {
                "context": context,
                "workload": t.workload,
                "program": t.program,
                "samples_s": json.dumps(t.measurement.samples_s),
                "error": t.measurement.error,
                "reference_s": t.measurement.reference_s,
                "created": now,
            }
            for t in trials
        ]
        with self._writing() as connection:
            connection.execute(insert(_PROGRAMS).on_conflict_do_nothing(), programs)
            connection.execute(insert(_TRIALS).on_conflict_do_nothing(), rows)

    def trials(self, context: str, workload: str) -> list[StoredTrial]:
        query = sa.select(_TRIALS, _PROGRAMS.c.trace).join(_PROGRAMS).where(_TRIALS.c.context == context, _TRIALS.c.workload == workload).order_by(_TRIALS.c.id)
        with self._reading() as connection:
            rows = connection.execute(query).all()
        found = [StoredTrial(r.workload, r.program, r.trace, Measurement(tuple(json.loads(r.samples_s)), r.error, r.reference_s)) for r in rows]
        return sorted(found, key=lambda t: t.measurement.latency_s)

    def mark_tuned(self, context: str, workload: str, recipe: str, tuning: Tuning) -> None:
        row = {"context": context, "workload": workload, "recipe": recipe, "programs": json.dumps(tuning.programs), "seconds": tuning.seconds, "created": time.time()}
        with self._writing() as connection:
            connection.execute(insert(_TUNINGS).on_conflict_do_nothing(), row)

    def tuned(self, context: str, workload: str, recipe: str) -> Tuning | None:
        query = sa.select(_TUNINGS).where(_TUNINGS.c.context == context, _TUNINGS.c.workload == workload, _TUNINGS.c.recipe == recipe)
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else Tuning(tuple(json.loads(row.programs)), row.seconds, row.created)

    def put_accuracy(self, key: str, accuracy: Accuracy) -> None:
        row = {
            "key": key,
            "value": accuracy.value,
            "standard_error": accuracy.standard_error,
            "n_images": accuracy.n_images,
            "cost_s": accuracy.cost_s,
            "created": time.time(),
        }
        with self._writing() as connection:
            connection.execute(insert(_ACCURACIES).on_conflict_do_nothing(), row)

    def accuracy(self, key: str) -> tuple[Accuracy, float] | None:
        with self._reading() as connection:
            row = connection.execute(sa.select(_ACCURACIES).where(_ACCURACIES.c.key == key)).one_or_none()
        return None if row is None else (Accuracy(row.value, row.standard_error, row.n_images, row.cost_s), row.created)

    def close(self) -> None:
        self._engine.dispose()

    def _create_or_check(self) -> None:
        with self._writing() as connection:
            tables = set(sa.inspect(connection).get_table_names())
            if not tables:
                _METADATA.create_all(connection)
                connection.execute(sa.insert(_META), {"name": "schema_version", "value": str(SCHEMA_VERSION)})
                return
            version = connection.execute(sa.select(_META.c.value).where(_META.c.name == "schema_version")).scalar_one_or_none() if "meta" in tables else None
        if version != str(SCHEMA_VERSION):
            found = f"schema {version}" if version else "tables of another program"
            raise StoreError(
                f"{self._url} holds {found}, this version of cprune-rl reads schema {SCHEMA_VERSION}: "
                "use the version that wrote it, or name a new file with --storage sqlite:///FILE"
            )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise StoreError(f"cost cache {self._url}: {error.orig}. {_advice(str(error.orig))}") from error
        except OSError as error:
            raise StoreError(f"cost cache {self._url}: {error}. Name another place with --storage sqlite:///FILE.") from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._translated(), self._engine.execution_options(writes=True).begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._translated(), self._engine.connect() as connection:
            yield connection


def _advice(message: str) -> str:
    if "disk is full" in message or "disk I/O" in message:
        return "Free some space and run again with --resume: what was committed is kept."
    if "not a database" in message or "malformed" in message:
        return "The file is damaged: move it away, or name another with --storage sqlite:///FILE."
    if "locked" in message:
        return "Another process has held it for a minute."
    return "Name another place with --storage sqlite:///FILE."


def _configure(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin`, not by the driver
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    # A WAL transaction that reads first and writes later fails at once when another has written: writers wait at the start.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")
