"""What a checkpoint keeps of the files in its weights. (specs/guild.md 2.1.3)"""

from __future__ import annotations

import pytest

from guild.training.trained_files import COMPLETE_KEPT, FormerPart, TrainedPart, job_key, job_number, parts_document, read_parts
from modelwright.errors import ModelwrightError


def part(windows: int, total: int = 40) -> TrainedPart:
    return TrainedPart(windows, total, windows // 4, 100, "a" * 64, "b" * 64)


def test_it_is_read_back_in_order_with_every_unfinished_file_and_the_last_finished_ones() -> None:
    parts = {"first@x": part(8)} | {f"{number}@x": part(40) for number in range(COMPLETE_KEPT + 3)} | {"last@x": part(4)}
    read = read_parts({"files": parts_document(parts)})
    assert list(read) == ["first@x", *(f"{number}@x" for number in range(3, COMPLETE_KEPT + 3)), "last@x"]
    assert all(read[key] == parts[key] for key in read)
    assert [read[key].complete for key in ("first@x", "3@x", "last@x")] == [False, True, False]
    assert read_parts({"schema_version": 1, "partial": {"1": 2}, "finished": ["3"]}) == {}


def test_steps_of_the_first_format_become_windows_only_when_their_size_is_on_record() -> None:
    assert FormerPart(100, "d").windows(3200, 16, "f.jsonl") == 1600
    for per_step in (None, 32, 64):  # unknown, or as many windows as the file has, or more
        with pytest.raises(ModelwrightError, match=r"f\.jsonl: 100 of its steps .* under another name"):
            FormerPart(100, "d").windows(3200, per_step, "f.jsonl")


def test_a_jobs_key_holds_its_number_and_the_moment_it_was_queued() -> None:
    key = job_key(12, "2026-01-31T08:00:00.123Z")
    assert job_number(key) == "12" and job_number("7") == "7"
    assert len({key, job_key(12, "2026-01-31T08:00:00.124Z"), job_key(13, "2026-01-31T08:00:00.123Z")}) == 3
