"""The committed schemas equal the models, names have one owner, and the import order means nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from modelwright import schema_registry
from modelwright.errors import ModelwrightError, UsageError
from modelwright.schema_registry import FOLDER, all_schemas, differences, export, get, json_schema

KERNEL = {
    "run-record", "heartbeat", "control-request", "control-answer", "checkpoint-manifest", "metric-event", "hardware-inventory",
    "memory-forecast", "memory-measured",
}  # fmt: skip


def test_committed_files_equal_the_models() -> None:
    assert differences() == []


def test_every_schema_is_valid_and_names_its_owner() -> None:
    assert {artifact.name for artifact in all_schemas()} >= KERNEL
    for artifact in all_schemas():
        schema = json_schema(artifact)
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["x-owner"] == artifact.owner and artifact.name in schema["$id"]


def test_differences_are_named(tmp_path: Path) -> None:
    export(tmp_path)
    assert differences(tmp_path) == []
    (tmp_path / "run-record.json").write_text("{}")
    (tmp_path / "heartbeat.json").unlink()
    (tmp_path / "stranger.json").write_text("{}")
    assert sorted(differences(tmp_path)) == [
        "heartbeat.json is missing",
        "run-record.json differs from its model",
        "stranger.json belongs to no schema",
    ]
    export(tmp_path)
    assert differences(tmp_path) == []


def test_an_unknown_name_lists_the_valid_ones() -> None:
    assert get("run-record").file == "run.json"
    with pytest.raises(UsageError, match="run-record"):
        get("run-recrod")


def test_two_owners_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_schemas.py").write_text(
        "from modelwright.schema_registry import ArtifactSchema\nSCHEMAS = (ArtifactSchema('heartbeat', 1, dict, 'toy', 'x'),)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    targets = {"kernel": "modelwright.artifacts:SCHEMAS", "toy": "toy_schemas:SCHEMAS", "absent": "not_installed_room:SCHEMAS"}
    monkeypatch.setattr(schema_registry, "entry_points", lambda group: targets)
    with pytest.raises(ModelwrightError, match="modelwright and toy"):
        all_schemas.__wrapped__()


def test_the_command_in_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "modelwright.schema_registry"]
    done = subprocess.run([*command, "check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run([*command, "list"], capture_output=True, text=True, check=False)
    assert "run.json" in done.stdout and done.returncode == 0
    assert subprocess.run([*command, "nonsense"], capture_output=True, check=False).returncode == 2


def test_exported_files_are_json_with_a_final_newline() -> None:
    for path in FOLDER.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert text.endswith("}\n") and json.loads(text)["$schema"] == schema_registry.DIALECT
