"""A training that nobody carries out is seen as such, and put right by the next daemon. (specs/guild.md G7)"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from guild.control.daemon import TRAINER_LOCK
from guild.control.training_status import INTERRUPTED, is_stale, read_training_status, reset_stale
from guild.places import Places
from modelwright.clock import stamp
from modelwright.errors import DamagedFileError
from modelwright.files import make_folder, read_json, write_json
from modelwright.lock import WriterLock

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def said(status: str, ago_s: float = 0.0) -> dict[str, object]:
    return {"schema_version": 1, "status": status, "current_step": 7, "timestamp": stamp(NOW - timedelta(seconds=ago_s))}


def put(places: Places, campaign: str, content: dict[str, object]) -> Path:
    path = places.campaigns / "tiny" / campaign / "status" / "training_status.json"
    path.parent.mkdir(parents=True)
    write_json(path, content)
    return path


def test_g7_ten_minutes_or_a_dead_trainer_make_a_training_stale() -> None:
    assert not is_stale(said("training", 599), alive=True, now=NOW)
    assert is_stale(said("training", 601), alive=True, now=NOW)
    assert is_stale(said("training"), alive=False, now=NOW)
    assert is_stale({"status": "training", "timestamp": "yesterday"}, alive=True, now=NOW)
    assert not any(is_stale(said(status, 1e6), alive=False, now=NOW) for status in ("idle", "crashed", "completed"))


def test_g7_a_reader_looks_for_the_trainer(tmp_path: Path) -> None:
    places = Places(tmp_path)
    path = places.campaigns / "tiny" / "campaign-001" / "status" / "training_status.json"
    assert read_training_status(places, path) == {"schema_version": 1, "status": "idle", "stale": False}
    put(places, "campaign-001", {**said("training"), "timestamp": stamp(datetime.now(UTC))})
    assert read_training_status(places, path)["stale"] is True
    lock = WriterLock(make_folder(places.pids / TRAINER_LOCK), command=["trainer"])
    try:
        found = read_training_status(places, path)
        assert (found["stale"], found["current_step"]) == (False, 7)
    finally:
        lock.release()
    path.write_text("[]")
    with pytest.raises(DamagedFileError, match="writes it anew"):
        read_training_status(places, path)


def test_g7_a_start_resets_what_a_dead_trainer_left_in_every_campaign(tmp_path: Path) -> None:
    places = Places(tmp_path)
    first, second = put(places, "campaign-001", said("training")), put(places, "campaign-002", said("training", 3600))
    done, damaged = put(places, "campaign-003", said("completed")), put(places, "campaign-004", {})
    damaged.write_text("{")
    before = done.read_bytes()
    assert reset_stale(places) == [first, second]
    for path in (first, second):
        now = read_json(path)
        assert (now["status"], now["current_step"], now["error_message"]) == ("idle", 7, "Recovered from crash")
        assert now["error_type"] == INTERRUPTED
    assert done.read_bytes() == before and damaged.read_text() == "{"
    assert reset_stale(places) == []
