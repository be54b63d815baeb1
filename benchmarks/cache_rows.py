"""How fast the cost cache is written and read by 1, 2 and 8 processes at once, on SQLite and on
PostgreSQL.

`python benchmarks/cache_rows.py [--json FILE]`. Absolute speeds depend on the disk, because every
transaction is
on it before it counts; what more processes and a server gain within one run are what to compare.
PostgreSQL is
measured where its server is installed, in its package's own settings.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' PostgreSQL server
from tests.doubles.local_postgres import LocalPostgres, find_binaries

__all__ = ["PROCESSES", "measure"]

PROCESSES = (1, 2, 8)
_IN_ONE = 7  # trials that a search makes of one task, and writes at once

_WORKER = """
import sys
from cprune_rl.core.protocols import Measurement
from cprune_rl.cost_cache import StoredTrial, open_store
url, name, n_tasks, in_one = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
store = open_store(url)
tasks = [f"{name}-{i}" for i in range(n_tasks)]
def trials(task):
    return [StoredTrial(task, f"{task}-{i}", '["' + task * 400 + '"]', Measurement((1e-3 * (i + 1),) * 10)) for i in range(in_one)]
def turn():
    print("ready", flush=True)
    sys.stdin.readline()
turn()
for task in tasks:
    store.add_trials("context", trials(task))
turn()
for task in tasks:
    assert len(store.trials("context", task)) == in_one
turn()
"""


def measure(n_processes: int, n_rows: int) -> list[dict[str, Any]]:
    """Times writing and reading on each kind of storage there is.

    Args:
        n_processes: that work at once.
        n_rows: trials, over all of them.

    Returns:
        For each storage its name, `n_processes`, `n_rows`, and `written_rows_a_second`,
        `read_rows_a_second`.
    """
    n_tasks = max(1, n_rows // _IN_ONE // n_processes)
    results = []
    for name, storage in (("sqlite", _sqlite), ("postgresql", _postgresql)):
        with storage() as url:
            if url is None:
                continue
            write_s, read_s = _timed(url, n_processes, n_tasks)
        rows = n_tasks * _IN_ONE * n_processes
        results.append(
            {
                "storage": name,
                "n_processes": n_processes,
                "n_rows": rows,
                "written_rows_a_second": round(rows / write_s),
                "read_rows_a_second": round(rows / read_s),
            }
        )
    return results


@contextlib.contextmanager
def _sqlite() -> Iterator[str | None]:
    with tempfile.TemporaryDirectory() as folder:
        yield f"sqlite:///{folder}/costs.db"


@contextlib.contextmanager
def _postgresql() -> Iterator[str | None]:
    if find_binaries() is None:
        yield None
        return
    with LocalPostgres() as server:
        yield server.new_database()


def _timed(url: str, n_processes: int, n_tasks: int) -> tuple[float, float]:
    command = [sys.executable, "-c", _WORKER, url]
    workers = [
        subprocess.Popen(
            [*command, f"w{i}", str(n_tasks), str(_IN_ONE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(n_processes)
    ]
    seconds = []
    for _ in range(3):  # ready, written, read
        started = time.perf_counter()
        for worker in workers:
            if not worker.stdout or worker.stdout.readline() != "ready\n":
                raise RuntimeError(f"a worker on {url.split('@')[-1]} ended early")
        seconds.append(time.perf_counter() - started)
        for worker in workers:
            if worker.stdin:
                worker.stdin.write("go\n")
                worker.stdin.flush()
    for worker in workers:
        worker.communicate()
    return seconds[1], seconds[2]


def main() -> None:
    """Prints the figures, and what each number of processes gains over one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rows", type=int, default=5600)
    options = parser.parse_args()
    results = [row for n in PROCESSES for row in measure(n, options.rows)]
    alone = {r["storage"]: r for r in results if r["n_processes"] == 1}
    for row in results:
        for what in ("written", "read"):
            row[f"{what}_over_one_process"] = round(
                row[f"{what}_rows_a_second"] / alone[row["storage"]][f"{what}_rows_a_second"], 2
            )
    text = json.dumps(results, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text)


if __name__ == "__main__":
    main()
