"""Item 30: every answer and every line of every form is true, at every level."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guild.skills.binary.auxiliary import TASKS
from guild.skills.binary.forms import FORMS
from guild.skills.binary.skill import BinarySkill
from guild.skills.contract import Sample

LEVELS = range(1, 31)
KEY = re.compile(r"Symbol Key:\n(\S+) = 0 \(zero bit\)\n(\S+) = 1 \(one bit\)\nOperations:\n((?:\S+ = \w+\n)+)\n")


def only(name: str) -> BinarySkill:
    """The skill asking one form or task."""
    if name in FORMS:
        return BinarySkill(forms=(name,), tasks=(), auxiliary_share=0)
    return BinarySkill(forms=(), tasks=(name,), auxiliary_share=1)


@pytest.mark.parametrize("form", [*FORMS, *TASKS])
def test_item_30_every_line_of_a_thousand_samples_is_true_at_every_level(form: str) -> None:
    skill = only(form)
    for level in LEVELS:
        # the tasks are a line or two each
        samples = skill.generate(level, 1000 if form in FORMS else 200, seed=level)
        assert [fault for sample in samples for fault in skill.check(sample)] == []
        assert {sample.scenario for sample in samples} == {form}
        check_operands(samples, 32 if level == 30 else level + 1)
        check_keys(samples, level)


def check_operands(samples: list[Sample], limit: int) -> None:
    """No run of digits in a question is longer than the limit, and some are as long. A claimed result may be longer."""
    longest = 0
    for sample in samples:
        key = KEY.match(sample.user_prompt)
        zero, one = key.groups()[:2] if key else ("⓪", "①")
        question = (sample.user_prompt[key.end() :] if key else sample.user_prompt).split(" = ")[0]
        longest = max([longest, *map(len, re.findall(f"[{zero}{one}]+", question))])
    assert longest == limit


def check_keys(samples: list[Sample], level: int) -> None:
    keyed = [KEY.match(sample.user_prompt) for sample in samples if "keyed" in sample.tags]
    assert all(keyed)
    assert not any(sample.user_prompt.startswith("Symbol") for sample in samples if "keyed" not in sample.tags)
    if level < 8:
        assert keyed == []
        return
    assert 0.6 < len(keyed) / len(samples) < 0.9
    for key in keyed:
        assert key is not None
        pairs = [line.split(" = ") for line in key[3].strip().split("\n")]
        symbols = [key[1], key[2], *(name for name, _ in pairs)]
        assert len(set(symbols)) == len(symbols)
        assert len({operation for _, operation in pairs}) == len(pairs)
        assert not any(sign.isnumeric() or sign in "○●◯" for sign in "".join(symbols))


def test_the_check_finds_every_changed_digit_and_every_lost_line() -> None:
    skill, rng = BinarySkill(), Random(4)
    for level in (1, 7, 8, 15, 30):
        for sample in skill.generate(level, 400, seed=9):
            wrong = changed(sample, rng)
            assert skill.check(wrong) != [], (sample.assistant_response, wrong.assistant_response)
            lines = sample.assistant_response.split("\n")
            del lines[rng.randrange(len(lines))]
            assert skill.check(replace(sample, assistant_response="\n".join(lines))) != []


def changed(sample: Sample, rng: Random) -> Sample:
    """The sample with one digit of its reply, of whatever kind, replaced by another one."""
    key = KEY.match(sample.user_prompt)
    zero, one = key.groups()[:2] if key else ("⓪", "①")
    text = sample.assistant_response
    places = [at for at, sign in enumerate(text) if sign in (zero, one) or (sign.isascii() and sign.isdigit())]
    places = [at for at in places if text[at - 12 : at] != "multiply_by_" and text[at - 10 : at] != "divide_by_"]
    if not places:
        return replace(sample, assistant_response=text.swapcase())
    at = rng.choice(places)
    other = one if text[at] == zero else zero if text[at] == one else str((int(text[at]) + 1 + rng.randrange(9)) % 10)
    return replace(sample, assistant_response=text[:at] + other + text[at + 1 :])


def test_the_check_knows_a_digit_as_a_symbol_two_of_one_name_and_an_operand_that_is_too_long() -> None:
    def faults(prompt: str, reply: str, level: int = 8) -> list[str]:
        return BinarySkill().check(Sample("x", prompt, reply, metadata={"level": level}))

    good = "Symbol Key:\n▲ = 0 (zero bit)\n■ = 1 (one bit)\nOperations:\n⊕ = add\n⊗ = multiply\n\nCompute: ⊕(■, ■)"
    assert faults(good, "⊕(■, ■) = ■▲") == []
    assert "digit" in faults(good.replace("⊗", "⓪"), "⊕(■, ■) = ■▲")[0]
    assert "twice" in faults(good.replace("⊗", "⊕"), "⊕(■, ■) = ■▲")[0]
    assert "same" in faults(good.replace("⊗", "■"), "⊕(■, ■) = ■▲")[0] or "part of a name" in faults(good.replace("⊗", "■"), "")[0]
    assert faults("Compute: add(①⓪⓪, ①)", "add(①⓪⓪, ①) = ①⓪①", level=2) == []
    assert "3 bits" in faults("Compute: add(①⓪⓪, ①)", "add(①⓪⓪, ①) = ①⓪①", level=1)[0]
    assert "leading zeros" in faults("Compute: add(⓪①, ①)", "add(⓪①, ①) = ①⓪")[0]
    assert "zero" in faults("Compute: divide(①, ⓪)", "divide(①, ⓪) = ⓪")[0]
    # the defects of the original: nonsense for a verification, an echo that hides the expression
    chain = "Compute [verify]: add(add(①⓪, ①⓪), ①)"
    inner, outer = "Inner: add(①⓪, ①⓪) = ①⓪⓪ (2+2=4)", "Outer: add(①⓪⓪, ①) = ①⓪①"
    assert faults(chain, f"add(add(①⓪, ①⓪), ①)\n{inner}\n{outer}\nVerification: (2 + 2) + 1 = 5") == []
    assert faults(chain, f"add(add(①⓪, ①⓪), ①)\n{inner}\n{outer}\nVerification: 4 → 1 = 5") != []
    assert faults(chain, f"add(add(①⓪, ①⓪), ①)\n{inner}\n{outer}\nVerification: 5 = 5") != []
    assert faults(chain, f"add(...)\n{inner}\n{outer}\nVerification: (2 + 2) + 1 = 5") != []


PROMPTS = [sample for level in (3, 9) for sample in BinarySkill().generate(level, 150, seed=3)]
SIGNS = ["⓪", "①", "0", "9" * 5000, "(", ")", ",", " ", " = ", "\n", "_", "?", " or ", "add", "divide", "|", " is True", "remainder"]
PARTS = st.sampled_from(SIGNS)


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, len(PROMPTS) - 1), cut=st.integers(0, 400), parts=st.lists(PARTS, max_size=6), of_prompt=st.booleans())
def test_the_check_of_any_text_is_sentences_and_never_an_error(at: int, cut: int, parts: list[str], of_prompt: bool) -> None:
    sample = PROMPTS[at]
    text = sample.user_prompt if of_prompt else sample.assistant_response
    broken = text[:cut] + "".join(parts) + text[cut + len(parts) :]
    faults = BinarySkill().check(replace(sample, user_prompt=broken) if of_prompt else replace(sample, assistant_response=broken))
    assert all(fault.startswith(sample.id) for fault in faults)
    assert faults or of_prompt or broken == text


@pytest.mark.parametrize("prompt", ["tobinary(%s)", "negate(①①, %s)", "add(%s, ①)"])
def test_numbers_in_other_digits_or_without_end_are_faults(prompt: str) -> None:
    for number in ("9" * 5000, "٣", "３", "3.0", ""):
        text = prompt % number
        assert BinarySkill().check(Sample("x", f"Compute: {text}", f"{text} = ①①"))
    assert BinarySkill().check(Sample("x", "Compute [verify]: tobinary(3)", "tobinary(3) = ①①\nVerification: 2 + 1 = ３"))


@pytest.mark.parametrize(("level", "mix"), [(4, (50, 35, 12, 3)), (8, (40, 35, 20, 5)), (13, (30, 35, 25, 10)), (30, (15, 25, 35, 25))])
def test_the_mix_of_difficulties_is_the_levels(level: int, mix: tuple[int, ...]) -> None:
    samples = BinarySkill().generate(level, 1500, seed=1)
    counts = Counter(sample.metadata["difficulty"] for sample in samples)
    for name, percent in zip(("easy", "medium", "hard", "expert"), mix, strict=True):
        assert abs(counts[name] / 15 - percent) < 3
    forms = Counter(sample.scenario for sample in samples)
    assert abs(sum(forms[task] for task in TASKS) / 15 - 15) < 3


def test_a_reply_of_the_last_level_stays_within_the_length_bound_of_the_quality_check() -> None:
    samples = only("trace").generate(30, 3000, seed=2)
    assert max(len(sample.assistant_response) for sample in samples) <= 512 * 4
