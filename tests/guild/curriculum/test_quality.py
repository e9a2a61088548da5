"""The checks of the table, each at its limit, and the verdicts. (item 28)"""

from __future__ import annotations

from typing import Any

import pytest

from guild.curriculum.quality import PROFILES, QualityVerdict, check_quality, issue_of, quality_profile
from guild.errors import UnknownSkillError
from guild.skills.registry import load_skill
from helpers.guild_rows import chat, turns
from modelwright.errors import ConfigError

BINARY, SYLLO = PROFILES["binary"], PROFILES["syllo"]


def rows(count: int, length: int = 40) -> list[dict[str, Any]]:
    """Different questions; `length` characters in a row altogether."""
    return [chat(f"Question {at:06d}".ljust(length // 2, "q"), f"Answer {at:06d}".ljust(length - length // 2, "a")) for at in range(count)]


def passed(verdict: QualityVerdict, name: str) -> bool:
    return next(one.passed for one in verdict.checks if one.name == name)


def test_good_rows_are_approved_with_the_checks_of_their_profile() -> None:
    verdict = check_quality(rows(200, 400), SYLLO)
    assert verdict.outcome == "APPROVED" and verdict.score == 1
    assert [one.name for one in verdict.checks] == ["format", "length", "diversity", "balance", "content"]
    assert "diversity" not in [one.name for one in check_quality(rows(5), BINARY).checks]


@pytest.mark.parametrize(("bad", "good"), [(5, True), (6, False)])
def test_format_looks_at_the_first_hundred_rows(bad: int, good: bool) -> None:
    assert passed(check_quality([{"messages": []}] * bad + rows(200), BINARY), "format") is good
    assert passed(check_quality(rows(100) + [{"messages": []}] * 50, BINARY), "format")


@pytest.mark.parametrize(("profile", "least", "share"), [("syllo", 20, 0.10), ("binary", 5, 0.50), ("sparring", 5, 0.50)])
def test_length_tolerates_its_share_of_short_rows(profile: str, least: int, share: float) -> None:
    chosen, short = PROFILES[profile], int(200 * share)
    enough, few = rows(200, 4 * least + 24), rows(200, 4 * least + 24)
    for at in range(short + 1):
        tiny = chat("q", f"{at:03d}".ljust(4 * least - 2, "a"))
        few[at] = tiny
        if at < short:
            enough[at] = tiny
    assert passed(check_quality(enough, chosen), "length")
    assert not passed(check_quality(few, chosen), "length")


def test_length_tolerates_few_long_rows() -> None:
    assert passed(check_quality(rows(95) + rows(5, 4 * 512 + 4), BINARY), "length")
    assert not passed(check_quality(rows(94) + rows(6, 4 * 512 + 4), BINARY), "length")


def test_diversity_compares_the_first_hundred_characters() -> None:
    same = [chat("x" * 100 + f" {at}", f"reply {at}" * 20) for at in range(21)]
    assert passed(check_quality(rows(80, 400) + same[:20], SYLLO), "diversity")  # 81 prefixes of 100
    assert not passed(check_quality(rows(78, 400) + same, SYLLO), "diversity")


def test_balance_is_replies_to_questions() -> None:
    double = turns(("user", "What is it?"), ("assistant", "This."), ("assistant", "And that."))
    assert passed(check_quality(rows(80) + [double] * 20, BINARY), "balance")  # 1.2
    assert not passed(check_quality(rows(79) + [double] * 21, BINARY), "balance")


@pytest.mark.parametrize(
    "row",
    [
        chat("What is it?", "TODO: write the answer"), chat("What is it?", "Traceback (most recent call last):\n  boom"),
        chat("What is it?", "[insert the answer]"), chat("Say it again", "Say it again"), chat("What is it?", "cafÃ©"),
    ],
)  # fmt: skip
def test_content_issues_are_found_and_less_than_five_in_a_hundred_are_borne(row: dict[str, Any]) -> None:
    assert issue_of(row)
    assert passed(check_quality(rows(96) + [row] * 4, BINARY), "content")
    assert not passed(check_quality(rows(95) + [row] * 5, BINARY), "content")


def test_item_28_verdicts_follow_the_number_of_failed_checks() -> None:
    long, issue = 4 * 512 + 4, chat("What is it?", "TODO, really TODO")
    double = turns(("user", "What is it?"), ("assistant", "This."), ("assistant", "And that."))
    one = check_quality(rows(10, long), BINARY)
    two = check_quality(rows(10, long) + [issue] * 8, BINARY)
    three = check_quality(rows(10, long) + [issue] * 8 + [double] * 10, BINARY)
    assert [(verdict.outcome, len(verdict.failed)) for verdict in (one, two, three)] == [
        ("CONDITIONAL", 1), ("CONDITIONAL", 2), ("REJECTED", 3),
    ]  # fmt: skip
    assert check_quality([], BINARY).outcome == "REJECTED"
    assert check_quality([{"messages": []}], BINARY).outcome == "REJECTED"


def test_an_unknown_skill_is_an_error_and_a_stated_profile_is_checked() -> None:
    with pytest.raises(UnknownSkillError, match="state `quality`"):
        quality_profile("chess")
    assert quality_profile("chess", "syllo") is SYLLO and quality_profile("syllable") is SYLLO
    stated = quality_profile("chess", {"least": 3, "diversity": True})
    assert (stated.name, stated.least, stated.most, stated.diversity) == ("chess", 3, 2048, True)
    with pytest.raises(ConfigError) as caught:
        quality_profile("chess", {"least": 0, "short_share": 2, "mood": 1})
    assert len(caught.value.faults) == 3


@pytest.mark.parametrize(("skill", "levels"), [("bin", (1, 8, 30)), ("sy", (1, 50))])
def test_what_the_shipped_skills_make_is_approved(skill: str, levels: tuple[int, ...]) -> None:
    for level in levels:
        made = [chat(one.user_prompt, one.assistant_response) for one in load_skill(skill).generate(level, 150, 5)]
        verdict = check_quality(made, quality_profile(skill))
        assert verdict.outcome == "APPROVED", (level, verdict.failed)
