from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from modelwright.errors import DamagedFileError
from scaler_wizard import run_metadata
from scaler_wizard.run_metadata import METADATA_FILE, RungRecord

RUN_ID = "0b0f9f3e-1111-4000-8000-0123456789ab"
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def test_it_holds_what_a_rollback_reads(tmp_path: Path) -> None:
    metadata = run_metadata.start(RUN_ID, "a" * 64, "b" * 64, NOW)
    metadata = metadata.promoted(0, "checkpoints/phase_0", "c" * 64, {"rope_type": "default"}, NOW)
    metadata = metadata.promoted(1, "checkpoints/phase_1", "d" * 64, now=NOW).with_status("running", NOW)
    metadata = metadata.with_rung(RungRecord(length=4096, phase=2, path="x", promoted=False), NOW)
    metadata = metadata.with_rung(RungRecord(length=2048, phase=1, path="y", promoted=True, scores={"passkey": 1.0}), NOW)
    metadata = metadata.with_rung(RungRecord(length=4096, phase=2, path="z", promoted=True), NOW)
    run_metadata.save(tmp_path, metadata)
    document = json.loads((tmp_path / METADATA_FILE).read_text())
    assert document["phase"] == 1
    assert document["checkpoints"] == {"phase_0": "checkpoints/phase_0", "phase_1": "checkpoints/phase_1"}
    assert document["manifests"] == {"phase_0": "c" * 64, "phase_1": "d" * 64}
    assert document["rope_parameters"] == {"rope_type": "default"}
    assert [(rung["length"], rung["path"]) for rung in document["rungs"]] == [(2048, "y"), (4096, "z")]
    assert set(document) == {
        "phase", "checkpoints", "run_id", "schema_version", "status", "started_at", "updated_at", "config_sha256",
        "contract_sha256", "rope_parameters", "rungs", "manifests", "rollbacks", "lock",
    }  # fmt: skip
    assert run_metadata.load(tmp_path) == metadata


def test_a_wrong_value_is_refused_and_damage_is_named(tmp_path: Path) -> None:
    metadata = run_metadata.start(RUN_ID, "a", "b", NOW)
    with pytest.raises(ValidationError):
        metadata.promoted(5, "x", "y")
    with pytest.raises(ValidationError):
        run_metadata.start(RUN_ID.upper(), "a", "b")
    (tmp_path / METADATA_FILE).write_text(json.dumps({**metadata.model_dump(mode="json"), "phase": "two"}))
    with pytest.raises(DamagedFileError, match="phase"):
        run_metadata.load(tmp_path)
    (tmp_path / METADATA_FILE).write_text("")
    with pytest.raises(DamagedFileError):
        run_metadata.load(tmp_path)
