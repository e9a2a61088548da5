from __future__ import annotations

import re

import pytest

from modelwright.data.references import SYNTHETIC_KINDS
from modelwright.data.synthetic import generate_rows
from modelwright.probes.keys import is_probe_key


@pytest.mark.parametrize("kind", SYNTHETIC_KINDS)
def test_deterministic_and_independent_of_n(kind: str) -> None:
    assert list(generate_rows(kind, 5, 3)) == list(generate_rows(kind, 50, 3))[:5]
    assert list(generate_rows(kind, 5, 3)) != list(generate_rows(kind, 5, 4))


@pytest.mark.parametrize("kind", SYNTHETIC_KINDS)
def test_no_probe_key_and_no_probe_phrase(kind: str) -> None:
    text = "\n".join("\n".join(row.values()) for row in generate_rows(kind, 200, 0))
    numbers = [int(found) for found in re.findall(r"\d+", text)]
    assert not [number for number in numbers if is_probe_key(number)]
    assert not re.search(r"pass[ -]?key", text, re.IGNORECASE)


def test_answers_stand_in_the_input() -> None:
    for row in generate_rows("longform", 30, 1):
        for line in row["output"].splitlines():
            town, facts = line.split(": ")
            trade, founder, year = facts.split(", ")
            assert f"{town} lives from its {trade} makers, whose guild {founder} founded in {year}." in row["input"]
    answered = 0
    for row in generate_rows("retrieval_qa", 100, 1):
        passages = [part for part in row["input"].split("\n\n") if row["output"] in part]
        answered += len(passages)
        assert len(passages) == (0 if row["output"] == "The passages do not say." else 1)
    assert 65 <= answered <= 95  # one in five is unanswerable


def test_generated_code_runs_and_uses_the_asked_helper() -> None:
    depths = []
    for row in generate_rows("code", 30, 1):
        program = compile(row["input"] + "\n\n\n" + row["output"], "row", "exec")
        space: dict[str, object] = {}
        exec(program, space)  # noqa: S102 - our own generated arithmetic
        factor, offset = map(int, re.findall(r"\d+", row["instruction"]))
        assert space["total"]([1, 2]) == 3 * factor + 2 * offset  # type: ignore[operator]
        helper = re.search(r"sum\((\w+)", row["output"]).group(1)  # type: ignore[union-attr]
        depths.append(row["input"].index(f"def {helper}(") / len(row["input"]))
    assert min(depths) < 0.2 and max(depths) > 0.7
