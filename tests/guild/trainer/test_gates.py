"""What stands before the first step: the spec gate, the rows, and what the house says of both. (specs/guild.md 5, items 16 and 18)"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from guild.campaigns.config_file import ValidationSection, edit_config_file
from guild.places import Places
from guild.queue.marks import retry
from guild.records.checkpoint_marks import checkpoint_folders
from guild.records.data_sidecars import new_data_sidecar, read_data_sidecar, write_data_sidecar
from guild.records.database import open_guild
from guild.records.lineage_documents import lineage_document
from guild.trainer import process
from guild.trainer.gates import Gate, check_rows
from guild.validation import job, validate
from helpers.guild_house import job_of, make_house, put
from helpers.guild_rows import broken_check, chat, write_rows
from modelwright.clock import SYSTEM_CLOCK
from modelwright.errors import ConfigError
from modelwright.loading import load_tokenizer, resolve_tokenizer

SPEC, DATA = "spec_validator@1.0.0", "data_validator@1.1.0"


@pytest.fixture
def house(tmp_path: Path) -> Places:
    return make_house(tmp_path / "house")


def train(places: Places) -> None:
    """The trainer, for one file."""
    assert process.main(["--base-dir", str(places.base), "--files", "1", "--idle-exit", "0", "--min-free-gb", "0"]) == 0


def bare(path: Path, rows: int = 40) -> Path:
    """Rows that name no schema, put there by hand a while ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = "which says the whole answer to it, in as many words as it takes"
    write_rows(path, [chat(f"Which number follows {number}?", f"After it comes {number + 1}, {texts}.") for number in range(rows)])
    past = time.time() - 60
    os.utime(path, (past, past))
    return path


def verdicts(places: Places) -> list[tuple[str, bool]]:
    with open_guild(places) as db:
        return [(row["validator"], bool(row["valid"])) for row in db.rows("SELECT validator, valid FROM validations ORDER BY id")]


@pytest.mark.parametrize(
    ("module", "name", "said"),
    [(validate, "scan_file", [(SPEC, True), (DATA, False)]), (job, "choose_schema", [(SPEC, False)])],
    ids=["of the rows", "of the job"],
)
def test_item_18_a_validator_that_raises_leaves_the_file_untrained(
    house: Places, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, said: list[tuple[str, bool]]
) -> None:
    put(house, "a.jsonl", 40, folder="queue/normal")
    monkeypatch.setattr(module, name, broken_check)
    train(house)
    parked = job_of(house, "a.jsonl")
    assert parked.state == "rejected" and parked.attempts == 0
    assert "a check that failed itself (RuntimeError: no such thing" in str(parked.error)
    assert (house.failed / "a.jsonl").is_file() and checkpoint_folders(house.campaigns / "tiny" / "campaign-001" / "checkpoints") == []
    assert verdicts(house) == said


def test_item_16_rows_that_name_no_schema_are_trained_only_where_the_default_is_allowed(house: Places) -> None:
    bare(house.level("normal") / "a.jsonl")
    train(house)
    parked = job_of(house, "a.jsonl")
    assert parked.state == "rejected" and "no schema id" in str(parked.error) and "validation.allow_default" in str(parked.error)
    assert verdicts(house) == [(SPEC, False)]
    edit_config_file(house, {"validation": {"allow_default": True}})
    with open_guild(house) as db:
        retry(db, house, "a.jsonl")
    train(house)
    assert job_of(house, "a.jsonl").state == "completed"
    assert verdicts(house)[1:] == [(SPEC, True), (DATA, True)]


def gate(places: Places, file: Path, rules: ValidationSection, **payload: Any) -> Gate:
    tokenizer = load_tokenizer(resolve_tokenizer("modelwright/tiny-0.4m"))
    with open_guild(places) as db:
        return check_rows(
            db, places, file, payload=payload, base_model="tiny", rules=rules, tokenizer=tokenizer, max_length=256, clock=SYSTEM_CLOCK
        )


def test_what_the_job_says_of_its_rows_decides(house: Places, tmp_path: Path) -> None:
    path, rules = bare(tmp_path / "a.jsonl"), ValidationSection()
    assert not gate(house, path, rules).passed
    for payload in ({"schema_id": "chat_sft_v1"}, {"allow_default": True}):
        assert gate(house, path, rules, **payload) == Gate(True, (), "chat_sft_v1", None, 40)
    wrong = gate(house, path, rules, schema_id="completion_v1")
    assert not wrong.passed and "text" in wrong.errors[0]
    assert "odd_v1" in gate(house, path, rules, schema_id="odd_v1").errors[0]


def test_both_verdicts_stand_in_the_sidecar_under_the_generator_that_it_names(house: Places) -> None:
    path = bare(house.level("normal") / "a.jsonl")
    write_data_sidecar(path, new_data_sidecar("bin_api", "1.0.0", 40, extra={"schema_id": "chat_sft_v1"}))
    assert gate(house, path, ValidationSection()).generator == "bin_api"
    sidecar = read_data_sidecar(path)
    assert sidecar is not None and sidecar.validator_versions == {"spec_validator": "1.0.0", "data_validator": "1.1.0"}
    with open_guild(house) as db:
        assert lineage_document(db)["generators"]["bin_api@1.0.0"]["by_validator"].keys() == {SPEC, DATA}
    path.with_name("a.jsonl.meta.json").write_text('{"generator_id": 7, "schema_id": "chat_sft_v1"}')
    damaged = gate(house, path, ValidationSection())
    assert not damaged.passed and "generator_id" in damaged.errors[0]


def test_a_deep_check_blocks_where_the_house_says_so(house: Places, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [chat(schema_id="chat_sft_v1")] * 40)
    assert gate(house, path, ValidationSection()).passed
    assert gate(house, path, ValidationSection(level="deep")).passed, "a warning"
    blocked = gate(house, path, ValidationSection(level="deep", block={"duplicates": 0.1}))
    assert not blocked.passed and "stands in the file before" in blocked.errors[0]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"level": "deep", "block": {"duplicate": 0.1}}, "'duplicate'"),
        ({"level": "deep", "block": {"duplicates": 2}}, "0 to 1"),
        ({"block": {"duplicates": 0.1}}, "level deep"),
        ({"level": "quick"}, "standard"),
        ({"strictness": 1}, "strictness"),
    ],
)
def test_a_section_that_means_nothing_is_refused(house: Places, section: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match="validation") as refused:
        edit_config_file(house, {"validation": section})
    assert said in str(refused.value)
