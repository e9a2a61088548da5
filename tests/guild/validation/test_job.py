"""The gate of a job (acceptance item 16)."""

from __future__ import annotations

from pathlib import Path

import orjson

from guild.validation.job import check_job
from helpers.guild_rows import chat, write_rows

SAID = {"generator_id": "bin_api", "generator_version": "1.0.0", "skill": "bin", "level": 3}


def test_item_16_a_job_is_named_as_its_validator_and_generator(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", [chat(metadata=SAID)])
    report = check_job({"dataset_path": str(path), "base_model": "tiny", "schema_id": "syllo_v1"})
    assert report.valid
    assert (report.validator_name, report.validator_version) == ("spec_validator", "1.0.0")
    assert (report.generator_id, report.generator_version) == ("bin_api", "1.0.0")
    assert report.stats["schema_id"] == "syllo_v1"


def test_every_fault_of_a_job_and_its_file_is_named_at_once(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", [{"text": "plain"}])
    report = check_job({"dataset_path": str(path), "schema_id": "chat_sft_v1"})
    assert [error.split(": found")[0] for error in report.errors] == ["job.base_model", f"{path} line 1, messages"]
    assert check_job({}).errors == (
        "job.dataset_path: found nothing; allowed: a text. Add dataset_path to the job.",
        "job.base_model: found nothing; allowed: a text. Add base_model to the job.",
    )


def test_item_16_an_unknown_or_missing_schema_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", [chat()])
    job = {"dataset_path": str(path), "base_model": "tiny"}
    assert f"found 'odd_v1'; allowed in the job for {path}: chat_sft_v1" in check_job({**job, "schema_id": "odd_v1"}).errors[0]
    assert "job.schema_id: found a number, 7" in check_job({**job, "schema_id": 7}, allow_default=True).errors[0]
    assert "no schema id" in check_job(job).errors[0]
    assert check_job(job, allow_default=True).stats["schema_source"] == "default"
    path.with_name("data.jsonl.meta.json").write_bytes(orjson.dumps({"schema_id": "completion_v1"}))
    assert "line 1, text: found the columns 'messages'" in check_job(job).errors[0]


def test_a_first_row_that_is_none_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", [b"", b"not json", chat()])
    report = check_job({"dataset_path": str(path), "base_model": "tiny", "schema_id": "chat_sft_v1"})
    assert "no JSON object as the first row" in report.errors[0]
    missing = check_job({"dataset_path": str(tmp_path / "gone.jsonl"), "base_model": ""})
    assert [error.split(":")[0] for error in missing.errors] == ["job.base_model", f"Cannot read {tmp_path / 'gone.jsonl'}"]


def test_strict_checks_every_row_and_its_metadata(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", [chat(metadata=SAID), chat(), {"messages": []}])
    job = {"dataset_path": str(path), "base_model": "tiny", "schema_id": "chat_sft_v1"}
    assert check_job(job).valid
    assert [error.split(": found")[0] for error in check_job(job, strict=True).errors] == [
        f"{path} line 2, metadata",
        f"{path} line 3, messages",
        f"{path} line 3, metadata",
    ]
