"""Files are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from cprune_rl.core.atomic_files import write_text, written_whole


def test_what_was_there_stays_where_writing_fails(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    write_text(file, "before")

    def fill_the_disk() -> None:
        with written_whole(file) as unfinished:
            unfinished.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fill_the_disk()
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    for text in ("before", "after"):
        write_text(file, text)
    assert file.read_text() == "after"
    assert list(tmp_path.iterdir()) == [file]


def test_names_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    write_text(tmp_path / "command.txt", "prune \udcff")
    assert (tmp_path / "command.txt").read_text() == r"prune \udcff"
