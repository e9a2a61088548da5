"""The mastery rule as arithmetic, against its words and by property."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from guild.curriculum.rule import Measured, Rule, Standing, consider, mean, missing, progress, why_not

RULE = Rule(max_level=5)
measured = st.builds(
    lambda step, level, total, share: Measured(f"c:{step}", level, round(total * share), total),
    st.integers(0, 12),
    st.integers(1, 6),
    st.sampled_from([5, 20, 40]),
    st.sampled_from([0.0, 0.5, 0.75, 0.8, 0.85, 1.0]),
)


def run(evaluations: list[Measured], rule: Rule = RULE, standing: Standing | None = None) -> Standing:
    standing = standing or Standing()
    for one in evaluations:
        standing = consider(standing, one, rule).standing
    return standing


def test_item_33_three_different_checkpoints_with_a_mean_of_080_advance() -> None:
    two = run([Measured("a", 1, 16, 20), Measured("b", 1, 15, 20)])
    assert two.mastered == 0
    third = consider(two, Measured("c", 1, 17, 20), RULE)  # 0.80 + 0.75 + 0.85: exactly 0.80, in whatever order floats are added
    assert third.advanced and third.standing.mastered == 1
    assert third.standing.evidence == () and third.standing.counted == {"a", "b", "c"}
    assert [one.checkpoint for one in third.evidence] == ["a", "b", "c"]


def test_a_hair_below_the_threshold_stays() -> None:
    below = run([Measured("a", 1, 16, 20), Measured("b", 1, 16, 20), Measured("c", 1, 799, 1000)])
    assert below.mastered == 0
    assert missing(below, RULE) == "The mean of the last 3 is 0.800; 0.8 is needed."


def test_the_same_checkpoint_three_times_is_one_evaluation() -> None:
    same = run([Measured("a", 1, 20, 20)] * 5)
    assert same.mastered == 0 and len(same.evidence) == 1
    assert why_not(same, Measured("a", 1, 20, 20), RULE) == "The checkpoint a has counted already."


def test_only_the_training_level_and_enough_answers_count() -> None:
    assert why_not(Standing(), Measured("a", 2, 20, 20), RULE) == "It was made at level 2, and the training level is 1."
    assert why_not(Standing(), Measured("a", 1, 19, 19), RULE) == "It has 19 answers; 20 are needed."
    assert why_not(Standing(), Measured("a", 1, 5, 5), Rule(5, min_problems=5)) == ""


def test_the_mean_is_of_the_last_three() -> None:
    bad = [Measured(f"bad{n}", 1, 0, 20) for n in range(4)]
    good = [Measured(f"good{n}", 1, 18, 20) for n in range(3)]
    assert run(bad + good[:2]).mastered == 0
    assert run(bad + good).mastered == 1
    assert mean(run([*bad, good[0]]), RULE) == Fraction(3, 10)


def test_a_level_up_begins_with_no_evidence_and_old_checkpoints_do_not_count_again() -> None:
    standing = run([Measured(name, 1, 20, 20) for name in "abc"])
    assert run([Measured(name, 2, 20, 20) for name in "abc"], standing=standing).mastered == 1
    assert run([Measured(name, 2, 20, 20) for name in "def"], standing=standing).mastered == 2


def test_the_last_level_has_no_threshold() -> None:
    standing = run([Measured(f"c{n}", min(5, n // 3 + 1), 20, 20) for n in range(30)])
    assert standing.mastered == 4 and RULE.training_level(standing.mastered) == 5
    assert missing(standing, RULE) == "Level 5 is the last one; it has no threshold."
    assert RULE.training_level(7) == 5


def test_thresholds_of_single_levels_and_a_lowered_one() -> None:
    strict = Rule(5, thresholds=((1, 0.95),))
    standing = run([Measured(name, 1, 18, 20) for name in "abc"], strict)
    assert standing.mastered == 0
    assert progress(standing, strict).advanced is False
    assert progress(standing, RULE).standing.mastered == 1


@settings(max_examples=300, deadline=None)
@given(st.lists(measured, max_size=60), st.integers(1, 6))
def test_it_never_regresses_never_skips_and_never_exceeds_the_last_level(evaluations: list[Measured], last: int) -> None:
    rule, standing = Rule(last), Standing()
    for one in evaluations:
        found = consider(standing, one, rule)
        assert 0 <= found.standing.mastered - standing.mastered <= 1
        assert found.standing.mastered <= max(0, last - 1)
        assert found.advanced == (found.standing.mastered > standing.mastered)
        assert found.counted == (one.checkpoint in found.standing.counted and one.checkpoint not in standing.counted)
        assert standing.counted <= found.standing.counted
        if found.advanced:
            assert len({each.checkpoint for each in found.evidence}) == 3
            assert sum(each.share for each in found.evidence) / 3 >= Fraction(4, 5)
            assert {each.level for each in found.evidence} == {found.standing.mastered}
        if not found.counted:
            assert found.standing == standing and found.reason
        standing = found.standing


@settings(max_examples=200, deadline=None)
@given(st.lists(measured, max_size=25), st.data())
def test_repeating_evaluations_anywhere_later_changes_nothing(evaluations: list[Measured], data: st.DataObject) -> None:
    once = run(evaluations)
    repeated: list[Measured] = []
    standing, counted = Standing(), []
    for one in evaluations:
        repeated.append(one)
        found = consider(standing, one, RULE)
        standing = found.standing
        if found.counted:
            counted.append(one)
        if counted:
            repeated += data.draw(st.lists(st.sampled_from(counted), max_size=3))
    assert run(repeated) == once
