"""Eight writers of one storage, killed one after another in the middle of what they do."""

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict

import sqlalchemy as sa

from cprune_rl.cost_cache import SqlStore
from cprune_rl.cost_cache.maintenance import find_damage
from cprune_rl.cost_cache.tables import TRIALS, TUNINGS, WORKLOADS

N_WRITERS = 8
N_KILLED = 6
N_TRIALS = 5  # of a transaction

_WRITER = """
import itertools, sys
from cprune_rl.cost_cache import Tuning, open_store
from tests.doubles.stored_trials import trial
store, name = open_store(sys.argv[1]), sys.argv[2]
for n in itertools.count():
    digests = [f"shared-{n}", f"shared-{n + 1}", *(f"{name}-{n}-{i}" for i in range(3))]
    store.add_trials("c", [trial(f"{name}-{n}", digest, 1.0, 2.0) for digest in digests])
    store.mark_tuned("c", f"{name}-{n}", Tuning(key="r", trace_digests=tuple(digests), seconds=1.0))
    print(n, flush=True)
"""


class WriterProcess:
    """A process that reports each pair of transactions once both are committed."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self.reported = -1
        self.process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, url, name], stdout=subprocess.PIPE, text=True
        )
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n"):
                self.reported = int(line)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)
        self._listener.join(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


def committed(store: SqlStore) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Trials of each workload, and the schedules that its tuning claims."""
    with store.database.reading() as connection:
        trials = connection.execute(
            sa.select(WORKLOADS.c.key, sa.func.count().label("n"))
            .join_from(TRIALS, WORKLOADS)
            .group_by(WORKLOADS.c.key)
        ).all()
        tunings = connection.execute(
            sa.select(WORKLOADS.c.key, TUNINGS.c.trace_digests).join_from(TUNINGS, WORKLOADS)
        ).all()
    return {t.key: t.n for t in trials}, {t.key: json.loads(t.trace_digests) for t in tunings}


def wait_for_all(writers: list[WriterProcess], before: dict[str, int]) -> None:
    """Until each has committed more than before; SQLite gives turns by chance."""
    give_up = time.monotonic() + 60
    while any(w.reported <= before[w.name] for w in writers):
        assert all(w.process.poll() is None for w in writers), "no writer fails"
        assert time.monotonic() < give_up, "every writer gets its turn"
        time.sleep(0.02)


def test_writers_killed_in_the_middle_lose_nothing_committed_and_leave_nothing_half_there(
    storage: str,
) -> None:
    store = SqlStore(storage)
    writers = [WriterProcess(storage, f"w{i}") for i in range(N_WRITERS)]
    dice = random.Random(0)
    try:
        wait_for_all(writers, {w.name: -1 for w in writers})
        for victim in writers[:N_KILLED]:
            time.sleep(dice.uniform(0.02, 0.25))
            victim.kill()
            trials, tunings = committed(store)
            assert set(trials.values()) == {N_TRIALS}, "no transaction is half there"
            assert all(f"{victim.name}-{n}" in tunings for n in range(victim.reported + 1)), (
                "what was reported is there"
            )
        wait_for_all(writers[N_KILLED:], {w.name: w.reported for w in writers})
    finally:
        for writer in writers:
            writer.kill()
    trials, tunings = committed(store)
    by_writer: dict[str, list[int]] = defaultdict(list)
    for key in tunings:
        by_writer[key.split("-")[0]].append(int(key.split("-")[1]))
    for writer in writers:
        assert writer.reported + 1 <= len(by_writer[writer.name]) <= writer.reported + 2, (
            "at most the transaction in flight came on top"
        )
    assert set(trials.values()) == {N_TRIALS}
    assert all(len(digests) == N_TRIALS for digests in tunings.values())
    assert find_damage(store.database) == []
    store.close()
