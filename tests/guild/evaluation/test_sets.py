"""Validation sets as files. (specs/guild.md 4.7; issue, Build 5)"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guild.evaluation import sets
from guild.evaluation.questions import spread
from guild.evaluation.rows import FIELDS, Row, judge_row, read_rows, write_rows
from guild.evaluation.sets import MANIFEST, SETS, main, make_sets, set_files
from guild.evaluation.stored_sets import read_set, set_digest
from guild.places import Places
from guild.skills.binary.skill import BinarySkill
from guild.skills.contract import held_out
from guild.skills.syllables.skill import SyllableSkill
from helpers.guild_records import digests
from modelwright.errors import DamagedFileError, MissingFileError
from modelwright.files import read_json, sha256_file

SKILLS = {"bin": BinarySkill(), "sy": SyllableSkill(edition=10)}


@pytest.mark.slow
def test_one_seed_makes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    one, two = (Places(tmp_path / name) for name in ("one", "two"))
    assert [made.new for made in make_sets(one, seed=5)] == [True] * 4
    make_sets(two, seed=5)
    assert digests(one.base) == digests(two.base)
    for name in SETS:
        for path, rows in set_files(name, 6).items():
            assert rows != read_rows(one.validation_data / name / path)


def test_every_set_has_its_rows_fields_and_manifest(tmp_path: Path) -> None:
    places = Places(tmp_path)
    made = {one.name: one for one in make_sets(places)}
    assert set(made) == set(SETS)
    assert {name: one.rows for name, one in made.items()} == {"primitives": 4800, "benchmarks": 2400, "binary": 300, "syllo_10level": 200}
    for name, one in made.items():
        manifest = read_json(one.folder / MANIFEST)
        assert (manifest["set"], manifest["rows"], manifest["schema_version"]) == (name, one.rows, 1)
        for path, told in manifest["files"].items():
            assert (told["sha256"], told["rows"]) == (sha256_file(one.folder / path), len(read_rows(one.folder / path)))
        for rows in read_set(places, name).values():
            assert len(rows) >= 100
            assert len({row.user_prompt for row in rows}) == len(rows)
            assert tuple(rows[0].as_dict()) == FIELDS
            for row in rows:
                assert judge_row(row, row.expected_answer, SKILLS).correct, row
    assert len(list((places.validation_data / "primitives").iterdir())) == 41  # forty families and the manifest
    assert len(list((places.validation_data / "benchmarks").iterdir())) == 21
    levels = [read_rows(places.validation_data / "syllo_10level" / f"level_{level:02d}.jsonl") for level in range(1, 11)]
    assert [len(rows) for rows in levels] == [20] * 10


def test_rows_of_the_skills_are_problems_that_training_never_sees() -> None:
    for rows in set_files("binary").values():
        assert all(held_out(row.metadata["sample"]["metadata"]["problem"]) for row in rows)
    files = set_files("syllo_10level")
    sets_of_words = {
        tuple(sorted(word["syllables"][0] + str(word["label"]) for word in row.metadata["sample"]["metadata"]["puzzle"]["words"]))
        for rows in files.values()
        for row in rows
    }
    assert len(sets_of_words) > 150


def test_a_set_that_is_there_is_never_touched(tmp_path: Path) -> None:
    places = Places(tmp_path)
    mine = places.validation_data / "primitives" / "addition" / "mine.jsonl"
    mine.parent.mkdir(parents=True)
    row = {"skill": "addition", "difficulty": "easy", "user_prompt": "1+1", "expected_answer": "2", "metadata": {}}
    mine.write_text(json.dumps(row))  # without a last newline, as other programs write
    before = digests(places.base)
    made = {one.name: one.new for one in make_sets(places)}
    assert made == {"primitives": False, "benchmarks": True, "binary": True, "syllo_10level": True}
    after = digests(places.base)
    assert {path: after[path] for path in before} == before
    assert [path for path in after if "/primitives/" in path] == list(before)
    assert read_set(places, "primitives") == {"addition": [Row("addition", "easy", "1+1", "2", {})]}
    assert judge_row(read_set(places, "primitives")["addition"][0], " 2.", {}).correct
    assert [one.new for one in make_sets(places, seed=99)] == [False] * 4
    assert digests(places.base) == after


def test_a_set_is_made_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places, written = Places(tmp_path), []
    write = sets.write_rows

    def failing(path: Path, rows: list[Row]) -> None:
        written.append(path)
        if len(written) == 7:
            raise OSError("no more")
        write(path, rows)

    monkeypatch.setattr(sets, "write_rows", failing)
    with pytest.raises(OSError, match="no more"):
        make_sets(places, only=["benchmarks"])
    assert list(places.validation_data.iterdir()) == []


def test_a_missing_set_and_a_damaged_row_are_named(tmp_path: Path) -> None:
    places = Places(tmp_path)
    with pytest.raises(MissingFileError, match=r"guild\.evaluation\.sets"):
        read_set(places, "binary")
    path = places.validation_data / "binary" / "easy.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"skill": "bin", "difficulty": "easy", "user_prompt": "x"}\n')
    with pytest.raises(DamagedFileError, match="line 1 has no text expected_answer"):
        read_set(places, "binary")
    path.write_text("nonsense\n")
    with pytest.raises(DamagedFileError, match="line 1 is no JSON"):
        read_set(places, "binary")


def test_rows_that_name_no_judge_are_judged_by_their_skill_and_in_its_older_dialect(tmp_path: Path) -> None:
    places, folder = Places(tmp_path), tmp_path / "data" / "validation" / "binary"
    folder.mkdir(parents=True)
    older = {"skill": "binary", "difficulty": "easy", "user_prompt": "What is ①⓪ plus ①①?", "expected_answer": "add ①⓪ ①① = ①⓪①"}
    newer = {"skill": "binary", "difficulty": "hard", "user_prompt": "Compute: add(①, ①)", "expected_answer": "add(①, ①) = ①⓪"}
    write_rows(folder / "easy.jsonl", [Row(**older, metadata={"id": "x"}), Row(**newer)])
    (one, two) = read_set(places, "binary")["binary"]
    assert (one.judged_by, two.judged_by, one.metadata["id"]) == ("skill:bin", "skill:bin", "x")
    assert judge_row(one, "Sure.\nadd ①⓪ ①① = ①⓪ ①\nsince 2 + 3 = 5", SKILLS).correct
    assert not judge_row(one, "add ①⓪ ①① = ①⓪⓪", SKILLS).correct
    assert judge_row(two, "add(①,①) = ①⓪", SKILLS).correct and not judge_row(two, "①⓪", SKILLS).correct
    puzzle = SyllableSkill(edition=10).evaluation(2, 1)[0]
    path = places.validation_data / "syllo_10level" / "level_02.jsonl"
    path.parent.mkdir()
    meta = {"puzzle": puzzle.metadata["puzzle"]}
    rows = [Row("syllo", "level_02", puzzle.user_prompt, puzzle.assistant_response, kept) for kept in (meta, {})]
    write_rows(path, rows)
    (with_puzzle, without) = read_set(places, "syllo_10level")["syllo"]
    assert (with_puzzle.judged_by, without.judged_by) == ("skill:sy", "answer:text")
    assert judge_row(with_puzzle, puzzle.assistant_response, SKILLS).correct and not judge_row(with_puzzle, "x", SKILLS).correct


def test_evaluation_files_of_bin_are_written_and_those_in_the_set_belong_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = Places(tmp_path)
    assert main(["--base-dir", str(tmp_path), "--evaluation-files"]) == 0
    assert "bin: 30 evaluation files" in capsys.readouterr().out
    written = places.validation_data / "bin" / "level_03.json"
    wanted = [(one.user_prompt, one.assistant_response) for one in BinarySkill().evaluation(3, 20)]
    assert [(one["prompt"], one["expected"]) for one in read_json(written)["problems"]] == wanted
    make_sets(places, only=["binary"])
    digest = set_digest(places, "binary")
    (places.validation_data / "binary" / "level_03.json").write_bytes(written.read_bytes())
    assert set_digest(places, "binary") != digest
    rows = [row for row in read_set(places, "binary")["bin"] if row.difficulty == "level_03"]
    assert [(row.user_prompt, row.expected_answer) for row in rows] == wanted
    assert all(judge_row(row, row.expected_answer, SKILLS).correct for row in rows)


def test_a_part_is_spread_over_the_difficulties_and_the_digest_follows_the_rows(tmp_path: Path) -> None:
    places = Places(tmp_path)
    make_sets(places, only=["binary"])
    rows = read_set(places, "binary")["bin"]
    assert [row.difficulty for row in spread(rows, 5)] == ["easy", "hard", "medium", "easy", "hard"]
    assert spread(rows, 10_000) != [] and len(spread(rows, 10_000)) == len(rows)
    before = set_digest(places, "binary")
    with (places.validation_data / "binary" / "easy.jsonl").open("a") as file:
        file.write(json.dumps(rows[0].as_dict()) + "\n")
    assert set_digest(places, "binary") != before


def test_the_command_makes_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--base-dir", str(tmp_path), "--only", "binary", "--seed", "3"]) == 0
    assert "binary: 300 rows" in capsys.readouterr().out
    assert main(["--base-dir", str(tmp_path), "--only", "binary", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sets"][0]["new"] is False
