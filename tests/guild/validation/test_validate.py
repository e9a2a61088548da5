"""The three levels on whole files (acceptance items 16, 17, 18)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from guild.validation.deep.checks import ROW_CHECKS, RowCheck
from guild.validation.policy import Policy
from guild.validation.validate import validate_file
from helpers.guild_rows import chat, many, turns, write_rows
from modelwright.errors import UsageError


def words(content: Any) -> int:
    """A tokenizer for which a word is a token."""
    return len(content.split()) if isinstance(content, str) else sum(len(message["content"].split()) for message in content)


def test_item_16_an_unknown_schema_id_is_rejected_wherever_it_stands(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", [chat()])
    allowed = f"allowed in the job for {path}: chat_sft_v1, syllo_v1, completion_v1. Did you mean 'chat_sft_v1'?"
    assert validate_file(path, schema="chat_sft_v2").errors == (f"schema: found 'chat_sft_v2'; {allowed}",)
    path.with_name("data.jsonl.meta.json").write_bytes(orjson.dumps({"generator_id": "manual", "schema_id": "chat"}))
    assert f"found 'chat'; allowed in the sidecar of {path}" in validate_file(path).errors[0]
    first = write_rows(tmp_path / "first.jsonl", [chat(metadata={"schema_id": "mystery_v1"})])
    assert f"found 'mystery_v1'; allowed in the first row of {first}" in validate_file(first, allow_default=True).errors[0]
    later = write_rows(tmp_path / "later.jsonl", [chat(), chat(metadata={"schema_id": "mystery_v1"})])
    (error,) = validate_file(later, schema="chat_sft_v1").errors
    assert f"{later} line 2, schema_id: found a text, 'mystery_v1'; allowed: one of chat_sft_v1" in error


def test_item_16_a_missing_id_needs_allow_default(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", [chat()])
    refused = validate_file(path)
    assert not refused.valid
    assert "no schema id in the job, the sidecar or the first row" in refused.errors[0]
    taken = validate_file(path, allow_default=True)
    assert taken.valid
    assert (taken.stats["schema_id"], taken.stats["schema_source"]) == ("chat_sft_v1", "default")


@pytest.mark.parametrize("level", ["quick", "standard", "deep"])
def test_item_16_completion_v1_passes_every_level_with_text_only(tmp_path: Path, level: Any) -> None:
    path = write_rows(tmp_path / "data.jsonl", [{"text": f"The river {n} runs past the mill."} for n in range(30)])
    report = validate_file(path, level, schema="completion_v1", tokenizer=words, max_length=20)
    assert (report.valid, report.errors, report.warnings) == (True, (), ())
    assert not validate_file(path, level, schema="chat_sft_v1").valid


def test_the_job_names_the_schema_before_the_sidecar_and_that_before_the_first_row(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", [chat(metadata={"schema_id": "chat_sft_v1"}, text="both shapes")])
    assert validate_file(path).stats["schema_source"] == "first row"
    path.with_name("data.jsonl.meta.json").write_bytes(orjson.dumps({"extra": {"schema_id": "syllo_v1"}}))
    report = validate_file(path)
    assert (report.stats["schema_id"], report.stats["schema_source"]) == ("syllo_v1", "sidecar")
    assert "rows that name another schema than the file has: 1 of 1 (100.0%), line 1" in report.warnings[0]
    report = validate_file(path, schema="completion_v1")
    assert (report.stats["schema_id"], report.stats["schema_source"]) == ("completion_v1", "job")


def test_item_17_quick_rejects_broken_json_a_bad_role_and_empty_messages(tmp_path: Path) -> None:
    rows = [chat(), b'{"messages": [', turns(("user", "a"), ("wizard", "b"), ("assistant", "c")), {"messages": []}, b"[1]", chat()]
    path = write_rows(tmp_path / "data.jsonl", rows)
    report = validate_file(path, schema="chat_sft_v1")
    assert not report.valid
    assert [error.split(": ")[0] for error in report.errors] == [
        f"{path} line 2",
        f"{path} line 3, messages[1].role",
        f"{path} line 4, messages",
        f"{path} line 5",
    ]
    assert all("found " in error and "allowed: " in error for error in report.errors)
    assert (report.stats["rows"], report.stats["sound_rows"]) == (6, 2)


def test_quick_rejects_a_row_without_a_turn_of_both_sides(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", [turns(("user", "a question")), chat()])
    assert "line 1, messages: found no turn of the assistant" in validate_file(path, schema="chat_sft_v1").errors[0]


def test_quick_stops_after_100_errors_and_says_so(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", [*many(10), *["broken"] * 500])
    report = validate_file(path, "deep", schema="chat_sft_v1")
    assert len(report.errors) == 100
    assert report.warnings == (f"{path}: stopped at line 110 after 100 errors; what follows was not looked at.",)
    assert report.stats["lines"] == 110
    assert "deep" not in report.stats


def test_item_17_standard_reports_the_percentiles_of_a_sample(tmp_path: Path) -> None:
    rows = [chat(" ".join(["word"] * (n % 100)) + " end", "one two three") for n in range(1000)]
    path = write_rows(tmp_path / "data.jsonl", rows)
    lengths = validate_file(path, "standard", schema="chat_sft_v1", tokenizer=words).stats["lengths"]
    assert lengths["unit"] == "tokens"
    assert lengths["rows"] == 100
    assert 4 <= lengths["min"] <= 12 and 90 <= lengths["p95"] <= lengths["p99"] <= lengths["max"] <= 103
    assert 40 <= lengths["median"] <= 65


def test_item_17_a_95th_percentile_above_the_limit_blocks(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", [chat("short one", "fine")] * 90 + [chat("far " * 50, "fine")] * 10)
    report = validate_file(path, "standard", schema="chat_sft_v1", tokenizer=words, max_length=40)
    assert not report.valid
    assert "a 95th percentile of 51 tokens over 100 sampled rows (10% of them too long); allowed: at most 40 tokens" in report.errors[0]
    assert validate_file(path, "standard", schema="chat_sft_v1", tokenizer=words, max_length=51).valid
    assert validate_file(path, "quick", schema="chat_sft_v1", max_length=40).valid


def test_one_reply_above_the_limit_among_the_first_100_rows_blocks(tmp_path: Path) -> None:
    rows = [chat("short one", "fine")] * 300
    path = write_rows(tmp_path / "data.jsonl", [*rows[:60], chat("why", "so " * 41), *rows])
    report = validate_file(path, "standard", schema="chat_sft_v1", tokenizer=words, max_length=40)
    (error,) = report.errors
    assert f"{path} line 61: found a reply of 41 tokens; allowed: at most 40 tokens" in error
    behind = write_rows(tmp_path / "behind.jsonl", [*rows[:100], chat("why", "so " * 41), *rows])
    assert validate_file(behind, "standard", schema="chat_sft_v1", tokenizer=words, max_length=40).valid


def test_lengths_without_a_tokenizer_are_characters_and_judge_nothing(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", [chat("four", "sixsix")])
    assert validate_file(path, "standard", schema="chat_sft_v1").stats["lengths"] == {
        "unit": "characters", "rows": 1, "min": 10, "max": 10, "median": 10, "p95": 10, "p99": 10, "longest_output": 6, "over": None,
    }  # fmt: skip
    with pytest.raises(UsageError, match="without a tokenizer"):
        validate_file(path, "standard", schema="chat_sft_v1", max_length=100)
    with pytest.raises(UsageError, match="level: found 'thorough'"):
        validate_file(path, "thorough", schema="chat_sft_v1")  # type: ignore[arg-type]


def test_deep_findings_warn_unless_the_policy_blocks_them(tmp_path: Path) -> None:
    rows = [*many(48), chat("Why is the sky blue?", "no"), chat("Why is the sky so blue?", "")]
    path = write_rows(tmp_path / "data.jsonl", rows)
    report = validate_file(path, "deep", schema="chat_sft_v1")
    assert report.valid
    assert report.warnings == (
        f"{path}: the reply says nothing (degenerate): 2 of 50 (4.0%), lines 49, 50; the first: a reply of 2 characters, 'no'.",
    )
    assert report.stats["deep"]["degenerate"] == 2
    blocked = validate_file(path, "deep", schema="chat_sft_v1", policy=Policy(block={"degenerate": 0.03}))
    assert (blocked.valid, blocked.errors) == (False, report.warnings)
    assert validate_file(path, "deep", schema="chat_sft_v1", policy=Policy(block={"degenerate": 0.04})).valid
    silent = validate_file(path, "deep", schema="chat_sft_v1", policy=Policy(skip=frozenset({"degenerate"})))
    assert (silent.warnings, "degenerate" in silent.stats["deep"]) == ((), False)


def test_an_unknown_check_in_a_policy_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"check: found 'degenerated'; .* Did you mean 'degenerate'\?"):
        Policy(block={"degenerated": 0.0})
    with pytest.raises(UsageError, match=r"policy\.block\.leakage: found 5; allowed: a share of the rows, 0 to 1"):
        Policy(block={"leakage": 5})


def test_item_18_a_check_that_raises_makes_the_file_invalid(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", [chat(), chat("short")])

    def broken(view: Any) -> str | None:
        return str(view.asked[17])

    report = validate_file(path, "deep", schema="chat_sft_v1", checks={**ROW_CHECKS, "mine": RowCheck(broken, "my own")})
    assert not report.valid
    (error,) = report.errors
    assert error.startswith(f"{path}: found a check that failed itself (IndexError: string index out of range in broken (test_validate.py")
    assert (report.validator_name, report.validator_version) == ("data_validator", "1.1.0")


def test_item_18_a_tokenizer_that_raises_anything_makes_the_file_invalid(tmp_path: Path) -> None:
    class Odd(Exception):
        pass

    def broken(content: Any) -> int:
        raise Odd("no such token")

    path = write_rows(tmp_path / "data.jsonl", [chat(metadata={"generator_id": "bin_api", "generator_version": "1.0.0"})])
    report = validate_file(path, "standard", schema="chat_sft_v1", tokenizer=broken)
    assert not report.valid
    assert "Odd: no such token in broken" in report.errors[0]
    assert report.generator_id == "bin_api"


def test_ctrl_c_is_no_verdict(tmp_path: Path) -> None:
    def interrupted(content: Any) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        validate_file(write_rows(tmp_path / "d.jsonl", [chat()]), "standard", schema="chat_sft_v1", tokenizer=interrupted)


def test_the_report_names_the_generator_of_the_sidecar_else_of_the_first_row(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", [chat(generator_id="sparring", generator_version="1.0.0")])
    report = validate_file(path, schema="chat_sft_v1")
    assert (report.generator_id, report.generator_version) == ("sparring", "1.0.0")
    sidecar = path.with_name("data.jsonl.meta.json")
    sidecar.write_bytes(orjson.dumps({"generator_id": "bin_api", "generator_version": "2.0.0", "example_count": 5}))
    report = validate_file(path, schema="chat_sft_v1")
    assert (report.generator_id, report.generator_version) == ("bin_api", "2.0.0")
    assert "found 1 rows; allowed: the 5 that its sidecar counts" in report.warnings[0]
    sidecar.write_bytes(b'{"generator_id": ')
    assert "meta.json is damaged" in validate_file(path, schema="chat_sft_v1").errors[0]
    assert report.as_dict()["generator_id"] == "bin_api"


def test_blank_lines_are_a_warning_with_their_places(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", [chat(), b"", chat("b"), b"  "])
    report = validate_file(path, schema="chat_sft_v1")
    assert report.valid
    assert report.warnings == (f"{path}: blank lines: 2 of 4 (50.0%), lines 2, 4.",)
    assert (report.stats["rows"], report.stats["blank_lines"]) == (2, 2)


def test_strict_mode_checks_every_row(tmp_path: Path) -> None:
    said = {"generator_id": "bin_api", "generator_version": "1.0.0", "skill": "bin", "level": 3}
    path = write_rows(tmp_path / "data.jsonl", [chat(metadata=said)] * 300 + [chat(metadata={"skill": "bin"})])
    assert validate_file(path, schema="chat_sft_v1").valid
    (error,) = validate_file(path, schema="chat_sft_v1", strict=True).errors
    assert "line 301, metadata: found no generator_id, generator_version, level" in error
