"""Every format that is read: whole files of it, and how they are read."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import json
import sqlite3
from pathlib import Path

import numpy as np
import torch
import yaml

from cprune_rl.accuracy.data import load_data
from cprune_rl.agents.policies import find_policy
from cprune_rl.agents.rl.policy import RowPolicy, load_policy, read_card, save_policy, spaces
from cprune_rl.comparison.records import read_records, read_sessions, read_terms
from cprune_rl.core.network import Plan
from cprune_rl.core.protocols import Accuracy, Measurement
from cprune_rl.core.result import (
    DenseFigures,
    Figures,
    FrontPoint,
    MethodResult,
    Result,
    read_front,
    read_front_dense,
    write_front,
)
from cprune_rl.core.search_result import AcceptedPlan, SearchResult, SearchStep
from cprune_rl.cost_cache import Provenance, SqlStore, Tuning
from cprune_rl.cost_cache.archive.file import open_archive
from cprune_rl.cost_cache.archive.import_export import export_archive, read_archive
from cprune_rl.cost_cache.archive.safe_traces import trace_problem
from cprune_rl.cost_cache.maintenance import find_damage
from cprune_rl.envs.actions.channel_actions import ChannelActions
from cprune_rl.envs.problems.registry import open_recorded
from cprune_rl.errors import DataError
from cprune_rl.models.tensor_files import check_exported
from cprune_rl.models.weights import export_torch, load_weights, save_weights
from cprune_rl.pipeline.config import RunConfig, load_config
from cprune_rl.pipeline.run_folder import RunFolder
from cprune_rl.pruning.surgery import PlanFile, load_pruned
from tests.doubles.fake_records import make_record
from tests.doubles.networks import small_network
from tests.doubles.stored_trials import CONV, trial
from tests.doubles.toy_recordings import save_toy
from tests.fuzz.mutations import Mutator
from tests.fuzz.runner import Format

__all__ = ["FORMATS"]

_ROWS = 4
_STRANGE_CELLS = (
    None,
    0,
    -1,
    2**62,
    1e308,
    float("inf"),
    "",
    "[]",
    "[1e-3, null]",
    "[-1]",
    "{}",
    "nul",
    "[" * 5000,
    "x\nx",
)
_CONV_TRACE = [
    [
        ["GetSBlock", [], ["conv", "main"], ["b0"]],
        ["GetLoops", ["b0"], [], ["l1", "l2"]],
        ["SamplePerfectTile", ["l1"], [4, 64], ["v2", "v3", "v4", "v5"]],
        ["SampleCategorical", [], [[0, 16], [0.5, 0.5]], ["v6"]],
        ["Annotate", ["b0", "v6"], ["meta_schedule.unroll_explicit"], []],
    ],
    [[2, [1, 2, 2, 8]], [3, 1]],
]
_COST = {"fresh_trials": 10.0, "accuracy_evaluations": 4.0, "measure_s": 2.0, "train_s": 3.0}
_GATE = {
    "accuracy": 0.98,
    "lower_bound": 0.979,
    "floor": 0.978,
    "n_looks": 2,
    "risk": 0.05,
    "passed": True,
}


def _figures(latency_ms: float) -> Figures:
    return Figures(
        latency_ms=latency_ms,
        latency_ci_ms=(0.9 * latency_ms, 1.1 * latency_ms),
        estimate_ms=latency_ms,
        accuracy_test=0.98,
        accuracy_test_ci=(0.97, 0.99),
        n_params=1000,
        macs=5000,
    )


def _write_result(folder: Path) -> None:
    method = MethodResult(
        method="agent",
        pruned=_figures(0.1),
        speedup=2.5,
        speedup_ci=(2.4, 2.6),
        gate=_GATE,
        cost=_COST,
        history=[{"plan": [4], "predicted_share": 0.5}],
    )
    result = Result(
        model="resnet8",
        data="contours",
        device="local",
        method="agent",
        seed=0,
        floor=-0.01,
        dense=_figures(0.25),
        dense_finetuned=_figures(0.25),
        floor_from="finetuned",
        main=method,
        rivals=(method,),
        stages_s={"Searching": 1.0},
    )
    result.write(folder / "result.json")


def _write_front(folder: Path) -> None:
    points = [
        FrontPoint(
            method=method,
            floor=floor,
            folder=method,
            shown_ms=0.25,
            latency_ci_ms=(0.24, 0.26),
            speedup=(1.0, 1.0, 1.0),
            accuracy_test=(0.99, 0.98, 0.995),
            gained_test=(0.0, 0.0, 0.0),
            n_params=1000,
            gate=gate,
            cost={},
        )
        for method, floor, gate in (("dense", None, {}), ("agent", -0.01, _GATE))
    ]
    dense = DenseFigures(given=_figures(0.25), finetuned=_figures(0.25), floor_from="finetuned")
    write_front(folder / "front.json", points, dense, "measured")


def _read_front(folder: Path) -> None:
    read_front(folder / "front.json")
    read_front_dense(folder / "front.json")


def _write_pruned(folder: Path) -> None:
    plan = PlanFile(
        model="tests.doubles.networks:small_network",
        n_classes=10,
        input_shape=(1, 3, 32, 32),
        kept={"0": tuple(range(8))},
        schemes=(("5", "block(2,0.5)"),),
    )
    plan.write(folder, small_network())


def _write_search(folder: Path) -> None:
    dense = Plan((8, 8))
    narrow = Plan((8, 4), (("conv", "block(4,0.25)"),))
    step = SearchStep(plan=narrow, what="conv x1", latency_s=2.0, accuracy=0.9, accepted=True)
    result = SearchResult(
        method="mdp",
        accepted=(AcceptedPlan(dense, 4.0, 0.95), AcceptedPlan(narrow, 2.0, 0.9)),
        history=(step,),
        cost=_COST,
    )
    (folder / "search_mdp.json").write_text(json.dumps(result.to_json()))


def _write_options(folder: Path) -> None:
    RunFolder.create(RunConfig(out=folder, methods=("agent", "cprune"), keep=("conv1=0.5",)))


def _write_config(folder: Path) -> None:
    options = {
        "model": "mynet.py:build",
        "weights": "w.pt",
        "data": "npz:mine.npz?seed=3",
        "policy": "x86-cpu",
        "cache": "~/cache",
        "floor": [-0.01, -0.02],
        "seed": 3,
        "freeze": ["stem"],
    }
    (folder / "options.yaml").write_text(yaml.safe_dump(options))


@functools.cache
def _policy() -> RowPolicy:
    torch.manual_seed(0)
    return RowPolicy(*spaces(ChannelActions(), _ROWS), lambda _: 0.0, width=8)


def _write_policy(folder: Path) -> None:
    save_policy(_policy(), folder, {"trained_on": ["resnet8"], "train_s": 3.0})


def _read_policy(folder: Path) -> None:
    load_policy(find_policy(str(folder)), _ROWS)
    read_card(folder)


def _write_costs(folder: Path) -> None:
    with contextlib.closing(SqlStore("sqlite://")) as store:
        _fill(store)
        export_archive(store.database, folder / "costs.gz")


def _fill(store: SqlStore) -> None:
    store.describe([CONV])
    good = trial(
        "conv",
        "p1",
        trace_json=json.dumps(_CONV_TRACE),
        measurement=Measurement((3e-3, 1e-3), None, 5e-4),
        provenance=Provenance(version="1", processor="2", os="3", python="4"),
        created=17.0,
    )
    store.add_trials("x86", [good, trial("conv", "p2", error="crashed")])
    store.mark_tuned("x86", "conv", Tuning(key="r", trace_digests=("p1", "p2"), seconds=2.0))


def _write_database(folder: Path) -> None:
    with contextlib.closing(SqlStore(f"sqlite:///{folder / 'costs.db'}")) as store:
        _fill(store)
        store.put_accuracy("key", Accuracy(value=0.9, standard_error=0.01))


def _read_database(folder: Path) -> None:
    with contextlib.closing(SqlStore(f"sqlite:///{folder / 'costs.db'}", create=False)) as store:
        find_damage(store.database)
        store.contexts()
        store.trials("x86", "conv")
        store.fastest("x86")
        store.tuned("x86", "conv", "r")
        store.accuracy("key")


def _damage_database(mutator: Mutator, content: bytes) -> bytes:
    """Change bytes of the file, or give a row a value that only SQLite takes."""
    if mutator.rng.random() < 0.5:
        return mutator.raw(content)
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.deserialize(content[:18] + b"\1\1" + content[20:])  # without a log beside it
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        table = mutator.rng.choice([name for (name,) in tables])
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        column = mutator.rng.choice(columns)
        value = mutator.rng.choice((*_STRANGE_CELLS, mutator.rng.randbytes(4)))
        with contextlib.suppress(sqlite3.IntegrityError):  # the schema keeps some of them out
            database.execute(f"UPDATE OR REPLACE {table} SET {column} = ?", (value,))
        database.commit()
        damaged = database.serialize()
    return damaged[:18] + content[18:20] + damaged[20:]


def _read_costs(folder: Path) -> None:
    with open_archive(folder / "costs.gz"):
        pass
    read_archive(folder / "costs.gz").close()


def _damage_costs(mutator: Mutator, content: bytes) -> bytes:
    """Change a line of an archive, and sign it anew, as a forger would."""
    if mutator.rng.random() < 0.3:
        return mutator.raw(content)
    lines = gzip.decompress(content).splitlines(keepends=True)[:-1]
    at = mutator.rng.randrange(len(lines))
    lines[at] = mutator.json(lines[at]) + b"\n"
    if mutator.rng.random() < 0.2:
        lines.insert(at, lines[mutator.rng.randrange(len(lines))])
    whole = b"".join(lines)
    end = {"kind": "end", "sha256": hashlib.sha256(whole).hexdigest()}
    return gzip.compress(whole + json.dumps(end).encode() + b"\n", 1)


def _write_trace(folder: Path) -> None:
    (folder / "trace.json").write_text(json.dumps(_CONV_TRACE))


def _read_trace(folder: Path) -> None:
    text = (folder / "trace.json").read_bytes().decode(errors="surrogateescape")
    if problem := trace_problem(text):
        raise DataError(f"{folder}: {' '.join(problem.split())}")


def _write_comparison(folder: Path) -> None:
    (folder / "rows").mkdir()
    (folder / "rows" / "a.json").write_text(make_record().to_json())
    (folder / "sessions.json").write_text(json.dumps([{"command": "compare", "runs": 1}]))
    (folder / "comparison.json").write_text(json.dumps({"budget": {"trials": 10}, "code": "x"}))


def _read_comparison(folder: Path) -> None:
    read_records(folder)
    read_sessions(folder)
    read_terms(folder)


def _write_weights(folder: Path) -> None:
    save_weights(small_network(), folder / "weights.safetensors")
    state = small_network().state_dict()
    torch.save({"state_dict": state, "epoch": 3}, folder / "weights.pt")
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)


def _read_weights(folder: Path) -> None:
    for name in ("weights.safetensors", "weights.pt", "old.pt"):
        load_weights(_network(), folder / name)


@functools.cache
def _network() -> torch.nn.Module:
    return small_network()


def _write_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 1, 4, 4), dtype=np.uint8)
    np.savez_compressed(folder / "images.npz", x=images, y=np.arange(60) % 2)


def _write_exported(folder: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    export_torch(network, (1, 1, 2, 2), folder / "model.pt2")


FORMATS = {
    kind.name: kind
    for kind in (
        Format(
            name="recording",
            write=lambda folder: save_toy(folder / "toy.json.gz"),
            damaged=("toy.json.gz",),
            read=lambda folder: open_recorded(str(folder / "toy.json.gz")),
        ),
        Format(
            name="policy",
            write=_write_policy,
            damaged=("policy.json", "policy.safetensors"),
            read=_read_policy,
        ),
        Format(
            name="result",
            write=_write_result,
            damaged=("result.json",),
            read=lambda folder: Result.read(folder / "result.json"),
        ),
        Format(
            name="front",
            write=_write_front,
            damaged=("front.json",),
            read=_read_front,
        ),
        Format(
            name="pruned network",
            write=_write_pruned,
            damaged=("plan.json", "model.safetensors"),
            read=load_pruned,
        ),
        Format(
            name="search",
            write=_write_search,
            damaged=("search_mdp.json",),
            read=lambda folder: SearchResult.read(folder / "search_mdp.json"),
        ),
        Format(
            name="run's options",
            write=_write_options,
            damaged=("config.yaml", "system.json"),
            read=RunFolder.resume,
        ),
        Format(
            name="options",
            write=_write_config,
            damaged=("options.yaml",),
            read=lambda folder: load_config(folder / "options.yaml", {}),
        ),
        Format(
            name="archive of costs",
            write=_write_costs,
            damaged=("costs.gz",),
            read=_read_costs,
            mutate=_damage_costs,
        ),
        Format(
            name="cost cache",
            write=_write_database,
            damaged=("costs.db",),
            read=_read_database,
            mutate=_damage_database,
        ),
        Format(
            name="schedule trace", write=_write_trace, damaged=("trace.json",), read=_read_trace
        ),
        Format(
            name="comparison",
            write=_write_comparison,
            damaged=("rows/a.json", "sessions.json", "comparison.json"),
            read=_read_comparison,
        ),
        Format(
            name="weights",
            write=_write_weights,
            damaged=("weights.safetensors", "weights.pt", "old.pt"),
            read=_read_weights,
        ),
        Format(
            name="images",
            write=_write_images,
            damaged=("images.npz",),
            read=lambda folder: load_data(f"npz:{folder / 'images.npz'}"),
        ),
        Format(
            name="exported network",
            write=_write_exported,
            damaged=("model.pt2",),
            read=lambda folder: check_exported(folder / "model.pt2"),
        ),
    )
}
"""By name."""
