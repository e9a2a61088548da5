"""Replies: golden ones in every shape, wrong, permuted and unreadable ones, and anything at all."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guild.skills.contract import Sample
from guild.skills.syllables.choosing import choose_red_herrings, choose_words, pool_of
from guild.skills.syllables.formats import FORMATS
from guild.skills.syllables.judge import judge_reply
from guild.skills.syllables.levels import rules_of
from guild.skills.syllables.lexicon import fallback_lexicon
from guild.skills.syllables.puzzles import SHAPES, make_puzzle, solved_of
from guild.skills.syllables.selfcheck import faults_of
from guild.skills.syllables.shapes import Solved, contract
from guild.skills.syllables.skill import sample_of, seeded
from guild.skills.syllables.variants import VARIANTS


@cache
def puzzle_in(shape: str, level: int = 28) -> dict[str, Any]:
    lexicon, rules = fallback_lexicon(), rules_of(level, 50)
    pool, rng = pool_of(lexicon, rules), seeded("judge", shape, level)
    while True:
        words = choose_words(lexicon, pool, rules, rng)
        herrings = choose_red_herrings(lexicon, pool, words, rules, rng) if words else None
        if words and herrings is not None:
            return make_puzzle("p", words, herrings, rules, lexicon, rng, shape)


def rewritten(solved: Solved, order: list[int], **changes: Any) -> Solved:
    """The solved puzzle with its words (not its labels) in another order, and other changes."""
    parts = {"labels": solved.labels, "clues": solved.clues, "kinds": solved.kinds, "strengths": solved.strengths, "bank": solved.bank}
    return Solved(**{**parts, "syllables": tuple(solved.syllables[at] for at in order), **changes})


def test_there_are_twelve_variants_and_eight_formats() -> None:
    assert (len(VARIANTS), len(FORMATS), len(SHAPES)) == (12, 8, 20)


@pytest.mark.parametrize("shape", SHAPES)
def test_item_32_the_judge_handles_every_shape(shape: str) -> None:
    puzzle = puzzle_in(shape)
    solved, golden = solved_of(puzzle), puzzle["solution_text"]
    count = len(solved.labels)
    assert faults_of(sample_of(puzzle)) == []
    for reply in (golden, golden.lower(), f"\n  {golden}\n\n", f"```\n{golden}\n```"):
        if shape != "counts" or reply != golden.lower():
            verdict = judge_reply(puzzle, reply)
            assert (verdict.correct, verdict.partial, verdict.reason) == (True, 1.0, ""), reply
    permuted = SHAPES[shape].write(rewritten(solved, [*range(1, count), 0]))
    assert judge_reply(puzzle, permuted).correct

    wrong = rewritten(solved, list(range(count)), syllables=(("zeb", "ra", "zoo", "zum"), *solved.syllables[1:]))
    verdict = judge_reply(puzzle, SHAPES[shape].write(wrong))
    assert not verdict.correct and 0 < verdict.partial < 1 and "missing" in verdict.reason and "not asked for" in verdict.reason
    if shape != "counts":
        assert verdict.partial == pytest.approx((count - 1) / count)

    fewer = Solved(*(part[:-1] for part in (solved.labels, solved.syllables, solved.clues, solved.kinds, solved.strengths)), solved.bank)
    assert not judge_reply(puzzle, SHAPES[shape].write(fewer)).correct


@pytest.mark.parametrize("shape", SHAPES)
def test_a_reply_in_another_shape_is_unreadable(shape: str) -> None:
    puzzle = puzzle_in(shape)
    accepted = {other for other in SHAPES if judge_reply(puzzle, SHAPES[other].write(solved_of(puzzle))).correct}
    richer = {  # shapes that hold all that another one asks for, and more
        "solutions_only": {"solutions_only", "analysis_enriched"},
        "solutions_list": {"solutions_list", "inventory_vector"},
    }
    assert accepted == richer.get(shape, {shape})
    for reply in ("", "   ", "I do not know.\nSorry!", "{}", "[]", "null", "{", "[[]]", '{"solutions": 3}'):
        verdict = judge_reply(puzzle, reply)
        assert not verdict.correct and verdict.partial == 0 and verdict.reason
    assert shape in judge_reply(puzzle, "").reason


def test_a_word_named_twice_or_one_too_many_is_wrong() -> None:
    puzzle = puzzle_in("json_array")
    words = solved_of(puzzle).answers
    twice = judge_reply(puzzle, json.dumps([*words, words[0]]))
    more = judge_reply(puzzle, json.dumps([*words, "ZEBRA"]))
    assert not twice.correct and not more.correct and twice.partial == more.partial == 1.0
    assert "not asked for: zebra" in more.reason


def test_the_full_answer_counts_the_bank() -> None:
    solved = Solved(
        (1, 2), (("wa", "ter"), ("af", "ter")), ("a", "b"), ("definition",) * 2, ("strong",) * 2, ("ter", "wa", "zu", "ter", "af")
    )
    assert contract(solved) == {
        "solutions": [
            {"ans_num": 1, "syllables": ["wa", "ter"], "answer": "WATER"},
            {"ans_num": 2, "syllables": ["af", "ter"], "answer": "AFTER"},
        ],
        "inventory_check": {
            "total_tiles": 5,
            "usage": {"af": 1, "ter": 2, "wa": 1},
            "used": 4,
            "unused_tiles": ["zu"],
            "status": "complete",
        },
    }


_KEYS = "solutions answers answer sequence rows columns tiles used report analysis inventory_check count first_letters 1 A"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_KEYS.split()), inner, max_size=4),
    max_leaves=12,
)
HOSTILE = (
    *("[" * 50_000, '{"a":' * 50_000, "\ud800", "9" * 99_999, "x" * 2_000_000, "\0" * 50),
    *("|" * 90_000, "|-" * 45_000 + "|", "```" * 30_000, "1. " * 30_000, "a (" * 30_000, "\n" * 90_000),
)


@settings(max_examples=150, deadline=None)
@given(reply=st.text() | st.text(alphabet='|-: \n*.A1,ab[]{}"`()') | JSON.map(json.dumps), shape=st.sampled_from(sorted(SHAPES)))
def test_the_judge_never_raises(reply: str, shape: str) -> None:
    verdict = judge_reply(puzzle_in(shape), reply)
    assert not verdict.correct and verdict.reason and 0 <= verdict.partial < 1


@pytest.mark.parametrize("reply", HOSTILE)
def test_replies_made_to_break_it_are_wrong(reply: str) -> None:
    for shape in SHAPES:
        assert not judge_reply(puzzle_in(shape), reply).correct


def spoilt(puzzle: dict[str, Any], **changes: Any) -> Sample:
    changed = {**puzzle, **changes}
    return sample_of(changed)


def test_the_selfcheck_finds_what_is_untrue() -> None:
    puzzle = puzzle_in("one_per_line", level=22)
    prompt = puzzle["prompt"]
    assert faults_of(sample_of(puzzle)) == []
    tile = puzzle["words"][0]["syllables"][0]
    bank_line = next(line for line in prompt.splitlines() if line.startswith("Bank of"))
    tiles = bank_line.partition(": ")[2].split(", ")
    tiles.remove(tile)
    lacking = prompt.replace(bank_line, f"Bank of {len(tiles)} tiles: {', '.join(tiles)}")
    assert any("exactly the needed syllables" in fault for fault in faults_of(spoilt(puzzle, prompt=lacking)))
    assert any("cannot be laid" in fault for fault in faults_of(spoilt(puzzle, prompt=lacking)))
    assert any("announces" in fault for fault in faults_of(spoilt(puzzle, prompt=prompt.replace("Bank of ", "Bank of 9"))))
    assert any("words in the reply" in fault for fault in faults_of(spoilt(puzzle, solution_text="WATER\nFIRE")))
    assert any("Level 1" in fault for fault in faults_of(spoilt(puzzle, level=1)))
    if "[__" in prompt:
        assert any("blanks" in fault for fault in faults_of(spoilt(puzzle, prompt=prompt.replace("[__-__", "[__-__-__-__-__-__"))))
    assert faults_of(spoilt(puzzle, prompt="Guess!")) == ["The prompt has no title, no bank or no note on the tiles."]
