"""The connection to a cost cache: transactions on SQLite or PostgreSQL, and errors that advise.

Everything that reads or writes the cost cache goes through a `Database`: the store, archives,
maintenance and upgrades. It reads the schema and refuses any but this version's.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import StaticPool

from cprune_rl.core.untrusted import printable
from cprune_rl.cost_cache.tables import CONTEXTS, META, METADATA, SCHEMA_VERSION, STAMP, revision
from cprune_rl.errors import StoreError

__all__ = ["Database", "matching_contexts"]

_WAIT_S = 60  # for another process's transaction, on either server
_LOCK = 0x6370_7275_6E65  # "cprune": PostgreSQL knows advisory locks by number
_TABLES_OF_EVERY_SCHEMA = {"meta", "programs", "trials", "tunings", "accuracies"}


class Database:
    """Opens a storage and hands out transactions.

    Args:
        url: an SQLAlchemy URL; `sqlite://` is in memory, `postgresql+psycopg://user@host/name` a
            server.
        create: make the tables where there are none.
        check: refuse another schema; only an upgrade does not.

    Raises:
        StoreError: it is no cost cache, is of another schema, or cannot be reached or written.
    """

    def __init__(self, url: str, *, create: bool = True, check: bool = True) -> None:
        self.url = _parse(url)
        self.name = self.url.render_as_string(hide_password=True)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.path: Path | None = None
        if self.is_sqlite and self.url.database not in (None, "", ":memory:"):
            self.path = Path(str(self.url.database)).absolute()
        self.engine = self._engine(create)
        try:
            if check:
                self._open(create)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Releases every connection; may be called twice."""
        self.engine.dispose()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state from beginning to end, and waits for nobody."""
        with self._translated(), self._connect(writes=False) as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def writing(self, *, alone: bool = False) -> Iterator[sa.Connection]:
        """A transaction that is committed whole or not at all.

        Args:
            alone: no other writer works meanwhile; on SQLite none ever does.
        """
        with self._translated(), self._connect(writes=True) as connection, connection.begin():
            if not self.is_sqlite:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_WAIT_S}s'")
                lock = (
                    sa.func.pg_advisory_xact_lock if alone else sa.func.pg_advisory_xact_lock_shared
                )
                connection.execute(sa.select(lock(sa.literal(_LOCK, sa.BigInteger))))
            yield connection

    def insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """An insert that has `on_conflict_do_nothing`."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def schema(self, connection: sa.Connection) -> int | None:
        """The schema's version; None where there is no table at all.

        Raises:
            StoreError: the tables are another program's.
        """
        inspector = sa.inspect(connection)
        tables = set(inspector.get_table_names())
        if not tables:
            return None
        if tables >= _TABLES_OF_EVERY_SCHEMA:
            columns = {column["name"] for column in inspector.get_columns("meta")}
            version = _schema_version(connection) if columns == {"name", "value"} else None
            if isinstance(version, str) and version.isdecimal():
                return int(version[:9])
        raise StoreError(
            f"{self.name} holds tables of another program ({', '.join(sorted(tables)[:3])}): "
            "name a database of its own, e.g. --storage sqlite:///FILE"
        )

    def size_bytes(self) -> int:
        """Room it takes on its disk, or in memory."""
        with self.reading() as connection:
            if self.is_sqlite:
                n_pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
                page_bytes = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
                return int(n_pages) * int(page_bytes)
            size = sa.func.pg_database_size(sa.func.current_database())
            return int(connection.execute(sa.select(size)).scalar_one())

    def _engine(self, create: bool) -> sa.Engine:
        options: dict[str, Any] = {"connect_args": {"timeout": _WAIT_S}}
        if self.path is not None:
            if not create and not self.path.exists():
                raise StoreError(
                    f"there is no cost cache at {self.path}: `cprune-rl train` or "
                    "`cprune-rl cache import` makes one, --storage names another"
                )
            with self._translated():
                self.path.parent.mkdir(parents=True, exist_ok=True)
        elif self.is_sqlite:
            options["poolclass"] = StaticPool
        else:
            options = {
                "connect_args": {"connect_timeout": 10, "application_name": "cprune-rl"},
                "pool_pre_ping": True,
            }
        try:
            engine = sa.create_engine(self.url, **options)
        except ImportError as error:
            raise StoreError(
                f"{self.name} needs a driver that is not installed ({error}): "
                "pip install 'cprune-rl[postgres]'"
            ) from error
        if self.is_sqlite:
            sa.event.listen(engine, "connect", _configure)
            sa.event.listen(engine, "begin", _begin)
        return engine

    def _connect(self, *, writes: bool) -> sa.Connection:
        if self.is_sqlite:
            return self.engine.connect().execution_options(writes=writes)
        level = "READ COMMITTED" if writes else "REPEATABLE READ"
        return self.engine.connect().execution_options(isolation_level=level)

    def _open(self, create: bool) -> None:
        with self.reading() as connection:
            schema = self.schema(connection)
        if schema is None and create:
            schema = self._create()
        if schema != SCHEMA_VERSION:
            raise StoreError(self._refusal(schema))

    def _create(self) -> int:
        if self.path is not None:
            with self._translated():
                _use_wal(self.engine)
        with self.writing(alone=True) as connection:
            schema = self.schema(connection)
            if schema is not None:  # another process was faster
                return schema
            METADATA.create_all(connection, checkfirst=False)
            STAMP.create(connection)
            connection.execute(sa.insert(STAMP), {"version_num": revision(SCHEMA_VERSION)})
            version = {"name": "schema_version", "value": str(SCHEMA_VERSION)}
            connection.execute(sa.insert(META), version)
        return SCHEMA_VERSION

    def _refusal(self, schema: int | None) -> str:
        if schema is None:
            return (
                f"{self.name} is empty: `cprune-rl train` or `cprune-rl cache import` fills it, "
                "--storage names another"
            )
        if schema < SCHEMA_VERSION:
            advice = (
                f"run `cprune-rl cache upgrade --storage {self.name}`, which keeps everything in it"
            )
        else:
            advice = (
                "a newer version wrote it; install that one, or name a new file with "
                "--storage sqlite:///FILE"
            )
        return (
            f"{self.name} holds schema {schema}, this version of cprune-rl reads schema "
            f"{SCHEMA_VERSION}: {advice}"
        )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, UnicodeDecodeError) as error:  # a damaged file's message is no text
            cause = str(error.orig) if isinstance(error, DBAPIError) else "it is malformed"
            raise StoreError(
                f"cost cache {self.name}: {_sentence(cause)} {_advice(cause, self.is_sqlite)}"
            ) from error
        except OSError as error:
            raise StoreError(
                f"cost cache {self.name}: {error}. "
                "Name another place with --storage sqlite:///FILE."
            ) from error


