"""`cprune-rl cache`: figures, checks, removal, archives, all while others write."""

import json
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from cprune_rl.cli import app
from cprune_rl.core.protocols import Accuracy
from cprune_rl.cost_cache import SqlStore, Tuning, open_store
from cprune_rl.cost_cache import engine as engine_module
from cprune_rl.cost_cache.maintenance import RemovalRules, RemovedRows, find_damage, remove_trials
from cprune_rl.errors import ConfigError, StoreError
from tests.doubles.local_postgres import LocalPostgres
from tests.doubles.stored_trials import CONV, trial

OLD = time.time() - 10 * 86_400


def fill(url: str) -> None:
    """Two contexts; of each a task with four trials (one failed, one old), and a task with one."""
    store = SqlStore(url)
    store.describe([CONV])
    for context in ("x86", "arm"):
        trials = [
            trial("conv", "p1", 1.0),
            trial("conv", "p2", 2.0, created=OLD),
            trial("conv", "p3", 3.0),
            trial("conv", "p4", error="crashed"),
            trial("dense", f"only-{context}", 1.0),
        ]
        store.add_trials(context, trials)
        store.mark_tuned(
            context, "conv", Tuning(key="all", trace_digests=("p1", "p2", "p3", "p4"), seconds=1.0)
        )
        store.mark_tuned(context, "conv", Tuning(key="best", trace_digests=("p1",), seconds=1.0))
        store.mark_tuned(
            context, "dense", Tuning(key="all", trace_digests=(f"only-{context}",), seconds=1.0)
        )
    store.put_accuracy("k", Accuracy(value=0.5))
    store.close()


def run(*arguments: str, url: str, answer: str | None = None) -> Result:
    """A command as a user gives it; an error of ours is raised as it is."""
    result = CliRunner().invoke(app, ["cache", *arguments, "--storage", url], input=answer)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def removed(n_trials: int, n_schedules: int, n_workloads: int, n_tunings: int) -> RemovedRows:
    return RemovedRows(
        n_trials=n_trials, n_schedules=n_schedules, n_workloads=n_workloads, n_tunings=n_tunings
    )


@pytest.mark.parametrize(
    ("rules", "expected", "left"),
    [
        (RemovalRules(keep=2), removed(4, 2, 0, 2), ["p1", "p2"]),
        (RemovalRules(keep=9), removed(0, 0, 0, 0), ["p1", "p2", "p3", "p4"]),
        (RemovalRules(older_than_days=5), removed(2, 1, 0, 2), ["p1", "p3", "p4"]),
        (RemovalRules(keep=3, older_than_days=5), removed(4, 2, 0, 2), ["p1", "p3"]),
        (RemovalRules(context="ar"), removed(5, 1, 0, 3), ["p1", "p2", "p3", "p4"]),
        (RemovalRules(keep=1, context="x8"), removed(3, 0, 0, 1), ["p1"]),
        (RemovalRules(keep=0), removed(10, 6, 2, 6), []),
    ],
)
def test_removal_leaves_nothing_that_refers_to_what_is_gone(
    storage: str, rules: RemovalRules, expected: RemovedRows, left: list[str]
) -> None:
    fill(storage)
    store = SqlStore(storage)
    assert remove_trials(store.database, rules, dry_run=True) == expected
    assert sum(s.n_trials for s in store.contexts()) == 10, "a dry run changes nothing"
    assert remove_trials(store.database, rules) == expected
    assert [t.trace_digest for t in store.trials("x86", "conv")] == left
    assert find_damage(store.database) == []
    assert (store.tuned("x86", "conv", "all") is None) == (len(left) < 4)
    assert (store.tuned("x86", "conv", "best") is None) == ("p1" not in left)
    assert store.accuracy("k") is not None
    store.close()


def test_removal_wants_a_rule_and_a_context_that_is_there(storage: str) -> None:
    fill(storage)
    store = SqlStore(storage)
    with pytest.raises(StoreError, match="--keep"):
        remove_trials(store.database, RemovalRules())
    with pytest.raises(StoreError, match="there are: arm; x86"):
        remove_trials(store.database, RemovalRules(keep=1, context="gpu"))
    store.close()


