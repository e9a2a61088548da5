"""Families of problems: counted, distinct, repeatable, and right by an independent reckoning. (specs/guild.md 4.7)"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime, timedelta
from math import prod

import pytest

from guild.evaluation.answers import judge
from guild.evaluation.families import DIFFICULTIES, FAMILIES, Family
from guild.evaluation.families.family import WORDS
from guild.evaluation.stories import TASKS

ALL = (*FAMILIES, *TASKS)
BY_NAME = {family.name: family for family in ALL}


def test_there_are_forty_primitives_and_twenty_kinds_of_stories() -> None:
    assert (len(FAMILIES), len(TASKS), len(BY_NAME)) == (40, 20, 60)
    assert len(set(WORDS)) == len(WORDS)


@pytest.mark.parametrize("family", ALL, ids=lambda family: family.name)
def test_every_family_has_enough_distinct_problems_whose_golden_answer_its_judge_takes(family: Family) -> None:
    for difficulty in DIFFICULTIES:
        problems = family.problems(difficulty, 40, 11)
        assert len({problem.question for problem in problems}) == 40
        for problem in problems:
            assert judge(family.answer, problem.answer, problem.answer).correct, problem
        answers = Counter(problem.answer for problem in problems)
        assert answers.most_common(1)[0][1] <= 32, "one answer to nearly all of them"
        assert family.problems(difficulty, 25, 11) == problems[:25]
        assert family.problems(difficulty, 25, 12) != problems[:25]


def _items(text: str) -> list[str]:
    return text.split(", ")


def _after(question: str, mark: str) -> str:
    return question.partition(mark)[2].partition("\n")[0].strip()


def _numbers(question: str) -> list[int]:
    return [int(number) for number in re.findall(r"-?\d+", question.partition("\n")[0])]


def _clock(question: str) -> str:
    found = re.search(r"(\d+) minutes (before|after) (\d\d:\d\d)", question)
    assert found
    shift = timedelta(minutes=int(found[1]) * (1 if found[2] == "after" else -1))
    return f"{datetime.strptime(found[3], '%H:%M') + shift:%H:%M}"


def _day(question: str) -> str:
    found = re.search(r"(\d+) days? (before|after) (\d{4}-\d\d-\d\d)", question)
    assert found
    return str(date.fromisoformat(found[3]) + timedelta(days=int(found[1])) * (1 if found[2] == "after" else -1))


def _brackets(question: str) -> str:
    text = _after(question, "here:")
    while any(pair in text for pair in ("()", "[]", "{}")):
        for pair in ("()", "[]", "{}"):
            text = text.replace(pair, "")
    return "no" if text else "yes"


def _truth(question: str) -> str:
    text = _after(question, "true:").rstrip("?").replace("true", "True").replace("false", "False")
    assert re.fullmatch(r"(?:True|False|and|or|not|[() ])+", text)
    return "yes" if eval(text) else "no"  # noqa: S307 - words of the pattern alone


def _shift(question: str) -> str:
    found = re.search(r"letter of (\w+) forward by (\d+)", question)
    assert found
    return "".join(chr((ord(letter) - 97 + int(found[2])) % 26 + 97) for letter in found[1])


def _cut(question: str) -> str:
    found = re.search(r"letters (\d+) to (\d+) of (\w+),", question)
    assert found
    return found[3][int(found[1]) - 1 : int(found[2])]


def _two_sets(question: str) -> tuple[list[str], list[str]]:
    found = re.search(r"A holds (.*?)\. B holds (.*?)\.", question)
    assert found
    return _items(found[1]), _items(found[2])


SOLVERS: dict[str, Callable[[str], str]] = {
    "addition": lambda q: str(sum(_numbers(q))),
    "subtraction": lambda q: str(_numbers(q.replace(" - ", " "))[0] - _numbers(q.replace(" - ", " "))[1]),
    "multiplication": lambda q: str(prod(_numbers(q))),
    "division": lambda q: str(_numbers(q)[1] // _numbers(q)[0]),
    "remainder": lambda q: str(divmod(*_numbers(q))[1]),
    "digit_sum": lambda q: str(sum(int(sign) for sign in str(_numbers(q)[0]))),
    "copy": lambda q: _after(q, "again:"),
    "reverse": lambda q: "".join(reversed(_after(q, "order:"))),
    "slice": _cut,
    "letter_shift": _shift,
    "vowel_count": lambda q: str(len(re.findall("[aeiou]", _after(q, "stand in:")))),
    "sort_numbers": lambda q: ", ".join(map(str, sorted(map(int, _items(_after(q, "largest:")))))),
    "sort_words": lambda q: ", ".join(sorted(_items(_after(q, "alphabetically:")))),
    "reverse_list": lambda q: ", ".join(_items(_after(q, "order:"))[::-1]),
    "deduplicate": lambda q: ", ".join(dict.fromkeys(_items(_after(q, "place:")))),
    "union": lambda q: ", ".join(sorted({*_two_sets(q)[0], *_two_sets(q)[1]})),
    "intersection": lambda q: ", ".join(sorted({*_two_sets(q)[0]} & {*_two_sets(q)[1]})) or "none",
    "difference": lambda q: ", ".join(sorted({*_two_sets(q)[0]} - {*_two_sets(q)[1]})) or "none",
    "subset": lambda q: "yes" if {*_two_sets(q)[0]} <= {*_two_sets(q)[1]} else "no",
    "bracket_matching": _brackets,
    "boolean_logic": _truth,
    "date_arithmetic": _day,
    "clock": _clock,
}


@pytest.mark.parametrize("name", SOLVERS)
def test_golden_answers_agree_with_an_independent_reckoning(name: str) -> None:
    family = BY_NAME[name]
    for difficulty in DIFFICULTIES:
        for problem in family.problems(difficulty, 40, 3):
            assert judge(family.answer, SOLVERS[name](problem.question), problem.answer).correct, problem


def _positions(question: str) -> dict[str, str]:
    """Where each person is at the end, read sentence by sentence."""
    where: dict[str, str] = {}
    last: list[str] = []
    for sentence in question.partition("\n")[0].split(". "):
        found = re.match(r"(?:(?:Then|After that) )?([\w ]+?) (?:went|walked|moved|travelled) to the (\w+)", sentence)
        assert found, sentence
        who = found[1].split(" and ")
        last = last if who in (["they"], ["he"], ["she"]) else who
        where.update(dict.fromkeys(last, found[2]))
    return where


@pytest.mark.parametrize("name", ["one_fact", "coreference", "conjunction", "compound_coreference"])
def test_stories_of_places_agree_with_an_independent_reader(name: str) -> None:
    for difficulty in DIFFICULTIES:
        for problem in BY_NAME[name].problems(difficulty, 40, 5):
            asked = re.search(r"Where is (\w+)\?", problem.question)
            assert asked
            assert _positions(problem.question)[asked[1]] == problem.answer, problem


def test_paths_lead_where_they_should() -> None:
    steps = {"north": (0, 1), "east": (1, 0), "south": (0, -1), "west": (-1, 0)}
    for problem in BY_NAME["path_finding"].problems("hard", 40, 5):
        told = re.findall(r"The (\w+) is (\w+) of the (\w+)\.", problem.question)
        at = {told[0][2]: (0, 0)}
        while len(at) < len(told) + 1:
            for one, way, two in told:
                (dx, dy) = steps[way]
                if two in at and one not in at:
                    at[one] = (at[two][0] + dx, at[two][1] + dy)
                elif one in at and two not in at:
                    at[two] = (at[one][0] - dx, at[one][1] - dy)
        assert len(set(at.values())) == len(at)
        start, goal = re.findall(r"from the (\w+) to the (\w+)\?", problem.question)[0]
        here = at[start]
        for way in problem.answer.split(", "):
            here = (here[0] + steps[way][0], here[1] + steps[way][1])
            assert here in at.values()
        assert here == at[goal]
