"""A record of a comparison: what its file holds, and what is refused."""

from pathlib import Path

import pytest

from cprune_rl.comparison.records import RunRecord, read_record, read_records
from cprune_rl.errors import ConfigError
from tests.doubles.fake_records import failed, make_record


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    records = [
        make_record(),
        failed(make_record("cprune")),
        make_record("exact", holds=False, ended="budget"),
    ]
    (tmp_path / "rows").mkdir()
    for at, record in enumerate(records):
        assert RunRecord.from_json(record.to_json()) == record
        (tmp_path / "rows" / f"{at}.json").write_text(record.to_json())
    assert read_records(tmp_path) == records


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("{", "Invalid JSON"),
        ("[1, 2]", "is no row"),
        ('{"model": "resnet8"}', "format"),
        (make_record().to_json()[:-40], "Invalid JSON"),
        (make_record().to_json().replace("row 1", "row 2"), "format"),
        (make_record().to_json().replace('"seed": 0', '"seed": "0"'), "row.seed"),
        (make_record().to_json().replace('"holds": true', '"holds": 1'), "row.holds"),
        (make_record().to_json().replace('"dense_s": 0.004', '"dense_s": NaN'), "row.dense_s"),
        (make_record().to_json().replace('"dense_s": 0.004', '"dense_s": -1.0'), "row.dense_s"),
        (make_record().to_json().replace('"ended"', '"finished": 1, "ended"'), "row.finished"),
        (make_record().to_json().replace('"wall_s"', '"wall_ms"'), "cost names"),
        (make_record().to_json().replace('"minutes"', '"hours"'), "budget names"),
        (make_record().to_json().replace('"error": null', '"error": "late"'), "which"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_by_name(
    tmp_path: Path, wrong: str, says: str
) -> None:
    path = tmp_path / "one.json"
    path.write_text(wrong)
    with pytest.raises(ConfigError, match=r"one\.json is no row of a comparison") as caught:
        read_record(path)
    assert says in str(caught.value)


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="shrinks"):
        make_record(curve=((2.0, 2.0, 0.1), (1.0, 3.0, 0.2)))
    with pytest.raises(ValueError, match="dense_s"):
        make_record(ended="error", error="late")


def test_a_folder_without_rows_or_with_two_of_one_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no rows"):
        read_records(tmp_path)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"a\.json"):
        read_records(tmp_path)
    for name in "ab":
        (tmp_path / "rows" / f"{name}.json").write_text(make_record().to_json())
    with pytest.raises(ConfigError, match=r"a\.json and b\.json"):
        read_records(tmp_path)


def test_a_run_that_failed_or_missed_its_floor_gained_nothing() -> None:
    assert make_record(speedup=3.0).speedup == pytest.approx(3.0)
    assert make_record(speedup=3.0, holds=False).log_gain == 0.0
    assert failed(make_record(speedup=3.0)).speedup == 1.0
