"""Archives: what goes in comes out. A damaged, cut off, forged or foreign one changes nothing."""

import gzip
import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprune_rl.core.protocols import Accuracy, Measurement
from cprune_rl.core.workload import OperatorKind, Workload
from cprune_rl.cost_cache import Provenance, SqlStore, StoredTrial, Tuning
from cprune_rl.cost_cache.archive import file as archive_module
from cprune_rl.cost_cache.archive.file import open_archive
from cprune_rl.cost_cache.archive.import_export import (
    ExportFilter,
    export_archive,
    import_archive,
    read_archive,
)
from cprune_rl.errors import DataError, StoreError
from tests.doubles.stored_trials import CONV, trial

FROZEN = Path(__file__).parents[1] / "data" / "costs-format1.gz"  # written by 0.2
BLOCK = ["GetSBlock", [], ["conv", "main"], ["b0"]]
CATEGORICAL = ["SampleCategorical", [], [[0, 16, 64, 512], [0.25, 0.25, 0.25, 0.25]], ["v1"]]
TILE = ["SamplePerfectTile", ["l1"], [4, 64], ["v2", "v3", "v4", "v5"]]


def trace(*instructions: object, decisions: object = ()) -> str:
    """A schedule trace as the cost cache keeps it."""
    return json.dumps([list(instructions), decisions])


def filled(url: str = "sqlite://") -> SqlStore:
    """A store with two contexts, a described workload and another, a failure and a tuning."""
    store = SqlStore(url)
    store.describe([CONV])
    good = trial(
        "conv",
        "p1",
        trace_json=trace(BLOCK, CATEGORICAL, decisions=[[1, 3]]),
        measurement=Measurement((3e-3, 1e-3), None, 5e-4),
        provenance=Provenance(version="1", processor="2", os="3", python="4"),
        created=17.0,
    )
    bad = trial("conv", "p2", error="crashed", trace_json=trace(BLOCK))
    for context in ("x86", "arm"):
        store.add_trials(context, [good, bad, trial("reference", "reference", 1.0)])
        store.mark_tuned(context, "conv", Tuning(key="r", trace_digests=("p1", "p2"), seconds=2.0))
    store.put_accuracy("k", Accuracy(value=0.9, standard_error=0.01, n_images=100, cost_s=2.0))
    return store