def test_a_schedule_removed_while_it_is_tuned_is_not_claimed(storage: str) -> None:
    fill(storage)
    store, other = SqlStore(storage), SqlStore(storage)
    remove_trials(other.database, RemovalRules(keep=1))
    store.mark_tuned("x86", "conv", Tuning(key="late", trace_digests=("p1", "p2"), seconds=1.0))
    assert store.tuned("x86", "conv", "late") is None
    store.close()
    other.close()


def test_prune_asks_first(storage: str) -> None:
    fill(storage)
    assert "would remove 4 trials" in run("prune", "--keep", "2", "--dry-run", url=storage).stdout
    assert run("prune", "--keep", "2", url=storage, answer="n\n").exit_code == 1
    assert json.loads(run("stats", "--json", url=storage).stdout)["contexts"][0]["n_trials"] == 5
    assert "removed 4 trials" in run("prune", "--keep", "2", url=storage, answer="y\n").stdout
    assert "removed 2 trials" in run("prune", "--keep", "1", "--yes", url=storage).stdout


NOT_LOADED = "RuntimeError: 3-trial4.so: failed to map segment from shared object"


def test_verify_removes_failures_of_the_machine_that_were_kept_as_the_programs(
    storage: str,
) -> None:
    fill(storage)
    assert "is sound" in run("verify", url=storage).stdout
    store = SqlStore(storage)
    store.describe([CONV])
    failed = [trial("pool", f"m{at}", error=NOT_LOADED) for at in range(3)]
    store.add_trials("x86", [*failed, trial("conv", "m0", error="MemoryError: no message")])
    digests = tuple(t.trace_digest for t in failed)
    store.mark_tuned("x86", "pool", Tuning(key="all", trace_digests=digests, seconds=1.0))
    verified = run("verify", url=storage)
    assert verified.exit_code == 0
    text = " ".join(verified.stdout.split())
    assert "MENDED 4 failures were the machine's" in text
    assert f"such as: {NOT_LOADED}" in text
    assert "with 1 tunings" in text
    assert "is sound" in text
    assert store.trials("x86", "pool") == []
    assert store.tuned("x86", "pool", "all") is None
    crashed = [t.measurement.error for t in store.trials("x86", "conv")][-1]
    assert crashed == "crashed", "a program's own failure stays"
    assert store.tuned("x86", "conv", "all") is not None
    store.close()
    assert "MENDED" not in run("verify", url=storage).stdout


def test_an_archive_brings_no_failures_of_a_machine(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in ("there", "here")]
    store = SqlStore(urls[0])
    store.add_trials("x86", [trial("conv", "m", error=NOT_LOADED), trial("conv", "p", 1.0)])
    for key, digests in (("all", ("m", "p")), ("good", ("p",))):
        store.mark_tuned("x86", "conv", Tuning(key=key, trace_digests=digests, seconds=1.0))
    store.close()
    archive = str(tmp_path / "costs.jsonl.gz")
    run("export", archive, url=urls[0])
    run("import", archive, url=urls[1])
    here = SqlStore(urls[1])
    assert [t.trace_digest for t in here.trials("x86", "conv")] == ["p"]
    assert here.tuned("x86", "conv", "all") is None
    assert here.tuned("x86", "conv", "good") is not None
    assert find_damage(here.database) == []
    here.close()


def test_stats_shows_each_context(storage: str) -> None:
    fill(storage)
    shown = run("stats", url=storage).stdout
    assert "arm" in shown
    assert "failures" in shown
    stats = json.loads(run("stats", "--json", url=storage).stdout)
    assert stats["size_bytes"] > 0
    assert [
        (c["context"], c["n_workloads"], c["n_trials"], c["n_failures"]) for c in stats["contexts"]
    ] == [("arm", 2, 5, 1), ("x86", 2, 5, 1)]
    assert stats["contexts"][0]["first"] == pytest.approx(OLD)


def test_an_archive_goes_from_one_cache_to_another(storage: str, tmp_path: Path) -> None:
    fill(storage)
    file = str(tmp_path / "costs.gz")
    target = f"sqlite:///{tmp_path}/other.db"
    assert (
        "1 workloads, 6 schedules, 10 trials, 6 tunings, 1 accuracies"
        in run("export", file, url=storage).stdout
    )
    with pytest.raises(ConfigError, match="--force"):
        run("export", file, url=storage)
    assert (
        "5 trials"
        in run("export", file, "--force", "--context", "arm", "--no-accuracies", url=storage).stdout
    )
    assert "is whole" in run("verify", file, url="sqlite:///nowhere.db").stdout
    assert "5 trials" in run("import", file, url=target).stdout
    assert "0 trials" in run("import", file, url=target).stdout
    assert "is sound" in run("verify", url=target).stdout


