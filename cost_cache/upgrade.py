"""Brings a cost cache of an earlier version to this version's schema, whole or not at all."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from cprune_rl.cost_cache.engine import Database
from cprune_rl.cost_cache.tables import SCHEMA_VERSION, STAMP, revision
from cprune_rl.errors import StoreError

__all__ = ["Upgrade", "migrate", "upgrade"]


@dataclass(frozen=True)
class Upgrade:
    """What an upgrade did.

    Attributes:
        found: schema that was there.
        now: schema that is there.
        backup: copy of the SQLite file as it was; None where nothing was changed, or on a server.
    """

    found: int
    now: int
    backup: Path | None


def upgrade(url: str) -> Upgrade:
    """Moves every row to this version's schema.

    One transaction: a failure or a `kill -9` leaves the old schema whole. A SQLite file is copied
    beside
    itself first. Other processes wait, and those of an earlier version are refused afterwards.

    Args:
        url: of the storage.

    Raises:
        StoreError: it is no cost cache, a newer version wrote it, or it cannot be written.
    """
    with (
        contextlib.closing(Database(url, create=False, check=False)) as database,
        database.writing(alone=True) as connection,
    ):
        found = database.schema(connection)
        if found is None:
            raise StoreError(f"{database.name} is empty: there is nothing to upgrade")
        if found > SCHEMA_VERSION:
            raise StoreError(
                f"{database.name} holds schema {found}, newer than this version's {SCHEMA_VERSION}: install the version of cprune-rl that wrote it"
            )
        if found == SCHEMA_VERSION:
            return Upgrade(found, found, None)
        backup = _back_up(database.path, found) if database.path is not None else None
        migrate(connection, found)
        return Upgrade(found, SCHEMA_VERSION, backup)


def migrate(connection: sa.Connection, found: int | None, to: int = SCHEMA_VERSION) -> None:
    """Runs the scripts between two schemas inside the connection's transaction.

    Args:
        connection: in a transaction that writes.
        found: schema that is there; None where there is nothing.
        to: schema that is wanted.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option(
        "script_location", str(Path(__file__).parent / "migrations").replace("%", "%%")
    )
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    if found is not None and not sa.inspect(connection).has_table(
        STAMP.name
    ):  # 0.1.0 did not stamp
        command.stamp(config, revision(found))
    command.upgrade(config, revision(to))


def _back_up(path: Path, schema: int) -> Path:
    """Copies what is committed; the caller holds the write lock, so nothing is added meanwhile."""
    backup = next(
        p
        for i in range(1, 10**6)
        if not (
            p := path.with_name(f"{path.name}.schema{schema}{'' if i == 1 else f'-{i}'}.bak")
        ).exists()
    )
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
            f"cannot copy {path} to {backup.name} before the upgrade: {error}. Nothing was changed; free some space and run it again"
        ) from error
    return backup
