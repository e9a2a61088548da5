"""The command `guild sparring-check` as a user runs it. (specs/guild.md 3.8)"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guild.correction.rows import SessionMark, WrongAnswer, correction_rows
from guild.places import Places
from guild.skills.contract import Sample
from guild.sparring_validator import build_parser, main
from helpers.guild_rows import write_rows

ROWS = correction_rows(
    WrongAnswer(Sample("a", "1 + 1", "10"), "11"), Sample("b", "1 + 0", "1"), SessionMark("bin", 2, "checkpoint-5", "2026-03-04T12:00:00Z")
)


def test_a_good_file_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(write_rows(tmp_path / "a.jsonl", ROWS))]) == 0
    assert capsys.readouterr().out == "PASSED  a.jsonl: 3 of 3 rows are valid (100.0%; needed: 95%)\n"


def test_one_of_thirty_is_let_pass_and_not_strictly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_rows(tmp_path / "a.jsonl", [*ROWS * 10, b"{}"])
    assert main([str(path)]) == 0
    assert main([str(path), "--strict", "--json"]) == 1
    out, err = capsys.readouterr()
    told = json.loads(out[out.index("{") :])
    assert not told["passed"] and told["files"][0]["valid"] == 30 and "line 31" in told["files"][0]["faults"][0]
    assert "a.jsonl line 31: messages" in err


def test_check_all_looks_at_every_file_and_fails_with_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = Places(tmp_path)
    assert main(["--check-all", "--base-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "There is no sparring file.\n"
    for folder in (places.sparring_data, places.level("high")):
        folder.mkdir(parents=True)
    write_rows(places.sparring_data / "sparring_a.jsonl", ROWS)
    assert main(["--check-all", "--base-dir", str(tmp_path)]) == 0
    write_rows(places.level("high") / "sparring_b.jsonl", ["no"])
    assert main(["--check-all", "--base-dir", str(tmp_path)]) == 1
    assert "FAILED  sparring_b.jsonl: 0 of 1" in capsys.readouterr().out


def test_check_all_names_the_copy_of_a_kept_file_once_and_another_file_of_its_name_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = Places(tmp_path)
    for folder in (places.sparring_data, places.level("high"), places.level("low")):
        folder.mkdir(parents=True)
        write_rows(folder / "sparring_a.jsonl", ROWS)
    assert main(["--check-all", "--base-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("sparring_a.jsonl") == 1
    write_rows(places.level("low") / "sparring_a.jsonl", ["no"])
    assert main(["--check-all", "--base-dir", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "PASSED  sparring_a.jsonl" in out and "FAILED  sparring_a.jsonl" in out


def test_a_missing_file_is_exit_1_and_nothing_named_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.jsonl")]) == 1
    assert "none.jsonl" in capsys.readouterr().err
    for words in ([], ["a.jsonl", "--check-all"]):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == 2
    assert "--strict" in build_parser().format_help()
