"""run.json: read strictly, written whole, without secrets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from modelwright.errors import DamagedFileError, MissingFileError, ModelwrightError, UsageError
from modelwright.files import sha256_json
from modelwright.record import RECORD_NAME, new_record, read_record, write_record


def some_record(**changes):
    given = {
        "kind": "t",
        "command": ["x", "--token", "abc"],
        "cwd": "/",
        "created_at": "2026-01-01T00:00:00Z",
    } | changes
    return new_record(**given)


def test_a_record_survives_the_round_trip(tmp_path: Path) -> None:
    record = some_record(config={"a": 1, "api_key": "secret"}, tags=["one"], files={"heartbeat": "logs/train_heartbeat"})
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    text = (tmp_path / RECORD_NAME).read_text()
    assert "abc" not in json.loads(text)["command"] and "secret" not in text
    assert record.config_sha256 == sha256_json({"a": 1, "api_key": "secret"})
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", record.run_id)
    assert record.files.metrics == "metrics.jsonl"


def test_fields_of_a_room_or_a_later_minor_version_survive(tmp_path: Path) -> None:
    write_record(tmp_path, some_record())
    path = tmp_path / RECORD_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "mine": {"x": 1}}))
    write_record(tmp_path, read_record(tmp_path))
    assert json.loads(path.read_text())["mine"] == {"x": 1}


def test_no_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no run\.json, so it is no run\. Give the directory of a run"):
        read_record(tmp_path)
    with pytest.raises(UsageError, match=r"gone does not exist\. Give the directory of a run"):
        read_record(tmp_path / "gone")
    (tmp_path / "writer.lock").touch()
    with pytest.raises(MissingFileError, match=r"run\.json, the record of this run, is missing\. Restore it from a copy"):
        read_record(tmp_path)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"run_id": "UPPER"}', b"null", b'{"schema_version": "x"}'])
def test_a_broken_record_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / RECORD_NAME).write_bytes(data)
    with pytest.raises(DamagedFileError, match=re.escape(str(tmp_path / RECORD_NAME)) + ".*Restore it from a copy"):
        read_record(tmp_path)


def test_a_newer_format_is_refused_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / RECORD_NAME).write_text('{"schema_version": 99}')
    with pytest.raises(ModelwrightError, match="format 99, newer than"):
        read_record(tmp_path)
