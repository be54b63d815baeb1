"""How fast 1, 2 and 8 processes at once write and read the cost cache, on SQLite and PostgreSQL.

`python benchmarks/cache_rows.py [--json FILE]`. Absolute speeds depend on the disk, because every
transaction is on it before it counts. Compare what more processes and a server gain within one run.
PostgreSQL is measured where its server is installed, in its package's own settings.
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
_TRIALS_OF_A_TASK = 7  # that a search makes and writes at once

_WORKER = """
import sys
from cprune_rl.cost_cache import open_store
from tests.doubles.stored_trials import trial

url, name, n_tasks, n_trials = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
store = open_store(url)
tasks = [f"{name}-{i}" for i in range(n_tasks)]

def trials(task):
    trace = f'["{task * 400}"]'
    samples = [[1e-3 * (i + 1)] * 10 for i in range(n_trials)]
    return [trial(task, f"{task}-{i}", *s, trace_json=trace) for i, s in enumerate(samples)]

def wait():
    print("ready", flush=True)
    sys.stdin.readline()

wait()
for task in tasks:
    store.add_trials("context", trials(task))
wait()
for task in tasks:
    assert len(store.trials("context", task)) == n_trials
wait()
"""


def measure(n_processes: int, n_rows: int) -> list[dict[str, Any]]:
    """Times writing and reading on each kind of storage there is.

    Args:
        n_processes: that work at once.
        n_rows: trials, over all of them.

    Returns:
        For each storage its name, `n_processes`, `n_rows`, `written_rows_a_second` and
        `read_rows_a_second`.
    """
    n_tasks = max(1, n_rows // _TRIALS_OF_A_TASK // n_processes)
    rows = n_tasks * _TRIALS_OF_A_TASK * n_processes
    results = []
    for name, storage in (("sqlite", _sqlite), ("postgresql", _postgresql)):
        with storage() as url:
            if url is None:
                continue
            write_s, read_s = _time_workers(url, n_processes, n_tasks)
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


def _time_workers(url: str, n_processes: int, n_tasks: int) -> tuple[float, float]:
    """Seconds until all have written, and until all have read."""
    workers = [_start_worker(url, f"w{i}", n_tasks) for i in range(n_processes)]
    seconds = []
    for _ in ("opened", "written", "read"):
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


def _start_worker(url: str, name: str, n_tasks: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WORKER, url, name, str(n_tasks), str(_TRIALS_OF_A_TASK)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )


def main() -> None:
    """Prints the figures, and what each number of processes gains over one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rows", type=int, default=5600)
    options = parser.parse_args()
    results = [row for n in PROCESSES for row in measure(n, options.rows)]
    alone = {row["storage"]: row for row in results if row["n_processes"] == 1}
    for row in results:
        for what in ("written", "read"):
            speed = f"{what}_rows_a_second"
            gain = row[speed] / alone[row["storage"]][speed]
            row[f"{what}_over_one_process"] = round(gain, 2)
    text = json.dumps(results, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text)


if __name__ == "__main__":
    main()