def everything(store: SqlStore) -> list[object]:
    """All that a store says of what `filled` and the property test put there."""
    contexts = [s.context for s in store.contexts()]
    keys = ["conv", "reference", *(w.key for c in contexts for w, _ in store.fastest(c))]
    trials = [store.trials(c, k) for c in contexts for k in keys]
    whole = [(t, t.provenance, t.created) for of_one in trials for t in of_one]
    tunings = [store.tuned(c, k, "r") for c in contexts for k in keys]
    return [
        store.contexts(),
        whole,
        [store.fastest(c) for c in contexts],
        tunings,
        store.accuracy("k"),
    ]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of what `filled` holds."""
    store = filled()
    export_archive(store.database, tmp_path / "costs.gz")
    store.close()
    return tmp_path / "costs.gz"


def rewritten(path: Path, change: Callable[[list[dict[str, Any]]], None]) -> Path:
    """The archive with its lines changed, and a checksum that fits again."""
    lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()][:-1]
    change(lines)
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    sha256 = hashlib.sha256(content).hexdigest()
    end = json.dumps({"kind": "end", "sha256": sha256}).encode() + b"\n"
    path.write_bytes(gzip.compress(content + end))
    return path


def test_an_archive_holds_everything_and_adds_it_once(storage: str, archive: Path) -> None:
    expected, store = filled(), SqlStore(storage)
    added = import_archive(store.database, archive)
    assert added == {"workload": 2, "program": 3, "trial": 6, "tuning": 2, "accuracy": 1}
    read = read_archive(archive)
    assert everything(read) == everything(store)
    assert [t for _, t in read.fastest("arm")] == [t for _, t in expected.fastest("arm")]
    assert set(import_archive(store.database, archive).values()) == {0}
    assert everything(read) == everything(store), "twice is once"
    again = archive.with_name("again.gz")
    assert sum(export_archive(store.database, again).values()) == 13
    for opened in (read, store, expected):
        opened.close()


def test_the_frozen_archive_of_format_1_is_read() -> None:
    store = read_archive(FROZEN)
    assert [w for w, _ in store.fastest("x86")] == [CONV]
    good, bad = store.trials("x86", "conv")
    assert (good.trace_digest, bad.trace_digest) == ("p1", "p2")
    assert good.trace_json == trace(BLOCK, CATEGORICAL, decisions=[[1, 3]])
    assert good.measurement == Measurement((3e-3, 1e-3), None, 5e-4)
    assert (good.provenance.version, good.created) == ("0.2.0", 17.0)
    assert bad.measurement.error == "crashed"
    tuning = store.tuned("x86", "conv", "dense:random=5:seed=0")
    assert (tuning.trace_digests, tuning.seconds) == (("p1", "p2"), 2.0)
    assert store.accuracy("k")[0] == Accuracy(
        value=0.9, standard_error=0.01, n_images=100, cost_s=2.0
    )
    store.close()


def test_an_archive_has_the_names_on_disk_of_format_1(archive: Path) -> None:
    def names(path: Path) -> dict[str, set[str]]:
        lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        return {line["kind"]: set(line) for line in lines}

    assert names(archive) == names(FROZEN)


TEXT = st.text(
    st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=20
)
SAMPLES = st.lists(st.floats(1e-9, 1e5), min_size=1, max_size=4).map(tuple)
RUNS = st.builds(Measurement, samples_s=SAMPLES, reference_s=st.floats(0, 1e3))
FAILURES = st.builds(Measurement, error=st.text(max_size=30))
PROVENANCES = st.builds(Provenance, version=TEXT, processor=TEXT, os=TEXT, python=TEXT)
TRACES = st.integers(0, 3).map(lambda n: trace(CATEGORICAL, decisions=[[0, n]]))
SCHEDULES = st.dictionaries(TEXT.map(lambda t: "named " + t), TRACES, min_size=1, max_size=4)
ACCURACIES = st.builds(
    Accuracy,
    value=st.floats(-1, 1),
    standard_error=st.floats(0, 1),
    n_images=st.integers(0, 10**6),
)
SMALL_COUNTS = st.integers(1, 2**31 - 1)
COUNTS = st.integers(0, 2**62 - 1)
OPERATORS = st.builds(
    OperatorKind, name=TEXT, kernel=SMALL_COUNTS, stride=SMALL_COUNTS, height=SMALL_COUNTS
)
WORKLOADS = st.builds(
    Workload,
    key=TEXT,
    family=TEXT,
    channels_in=COUNTS,
    channels_out=COUNTS,
    macs=COUNTS,
    operator=OPERATORS,
)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_what_goes_into_an_archive_comes_out(data: st.DataObject) -> None:
    store = SqlStore("sqlite://")
    schedules = data.draw(SCHEDULES)
    workloads = data.draw(st.lists(WORKLOADS, min_size=1, max_size=3, unique_by=lambda w: w.key))
    store.describe(workloads)
    for context in data.draw(st.lists(TEXT, max_size=2, unique=True)):
        for workload in workloads:
            trials = [
                StoredTrial(
                    workload=workload.key,
                    trace_digest=digest,
                    trace_json=trace_json,
                    measurement=data.draw(RUNS | FAILURES),
                    provenance=data.draw(PROVENANCES | st.none()),
                    created=data.draw(st.floats(0, 1e10)),
                )
                for digest, trace_json in schedules.items()
            ]
            store.add_trials(context, trials)
            seconds = data.draw(st.floats(0, 1e9))
            tuning = Tuning(key="r", trace_digests=tuple(schedules), seconds=seconds)
            store.mark_tuned(context, workload.key, tuning)
    store.put_accuracy("k", data.draw(ACCURACIES))
    with tempfile.TemporaryDirectory() as folder:
        export_archive(store.database, Path(folder) / "costs.gz")
        read = read_archive(Path(folder) / "costs.gz")
    assert everything(read) == everything(store)
    read.close()
    store.close()


def test_a_filter_is_heeded(archive: Path) -> None:
    store = filled()
    assert export_archive(
        store.database, archive, ExportFilter(context="ar", accuracies=False)
    ) == {"workload": 1, "program": 3, "trial": 3, "tuning": 1}
    assert export_archive(store.database, archive, ExportFilter(family="3x3")) == {
        "workload": 1,
        "program": 2,
        "trial": 4,
        "tuning": 2,
        "accuracy": 1,
    }
    for only, there in (
        (ExportFilter(context="gpu"), "arm; x86"),
        (ExportFilter(family="dense"), "conv3x3"),
    ):
        with pytest.raises(StoreError, match=f"there are: {there}"):
            export_archive(store.database, archive, only)
    store.close()


def corrupt(raw: bytes) -> bytes:
    middle = len(raw) // 2
    return raw[:middle] + bytes([raw[middle] ^ 0xFF]) + raw[middle + 1 :]


def content_changed(raw: bytes) -> bytes:
    return gzip.compress(gzip.decompress(raw).replace(b"0.003", b"0.001"))


def without_end(raw: bytes) -> bytes:
    return gzip.compress(b"".join(gzip.decompress(raw).splitlines(keepends=True)[:-1]))


DAMAGE = {
    "a bit turned": corrupt,
    "cut off": lambda raw: raw[: len(raw) // 2],
    "cut off in its content": lambda raw: gzip.compress(gzip.decompress(raw)[:-200]),
    "without its end": without_end,
    "another sample": content_changed,
    "something after it": lambda raw: raw + gzip.compress(b"more\n"),
    "empty": lambda raw: b"",
    "a pickle": lambda raw: gzip.compress(b"\x80\x04\x95cposix\nsystem\n."),
    "no gzip": lambda raw: b"SQLite format 3\0" * 100,
    "one endless line": lambda raw: gzip.compress(b"[" * (9 * 2**20)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_archive_is_refused_and_changes_nothing(
    archive: Path, damage: Callable[[bytes], bytes]
) -> None:
    archive.write_bytes(damage(archive.read_bytes()))
    store = filled()
    before = everything(store)
    with pytest.raises(DataError, match=r"costs\.gz.*Nothing was taken"):
        import_archive(store.database, archive)
    assert everything(store) == before
    store.close()


def setting(kind: str, field: str, value: object) -> Callable[[list[dict[str, Any]]], None]:
    """Changes a field of the first line of a kind."""

    def change(lines: list[dict[str, Any]]) -> None:
        next(line for line in lines if line["kind"] == kind)[field] = value

    return change


LIES: dict[str, tuple[Callable[[list[dict[str, Any]]], None], str]] = {
    "text for a number": (setting("trial", "reference_s", "0"), "line 6: trial.reference_s"),
    "no number": (setting("trial", "samples_s", [float("nan")]), "line 6: "),
    "no time": (setting("trial", "samples_s", [0.0]), "greater than 0"),
    "a huge number": (setting("workload", "macs", 2**70), "line 2: workload.macs"),
    "a negative width": (setting("workload", "channels_in", -1), "channels_in"),
    "a context too many": (setting("trial", "context", 7), "no context 7"),
    "a provenance too many": (setting("trial", "provenance", 7), "no provenance 7"),
    "an unknown schedule": (setting("trial", "program", "p9"), "'p9' is not in the archive"),
    "a schedule under another's digest": (setting("program", "digest", "0" * 20), "not the one"),
    "a schedule that is no JSON": (setting("program", "trace", "import os"), "program.trace"),
    "a schedule nested without end": (setting("program", "trace", "[" * 10**6), "program.trace"),
    "a NUL": (setting("trial", "workload", "a\0b"), "NUL"),
    "an unknown field": (setting("trial", "code", "print()"), "trial.code"),
    "an unknown kind": (setting("trial", "kind", "pickle"), "line 6"),
    "another format": (setting("cprune-rl recording", "format", 2), "format"),
    "a wrong count": (lambda lines: lines.pop(), "the header says"),
    "more than announced": (lambda lines: lines.append(lines[-1]), "more lines of kind accuracy"),
    "another order": (lambda lines: lines.append(lines.pop(1)), "stands after"),
}


@pytest.mark.parametrize(("change", "message"), LIES.values(), ids=LIES.keys())
def test_a_tampered_archive_with_a_fitting_checksum_is_refused(
    archive: Path, change: Callable[[list[dict[str, Any]]], None], message: str
) -> None:
    rewritten(archive, change)
    with pytest.raises(DataError) as caught:
        read_archive(archive)
    assert message in str(caught.value)


def annotated(key: str, value: object = 1, kind: str = "Annotate") -> str:
    return trace(BLOCK, [kind, ["b0", value], [key], []])


def sampled(decisions: object) -> str:
    return trace(CATEGORICAL, TILE, decisions=decisions)


STRANGERS = {
    "C source": (
        annotated("pragma_import_c", '"int main() { return 0; }"'),
        "instruction 1: Annotate names",
    ),
    "C source by a variable": (
        annotated("pragma_import_c", "v1"),
        "instruction 1: Annotate: 'pragma_import_c' is not among the annotations",
    ),
    "LLVM code": (annotated("pragma_import_llvm"), "instruction 1: Annotate: 'pragma_import_llvm'"),
    "an intrinsic by annotation": (
        annotated("meta_schedule.auto_tensorize", '"dot"'),
        "instruction 1: Annotate: 'meta_schedule.auto_tensorize'",
    ),
    "a pipeline": (annotated("software_pipeline_stage"), "'software_pipeline_stage'"),
    "an annotation taken away": (
        annotated("pragma_import_c", kind="Unannotate"),
        "Unannotate: 'pragma_import_c'",
    ),
    "two keys": (
        trace(["Annotate", ["b0", 1], ["pragma_import_c", "meta_schedule.parallel"], []]),
        "not among the annotations",
    ),
    "a key in a list": (
        trace(["Annotate", ["b0", 1], [["pragma_import_c"]], []]),
        "not among the annotations",
    ),
    "text for a number of tasks": (
        annotated("meta_schedule.parallel", '"many"'),
        "meta_schedule.parallel may not be",
    ),
    "an endless unrolling": (
        annotated("meta_schedule.unroll_explicit", -1),
        "meta_schedule.unroll_explicit may not be",
    ),
    "an endless unrolling that is sampled": (
        trace(["SampleCategorical", [], [[-1], [1.0]], ["v0"]], decisions=[[0, 0]]),
        "SampleCategorical may not have",
    ),
    "an intrinsic": (
        trace(BLOCK, ["Tensorize", ["b0", '"dot"'], [True], []]),
        "instruction 1: 'Tensorize' is not among the schedule instructions",
    ),
    "an unchecked type": (
        trace(["UnsafeSetDType", ["b0"], [0, "int8"], []]),
        "instruction 0: 'UnsafeSetDType'",
    ),
    "an end of what is checked": (trace(["EnterPostproc", [], [], []]), "'EnterPostproc'"),
    "an object of TVM's": (
        trace(["GetLoops", ['{"root_index": 0}'], [], ["l1"]]),
        "GetLoops names",
    ),
    "an object nested": (
        trace(["CacheWrite", ["b0", ['{"root_index": 0}']], [0, "global"], ["b1"]]),
        "CacheWrite names",
    ),
    "an object for an attribute": (
        trace(["GetLoops", ["b0"], [{"a": 1}], ["l1"]]),
        "GetLoops has the attribute",
    ),
    "another memory": (
        trace(["CacheWrite", ["b0", []], [0, "shared"], ["b1"]]),
        "CacheWrite may not have",
    ),
    "a split without bounds": (
        trace(["Split", ["l1", 3, 5], [True, True], ["l2", "l3"]]),
        "Split may not have",
    ),
    "a kind that is no text": (
        trace([["GetSBlock"], [], [], []]),
        "is not among the schedule instructions",
    ),
    "half an instruction": (trace(["GetSBlock", []]), "[kind, inputs, attributes, outputs]"),
    "no instructions": ("[1]", "no schedule trace"),
    "an object": ('{"pragma_import_c": 1}', "no schedule trace"),
    "nothing decided": (sampled([]), "instruction 0: SampleCategorical has no decision"),
    "decided twice": (sampled([[0, 1], [1, [1, 2, 3, 4]], [0, 1]]), "belongs to no instruction"),
    "decided elsewhere": (sampled([[7, 1]]), "belongs to no instruction"),
    "no such category": (sampled([[0, 4]]), "SampleCategorical cannot be decided as 4"),
    "a tile of nothing": (
        sampled([[0, 1], [1, [1, 2, 0, 4]]]),
        "SamplePerfectTile cannot be decided",
    ),
    "a tile of other factors": (
        sampled([[0, 1], [1, [1] * 64]]),
        "SamplePerfectTile cannot be decided",
    ),
    "more factors than can be gone through": (
        trace(["SamplePerfectTile", ["l1"], [64, 64], ["v1"]], decisions=[[0, [1] * 64]]),
        "SamplePerfectTile may not have",
    ),
}


@pytest.mark.parametrize(("trace_json", "message"), STRANGERS.values(), ids=STRANGERS.keys())
def test_a_schedule_that_is_more_than_loops_is_refused_with_all_of_its_file(
    archive: Path, trace_json: str, message: str
) -> None:
    rewritten(archive, setting("program", "trace", trace_json))
    store = SqlStore("sqlite://")
    with pytest.raises(
        DataError, match=r"costs\.gz, line 3: program\.trace.*Nothing was taken"
    ) as caught:
        import_archive(store.database, archive)
    assert message in str(caught.value)
    assert store.contexts() == []
    store.close()


def test_a_schedule_of_every_listed_instruction_is_taken(archive: Path) -> None:
    loops = [
        ["GetLoops", ["b0"], [], ["l1"]],
        TILE,
        ["Split", ["l1", "v2", "v3", "v4", "v5"], [True, False], ["l6", "l7", "l8", "l9"]],
        ["Unroll", ["l9"], [], []],
    ]
    notes = [
        ["Annotate", ["b0", '"SSRSRS"'], ["meta_schedule.tiling_structure"], []],
        ["Annotate", ["b0", "v1"], ["meta_schedule.unroll_explicit"], []],
    ]
    trace_json = trace(
        BLOCK,
        *loops,
        CATEGORICAL,
        *notes,
        ["CacheWrite", ["b0", []], [0, "global"], ["b10"]],
        decisions=[[2, [4, 1, 1, 2]], [5, 2]],
    )
    store = read_archive(rewritten(archive, setting("program", "trace", trace_json)))
    assert {t.trace_json for t in store.trials("arm", "conv")} >= {trace_json}
    store.close()


def test_a_cache_that_holds_more_than_loops_is_not_handed_over(tmp_path: Path) -> None:
    store = SqlStore("sqlite://")
    store.add_trials("c", [trial("conv", "p", 1.0, trace_json=annotated("pragma_import_llvm"))])
    with pytest.raises(StoreError, match=r"program cannot be exported.*pragma_import_llvm"):
        export_archive(store.database, tmp_path / "costs.gz")
    store.close()


def test_an_unchanged_archive_rewritten_is_read(archive: Path) -> None:
    read_archive(rewritten(archive, lambda lines: None)).close()


def test_an_archive_that_grows_without_end_is_stopped(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match="more than 1000 bytes"):
        read_archive(archive)
    store = filled()
    with pytest.raises(DataError, match="at most 1000 bytes"):
        export_archive(store.database, archive.with_name("new.gz"))
    assert list(archive.parent.iterdir()) == [archive], "nothing is left of an export that fails"
    store.close()


def test_an_import_that_fails_in_the_middle_changes_nothing(archive: Path, storage: str) -> None:
    store = SqlStore(storage)
    before = everything(store)

    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_archive(store.database, archive, interrupt)
    assert everything(store) == before
    store.close()


def test_an_archive_is_exported_while_another_writes(storage: str, tmp_path: Path) -> None:
    store, other = filled(storage), SqlStore(storage)
    with other.database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM accuracies")
        assert export_archive(store.database, tmp_path / "costs.gz")["accuracy"] == 1, (
            "what is not committed is not seen"
        )
    with open_archive(tmp_path / "costs.gz") as checked:
        assert checked.n_lines == 13
    store.close()
    other.close()


def test_a_missing_archive_and_a_folder_say_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_archive(tmp_path / "none.gz")
    store = filled()
    with pytest.raises(StoreError, match="cannot write"):
        export_archive(store.database, tmp_path / "no" / "folder.gz")
    store.close()