def matching_contexts(connection: sa.Connection, text: str | None) -> dict[int, str]:
    """Names of the contexts that contain a text, by id; all of them where it is None.

    Raises:
        StoreError: no context contains the text.
    """
    rows = connection.execute(sa.select(CONTEXTS).order_by(CONTEXTS.c.id)).all()
    matching = {row.id: row.name for row in rows if text is None or text in row.name}
    if text is not None and not matching:
        names = "; ".join(sorted(row.name for row in rows))
        raise StoreError(f"no context holds {text!r}; there are: {names or 'none'}")
    return matching


def _schema_version(connection: sa.Connection) -> str | None:
    query = sa.select(META.c.value).where(META.c.name == "schema_version")
    return connection.execute(query).scalar_one_or_none()


def _parse(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError):  # ValueError: a port that is no number
        # A URL that cannot be read may hold a password anywhere, and the parser's own error may
        # quote it too: neither is shown.
        scheme, colon, _ = url.partition(":")
        is_safe = not colon or (scheme == "sqlite" and "@" not in url)
        raise StoreError(
            f"{url if is_safe else f'{scheme}:...'!r} is no storage URL; "
            "write e.g. sqlite:///costs.db or postgresql+psycopg://USER@HOST:5432/NAME"
        ) from None
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise StoreError(
            f"storage {parsed.render_as_string()!r}: only sqlite and postgresql are supported; "
            "write e.g. sqlite:///costs.db"
        )
    return parsed


def _sentence(message: str) -> str:
    message = printable(" ".join(message.split()))
    return message if message.endswith((".", "?")) else message + "."


def _advice(message: str, is_sqlite: bool) -> str:
    if "disk is full" in message or "No space left" in message:
        return "Make room on its disk: what was committed is kept."
    if "disk I/O" in message or "locking protocol" in message:
        return (
            "Its disk is damaged, or has no locks or shared memory maps, as those of networks and "
            "containers: name another place with --storage sqlite:///FILE."
        )
    if "not a database" in message or "malformed" in message:
        return "The file is damaged: move it away, or name another with --storage sqlite:///FILE."
    if "locked" in message or "lock timeout" in message:
        return (
            f"Another process has held it for {_WAIT_S} seconds: "
            "run it again when that one is done."
        )
    if is_sqlite:
        return "Name another place with --storage sqlite:///FILE."
    return (
        "Check that the server runs and lets you in, or keep costs in a file with "
        "--storage sqlite:///FILE; what was committed is kept."
    )


def _configure(connection: Any, _: object) -> None:
    connection.isolation_level = None  # `_begin` begins transactions, not the driver
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    # A WAL transaction that reads first and writes later fails at once if another has written
    # meanwhile. So writers wait at the start.
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _use_wal(engine: sa.Engine) -> None:
    """Makes readers and a writer independent; the file remembers it.

    SQLite does not wait here by itself.
    """
    give_up = time.monotonic() + _WAIT_S
    raw = engine.raw_connection()
    try:
        while True:
            try:
                raw.cursor().execute("PRAGMA journal_mode=WAL")
                return
            except engine.dialect.loaded_dbapi.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > give_up:
                    raise StoreError(
                        f"cost cache {engine.url}: {error}. {_advice(str(error), True)}"
                    ) from error
            time.sleep(0.02)
    finally:
        raw.close()
