"""Evaluation files, and the older dialect that existing ones are written in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guild.skills.binary import dialect
from guild.skills.binary.evalfiles import evaluation_document, file_name, read_evaluation_file, write_evaluation_files
from guild.skills.binary.skill import BinarySkill
from modelwright.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expression", "value", "result"),
    [
        ("add ①⓪ ①① = ①⓪①", ("add", "①⓪", "①①"), 5, "①⓪①"),
        ("subtract 1010 11", ("subtract", "1010", "11"), 7, None),
        ("add add ① ① ①⓪", ("add", "add", "①", "①", "①⓪"), 4, None),
        ("Compute leftshift ①①⓪ ①⓪ =", ("leftshift", "①①⓪", "①⓪"), 24, None),
        ("What is ①⓪① plus ①?", ("add", "①⓪①", "①"), 6, None),
        ("Subtract ① from ①⓪⓪.", ("subtract", "①⓪⓪", "①"), 3, None),
        ("Please find the product of ①① and ①①", ("multiply", "①①", "①①"), 9, None),
        ("Shift ①①⓪ right by ①", ("rightshift", "①①⓪", "①"), 3, None),
        ("Divide ①①⓪ by ①⓪ and explain.", ("divide", "①①⓪", "①⓪"), 3, None),
    ],
)
def test_the_older_dialect_is_read(text: str, expression: tuple[str, ...], value: int, result: str | None) -> None:
    assert dialect.parse(text) == dialect.OldProblem(expression, value, result)


@pytest.mark.parametrize("text", ["", "hello", "add ①⓪", "divide ①⓪ ⓪", "leftshift ① ①①①①①①①①①①①①①①①①①①①①①①①①"])
def test_what_is_not_of_the_older_dialect_is_refused(text: str) -> None:
    with pytest.raises(dialect.DialectError, match="allowed"):
        dialect.parse(text)


@given(st.text(alphabet="⓪①01 addsubtrcleftshi=\n", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        problem = dialect.parse(text)
    except dialect.DialectError:
        return
    assert isinstance(problem.value, int) and problem.expression


def test_the_older_dialect_is_judged_by_its_result() -> None:
    assert dialect.judge("add ①⓪ ①① = ①⓪①", "add ①⓪ ①① = ①⓪ ①").correct
    assert dialect.judge("①⓪①", "Sure.\nadd ①⓪ ①① = ①⓪①\nbecause 2 + 3 = 5").correct
    verdict = dialect.judge("①⓪①", "add ①⓪ ①① = ①⓪⓪")
    assert not verdict.correct and verdict.partial == pytest.approx(2 / 3)
    assert not dialect.judge("①⓪①", "①⓪①").correct
    assert dialect.in_digits(dialect.parse("add ①⓪ ①①").value) == "①⓪①"


def test_a_level_file_has_the_fields_of_the_format_and_reads_back(tmp_path: Path) -> None:
    skill = BinarySkill()
    paths = write_evaluation_files(skill, tmp_path, count=5)
    assert [path.name for path in paths] == [f"level_{level:02d}.json" for level in range(1, 31)]
    document = json.loads((tmp_path / file_name(9)).read_text())
    assert document == evaluation_document(skill, 9, 5)
    assert {"level", "level_name", "bits", "eval_version", "pass_threshold", "scoring_rule", "problems"} <= document.keys()
    assert (document["level"], document["bits"], document["pass_threshold"]) == (9, 10, 0.8)
    assert all(set(problem) == {"prompt", "expected", "metadata"} for problem in document["problems"])
    samples = read_evaluation_file(tmp_path / file_name(9))[9]
    for read, made in zip(samples, skill.evaluation(9, 5), strict=True):
        assert (read.user_prompt, read.assistant_response, read.scenario) == (made.user_prompt, made.assistant_response, made.scenario)
        assert skill.judge(read, made.assistant_response).correct and not skill.judge(read, "no").correct


def test_the_older_file_keyed_by_level_is_read_and_judged_by_the_same_skill(tmp_path: Path) -> None:
    path = tmp_path / "bin_validation.json"
    problems = [
        {"prompt": "What is ①⓪ plus ①①?", "expected": "add ①⓪ ①① = ①⓪①"},
        {"prompt": "Compute: add(①, ①)", "expected": "add(①, ①) = ①⓪"},
    ]
    path.write_text(json.dumps({"version": "1", "1": problems, "2": {"problems": problems[:1]}}))
    found = read_evaluation_file(path)
    assert [len(found[level]) for level in (1, 2)] == [2, 1]
    old, new = found[1]
    assert (old.scenario, new.scenario) == ("old", "brief")
    skill = BinarySkill()
    assert skill.judge(old, "add ①⓪ ①① = ①⓪①").correct and not skill.judge(old, "add ①⓪ ①① = ①⓪⓪").correct
    assert skill.judge(new, "add(①, ①) = ①⓪").correct


def test_a_file_with_faults_names_them_all(tmp_path: Path) -> None:
    path = tmp_path / "level_01.json"
    path.write_text(json.dumps({"1": [{"prompt": 3}, {"prompt": "a", "expected": "b"}, 4], "2": "x"}))
    with pytest.raises(ConfigError) as caught:
        read_evaluation_file(path)
    assert len(caught.value.faults) == 3
    path.write_text("[]")
    with pytest.raises(ConfigError, match="JSON object"):
        read_evaluation_file(path)