def test_commands_that_only_look_make_no_file(tmp_path: Path) -> None:
    for command in ("stats", "verify", "prune", "upgrade"):
        with pytest.raises(StoreError, match="there is no cost cache"):
            run(command, url=f"sqlite:///{tmp_path}/none.db")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_database_has_nothing_to_show(postgres: LocalPostgres) -> None:
    with pytest.raises(StoreError, match="is empty"):
        run("stats", url=postgres.new_database())


def test_upgrade_of_a_current_cache_does_nothing(storage: str) -> None:
    fill(storage)
    assert "nothing to do" in run("upgrade", url=storage).stdout


DAMAGE = {
    "is not the one": (
        "UPDATE programs SET trace = '[1]', digest = '0123456789abcdef0123' "
        "WHERE digest = 'only-arm'"
    ),
    "schedule p1: instruction 0: Annotate: 'pragma_import_c'": (
        "UPDATE programs "
        """SET trace = '[[["Annotate", ["b0", 1], ["pragma_import_c"], []]], []]' """
        "WHERE digest = 'p1'"
    ),
    "no JSON": "UPDATE programs SET trace = 'import os' WHERE digest = 'p1'",
    "not the median": "UPDATE trials SET latency_s = 7 WHERE program = 'p1'",
    "not a positive number": "UPDATE trials SET samples_s = '[-1.0]' WHERE program = 'p1'",
    "no list of numbers": "UPDATE trials SET samples_s = 'x' WHERE program = 'p1'",
    "claims a schedule": "DELETE FROM trials WHERE program = 'p3'",
    "migration stamp": "UPDATE alembic_version SET version_num = '0001'",
    "workload 'dense'": "UPDATE workloads SET digest = 'x' WHERE key = 'dense'",
    "refers to a row": "DELETE FROM programs WHERE digest = 'p2'",
}


@pytest.mark.parametrize(("message", "statement"), DAMAGE.items(), ids=DAMAGE.keys())
def test_verify_finds_damage(tmp_path: Path, message: str, statement: str) -> None:
    url = f"sqlite:///{tmp_path}/costs.db"
    fill(url)
    engine = sa.create_engine(url)  # without foreign keys: damage asks nobody
    with engine.begin() as connection:
        connection.execute(sa.text(statement))
    engine.dispose()
    result = run("verify", url=url)
    assert result.exit_code == 1
    assert message in result.stdout


def test_verify_finds_a_page_that_was_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "costs.db"
    fill(f"sqlite:///{path}")
    raw = bytearray(path.read_bytes())
    for page in range(4096 * 2, len(raw), 4096):
        raw[page : page + 8] = b"\xff" * 8
    path.write_bytes(raw)
    with pytest.raises(StoreError, match="damaged"):
        run("verify", url=f"sqlite:///{path}")


@pytest.mark.parametrize("command", [["stats"], ["verify"], ["export", "FILE"]])
def test_what_only_reads_waits_for_no_writer(
    storage: str, tmp_path: Path, command: list[str]
) -> None:
    fill(storage)
    arguments = [str(tmp_path / "costs.gz") if part == "FILE" else part for part in command]
    other = SqlStore(storage)
    with other.database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM accuracies")
        assert run(*arguments, url=storage).exit_code == 0
    other.close()


def test_what_waits_too_long_says_so(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(storage)
    monkeypatch.setattr(engine_module, "_WAIT_S", 1)
    other = SqlStore(storage)
    with (
        other.database.writing(alone=True),
        pytest.raises(StoreError, match="has held it for 1 seconds"),
    ):
        run("prune", "--keep", "1", "--yes", url=storage)
    other.close()


def test_what_writes_waits_for_its_turn(storage: str) -> None:
    fill(storage)
    other = SqlStore(storage)
    with other.database.writing() as connection:
        connection.exec_driver_sql("UPDATE accuracies SET value = 0.25")
        pruning = threading.Thread(target=lambda: run("prune", "--keep", "1", "--yes", url=storage))
        pruning.start()
        time.sleep(0.2)
        assert pruning.is_alive()
    pruning.join(30)
    assert not pruning.is_alive()
    other.close()
    store = open_store(storage)
    assert sum(s.n_trials for s in store.contexts()) == 4
    store.close()
