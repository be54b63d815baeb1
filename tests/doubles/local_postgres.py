"""A PostgreSQL server of one's own on this machine, for as long as a test or a benchmark takes.

It is the real server from the system's package, durable settings included, on a loopback port with
a
password; its data goes when it is closed. Called by the tests and by `benchmarks/cache_rows.py`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from cprune_rl.errors import ToolchainError

__all__ = ["LocalPostgres", "find_binaries"]

_USER = "postgres"


def find_binaries() -> Path | None:
    """The folder of the newest installed server; None where there is none."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = [p.parent for p in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(folders, key=lambda p: int(re.sub(r"\D", "", p.parent.name) or 0), default=None)


class LocalPostgres:
    """Starts a server; use it as a context manager.

    Raises:
        ToolchainError: no server is installed, or it does not start.
    """

    def __init__(self) -> None:
        binaries = find_binaries()
        if binaries is None:
            raise ToolchainError("no PostgreSQL server is installed: apt-get install postgresql")
        self._binaries = binaries
        self._count = 0
        self._password = secrets.token_hex(16)
        self.folder = Path(tempfile.mkdtemp(prefix="cprune-postgres-"))
        try:
            self.port = self._start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LocalPostgres:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def new_database(self) -> str:
        """Makes an empty database.

        Returns:
            Its storage URL.
        """
        import psycopg

        self._count += 1
        name = f"costs{self._count}"
        with psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=_USER,
            password=self._password,
            dbname="postgres",
            autocommit=True,
        ) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql+psycopg://{_USER}:{self._password}@127.0.0.1:{self.port}/{name}"

    def close(self) -> None:
        """Stops the server and removes its data; may be called twice."""
        if (self.folder / "data" / "postmaster.pid").exists():
            with contextlib.suppress(ToolchainError):
                self._run("pg_ctl", "stop", "-D", "data", "-m", "immediate", "-w")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> int:
        (self.folder / "password").write_text(self._password)
        if os.geteuid() == 0:  # the server refuses to run as root
            try:
                account = pwd.getpwnam(_USER)
            except KeyError as error:
                raise ToolchainError(
                    f"PostgreSQL refuses to run as root, and there is no user {_USER!r}: "
                    "apt-get install postgresql makes one"
                ) from error
            for path in (self.folder, self.folder / "password"):
                os.chown(path, account.pw_uid, account.pw_gid)
        self._run(
            "initdb",
            "-D",
            "data",
            "-U",
            _USER,
            "-A",
            "scram-sha-256",
            "--pwfile=password",
            "--locale=C.UTF-8",
            "--no-sync",
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        options = (
            f"-p {port} -c listen_addresses=127.0.0.1 "
            f"-c unix_socket_directories={self.folder} -c fsync=on"
        )
        self._run("pg_ctl", "start", "-D", "data", "-w", "-t", "60", "-l", "log", "-o", options)
        return port

    def _run(self, program: str, *arguments: str) -> None:
        account: dict[str, Any] = (
            {"user": _USER, "group": _USER, "extra_groups": []} if os.geteuid() == 0 else {}
        )
        command = [str(self._binaries / program), *arguments]
        # Not through pipes: the server inherits them, and they would stay open as long as it runs.
        with tempfile.TemporaryFile() as said:
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": said, "stderr": said}
            done = subprocess.run(
                command,
                cwd=self.folder,
                env={**os.environ, "LC_ALL": "C.UTF-8"},
                check=False,
                **streams,
                **account,
            )
            said.seek(0)
            output = said.read().decode(errors="replace")
        if done.returncode != 0:
            log = self.folder / "log"
            more = log.read_text(errors="replace") if log.exists() else ""
            raise ToolchainError(f"PostgreSQL's {program} failed: {(output + more).strip()[-500:]}")
