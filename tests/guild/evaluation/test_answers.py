"""The judge of short answers, against replies that a lenient judge would let pass. (specs/guild.md 10.1 no. 8 and 14)"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guild.evaluation.answers import UnknownAnswerKindError, answer_field, judge


@pytest.mark.parametrize(
    ("kind", "expected", "reply"),
    [
        ("number", "7", "7"),
        ("number", "7", " 7.\n"),
        ("number", "7", "**7**"),
        ("number", "7", "7.0"),
        ("number", "1200", "1,200"),
        ("number", "-3", "\u22123"),
        ("number", "7", "The reasoning is long.\nAnswer: 7"),
        ("number", "7", "**Answer:** 7"),
        ("number", "7", "The answer is 7."),
        ("number", "7", "Answer: 7\nSo the final answer is here.\nFinal answer: 7"),
        ("word", "kitchen", "The kitchen."),
        ("word", "kitchen", '"Kitchen"'),
        ("boolean", "yes", "Yes."),
        ("boolean", "no", "FALSE"),
        ("text", "olleh", "`olleh`"),
        ("text", "2011-02-03", "2011-02-03."),
        ("list", "3, 1, 2", "[3, 1, 2]"),
        ("list", "apple, pear", "Apple,pear"),
        ("set", "apple, pear", "pear, apple"),
        ("set", "none", "None"),
        ("set", "1, 2", "{2, 1.0}"),
    ],
)
def test_an_answer_in_its_field_is_right(kind: str, expected: str, reply: str) -> None:
    verdict = judge(kind, expected, reply)
    assert verdict.correct, verdict.reason


@pytest.mark.parametrize(
    ("kind", "expected", "reply"),
    [
        ("number", "7", "17"),  # the golden answer is a part of it
        ("number", "7", "70"),
        ("number", "7", "7 or 8"),
        ("number", "7", "not 7"),
        ("number", "7", "The answer is not 7."),
        ("number", "7", "I think it is 7 because 3 + 4 = 7"),
        ("number", "7", "= 7"),
        ("number", "7", "7 apples"),
        ("number", "7", "seven"),
        ("number", "7", "7\n8"),
        ("number", "7", "Answer: 8\nAnswer: 7"),
        ("number", "12", "1,2"),
        ("number", "7", "7e0"),
        ("number", "7", ""),
        ("number", "7", "   \n "),
        ("word", "kitchen", "kitchen garden"),
        ("word", "kitchen", "not the kitchen"),
        ("word", "Ada", "Ada or Ben"),
        ("boolean", "yes", "yes and no"),
        ("boolean", "yes", "Yes, because it is larger."),
        ("boolean", "no", "I do not know"),  # holds "no"
        ("boolean", "no", "yes"),
        ("text", "olleh", "hello"),
        ("text", "olleh", "OLLEH"),
        ("text", "a b", "ab"),
        ("list", "3, 1, 2", "1, 2, 3"),
        ("list", "3, 1", "3, 1, 1"),
        ("list", "3, 1", "3 and 1"),
        ("list", "apple, pear", "apple, , pear"),
        ("set", "apple, pear", "apple"),
        ("set", "apple, pear", "apple, pear, pear"),
        ("set", "apple, pear", "apple, pear, plum"),
        ("set", "none", "apple"),
        ("set", "apple", "none"),
    ],
)
def test_an_answer_among_other_words_is_wrong(kind: str, expected: str, reply: str) -> None:
    verdict = judge(kind, expected, reply)
    assert not verdict.correct
    assert verdict.reason


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_of_two_numbers_only_the_same_is_right(golden: int, found: int) -> None:
    assert judge("number", str(golden), str(found)).correct == (golden == found)


@given(st.lists(st.sampled_from(["ape", "bee", "cat"]), max_size=4), st.lists(st.sampled_from(["ape", "bee", "cat"]), max_size=4))
def test_a_set_is_right_in_any_order_and_a_list_in_its_own(golden: list[str], found: list[str]) -> None:
    expected, reply = ", ".join(golden) or "none", ", ".join(found) or "none"
    assert judge("list", expected, reply).correct == (golden == found)
    assert judge("set", expected, reply).correct == (sorted(golden) == sorted(found))


@given(st.text(max_size=60), st.sampled_from(["number", "word", "boolean", "text", "list", "set"]))
def test_no_reply_makes_the_judge_fail(reply: str, kind: str) -> None:
    golden = {"number": "7", "boolean": "yes"}.get(kind, "kitchen")
    assert judge(kind, golden, reply).correct in (True, False)
    assert answer_field(reply)[0] is None or isinstance(answer_field(reply)[0], str)


def test_an_unknown_kind_and_a_golden_answer_of_another_kind_are_faults_of_the_set() -> None:
    with pytest.raises(UnknownAnswerKindError, match=r"numbr.*Did you mean 'number'"):
        judge("numbr", "7", "7")
    with pytest.raises(ValueError, match="golden answer 'seven' is no number"):
        judge("number", "seven", "7")
