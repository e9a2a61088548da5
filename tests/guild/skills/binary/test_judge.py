"""Item 31: the result field, exactly, and nothing but the result field."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guild.skills.binary.auxiliary import TASKS
from guild.skills.binary.expressions import Call
from guild.skills.binary.forms import FORMS, Problem
from guild.skills.binary.judge import form_of, judge, result_field
from guild.skills.binary.operations import OPERATIONS
from guild.skills.binary.skill import BinarySkill, prompt_of, reply_of
from guild.skills.contract import Sample

SAMPLES = [sample for level in (1, 9, 30) for sample in BinarySkill().generate(level, 200, seed=7)]
BY_FORM = {form: [sample for sample in SAMPLES if sample.scenario == form] for form in (*FORMS, *TASKS)}


def sample_of(form: str, expression: Call) -> Sample:
    problem = Problem(form, expression)
    return Sample("x", prompt_of(problem), reply_of(problem), scenario=form)


ADD = Call(OPERATIONS["add"], (3, 4))
CHAIN = Call(OPERATIONS["add"], (Call(OPERATIONS["add"], (2, 2)), 1))


@pytest.mark.parametrize("form", [*FORMS, *TASKS])
def test_item_31_accepts_golden_and_ignores_spaces(form: str) -> None:
    assert BY_FORM[form]
    for sample in BY_FORM[form]:
        golden = sample.assistant_response
        assert judge(sample, golden).correct
        assert judge(sample, "\n\n" + golden.replace("\n", "  \n ").replace("①", " ① ") + "\n").correct
        assert judge(sample, golden.replace(" ", "")).correct


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("expression", [ADD, CHAIN], ids=["single", "chain"])
def test_item_31_rejects_one_wrong_bit_with_partial_credit(form: str, expression: Call) -> None:
    sample = sample_of(form, expression)
    golden, fault = result_field(sample.assistant_response, form, chain=expression.nested and form == "verify")
    assert golden in ("①①①", "①⓪①") and not fault
    wrong = golden[:-1] + "⓪"
    head, _, tail = sample.assistant_response.rpartition(golden)
    verdict = judge(sample, head + wrong + tail)
    assert not verdict.correct and verdict.found == wrong and verdict.partial == pytest.approx(2 / 3)


@pytest.mark.parametrize("form", ["brief", "verify", "show-work", "trace"])
def test_item_31_a_right_value_in_the_verification_line_is_no_answer(form: str) -> None:
    sample = sample_of(form, Call(OPERATIONS["todecimal"], (13,)))
    assert judge(sample, sample.assistant_response).correct
    wrong = sample.assistant_response.replace(") = 13", ") = 12").replace("Result: 13", "Result: 12").replace("Final: 13", "Final: 12")
    assert not judge(sample, wrong).correct
    assert not judge(sample, f"{wrong}\nVerification: 8 + 4 + 1 = 13").correct
    assert not judge(sample, "Verification: 8 + 4 + 1 = 13").correct
    assert not judge(sample, "13").correct


def test_a_verify_chain_is_judged_by_its_outer_line() -> None:
    sample = sample_of("verify", CHAIN)
    assert judge(sample, "add(add(①⓪, ①⓪), ①)\nOuter: add(①⓪⓪, ①) = ①⓪① (4+1=5)").correct
    assert not judge(sample, "add(add(①⓪, ①⓪), ①) = ①⓪①\nVerification: (2 + 2) + 1 = 5").correct
    assert not judge(sample, "Inner: add(①⓪, ①⓪) = ①⓪①").correct


def test_several_different_results_are_none() -> None:
    sample = sample_of("show-work", ADD)
    assert judge(sample, "Result: ①①①\nResult: ①①①").correct
    verdict = judge(sample, "Result: ①⓪⓪\nResult: ①①①\nResult: ①①⓪")
    assert not verdict.correct and verdict.found is None and "several" in verdict.reason


def test_the_form_is_known_from_the_tag_where_no_scenario_says_it() -> None:
    assert form_of(None, "Compute [trace]: add(①, ①)") == "trace"
    assert form_of("chain_arith", "Symbol Key:\n…\n\nCompute [verify]: x") == "verify"
    assert form_of(None, "Compute: add(①, ①)") == "brief"
    assert form_of("overflow", "Compute [trace]: add(①, ①)") == "overflow"


PARTS = [
    "⓪",
    "①",
    "=",
    " ",
    "\n",
    "Result:",
    "Final:",
    "Outer:",
    "Answer:",
    "Verification:",
    "(",
    ")",
    "add",
    "True",
    "7",
    ":",
    "\t",
    "\u2028",
]
garbage = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PARTS), max_size=24).map("".join))


@settings(max_examples=400, deadline=None)
@given(reply=garbage, at=st.integers(0, len(SAMPLES) - 1))
def test_whatever_the_reply_the_judge_answers_and_is_right(reply: str, at: int) -> None:
    sample = SAMPLES[at]
    verdict = BinarySkill().judge(sample, reply)
    assert 0 <= verdict.partial <= 1
    chain = any(line.startswith("Outer:") for line in sample.assistant_response.split("\n"))
    golden, _ = result_field(sample.assistant_response, str(sample.scenario), chain=chain and sample.scenario == "verify")
    assert verdict.correct == (verdict.found == golden)
    if not verdict.correct:
        assert verdict.reason
    else:
        assert golden is not None and golden in "".join(reply.split())


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, len(SAMPLES) - 1), place=st.integers(0, 10**6), sign=st.sampled_from("⓪①0129x=:\n "))
def test_a_reply_with_one_sign_changed_is_right_only_if_the_result_is_untouched(at: int, place: int, sign: str) -> None:
    sample = SAMPLES[at]
    text = sample.assistant_response
    place %= len(text)
    reply = text[:place] + sign + text[place + 1 :]
    verdict = judge(sample, reply)
    assert verdict.correct == (verdict.found == judge(sample, text).found)


def test_a_hundred_thousand_parentheses_are_judged_at_once() -> None:
    sample = sample_of("verify", CHAIN)
    for reply in ("Outer:" + "(" * 100_000, "Outer:" + "()" * 50_000 + "=)", "=" * 100_000, "Result:\n" * 20_000):
        assert not judge(sample, reply).correct


def test_a_golden_answer_without_a_result_is_never_right() -> None:
    sample = replace(sample_of("show-work", ADD), assistant_response="nothing")
    assert not judge(sample, "nothing").correct
