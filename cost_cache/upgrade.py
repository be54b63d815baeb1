"""Brings a cost cache of an earlier version to this version's schema, whole or not at all."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from cprune_rl.cost_cache.engine import Database
from cprune_rl.cost_cache.tables import SCHEMA_VERSION, STAMP, revision
from cprune_rl.errors import StoreError

__all__ = ["Upgrade", "migrate", "upgrade"]


@dataclass(frozen=True)
class Upgrade:
    """What an upgrade did.

    Attributes:
        before: schema that was there.
        after: schema that is there.
        backup: copy of the SQLite file as it was; None where nothing was changed, or on a server.
    """

    before: int
    after: int
    backup: Path | None


def upgrade(url: str) -> Upgrade:
    """Moves every row to this version's schema.

    It is one transaction: a failure or a `kill -9` leaves the old schema whole. A SQLite file is
    copied beside itself first. Other processes wait; those of an earlier version are refused
    afterwards.

    Args:
        url: of the storage.

    Raises:
        StoreError: it is no cost cache, a newer version wrote it, or it cannot be written.
    """
    with (
        contextlib.closing(Database(url, create=False, check=False)) as database,
        database.writing(alone=True) as connection,
    ):
        schema = database.schema(connection)
        if schema is None:
            raise StoreError(f"{database.name} is empty: there is nothing to upgrade")
        if schema > SCHEMA_VERSION:
            raise StoreError(
                f"{database.name} holds schema {schema}, newer than this version's "
                f"{SCHEMA_VERSION}: install the version of cprune-rl that wrote it"
            )
        if schema == SCHEMA_VERSION:
            return Upgrade(schema, schema, None)
        backup = _back_up(database.path, schema) if database.path is not None else None
        migrate(connection, schema)
        return Upgrade(schema, SCHEMA_VERSION, backup)


def migrate(connection: sa.Connection, schema: int | None, to: int = SCHEMA_VERSION) -> None:
    """Runs the scripts between two schemas inside the connection's transaction.

    Args:
        connection: in a transaction that writes.
        schema: that is there; None where there is nothing.
        to: schema that is wanted.
    """
    config = Config()
    scripts = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", scripts.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    if schema is not None and not sa.inspect(connection).has_table(STAMP.name):
        command.stamp(config, revision(schema))  # 0.1.0 did not stamp
    command.upgrade(config, revision(to))


def _back_up(path: Path, schema: int) -> Path:
    """Copies what is committed; the caller holds the write lock, so nothing is added meanwhile."""
    backup = _free_name(path, schema)
    unfinished = backup.with_suffix(".part")
    try:
        with (
            contextlib.closing(sqlite3.connect(path)) as source,
            contextlib.closing(sqlite3.connect(unfinished)) as target,
        ):
            source.backup(target)
        unfinished.rename(backup)
    except (OSError, sqlite3.Error) as error:
        unfinished.unlink(missing_ok=True)
        raise StoreError(
            f"cannot copy {path} to {backup.name} before the upgrade: {error}. "
            "Nothing was changed; free some space and run it again"
        ) from error
    return backup


def _free_name(path: Path, schema: int) -> Path:
    stem = f"{path.name}.schema{schema}"
    backup = path.with_name(f"{stem}.bak")
    number = 1
    while backup.exists():
        number += 1
        backup = path.with_name(f"{stem}-{number}.bak")
    return backup
