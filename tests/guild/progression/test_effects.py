"""Effects begin, last, end and rest as their rules say. (specs/guild.md 2.3.5)"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guild.places import Places
from guild.progression.effect_rules import EffectRule, EffectRules, read_rules
from guild.progression.effects import Observation, Tracker, advance, at_work, blocking, factor
from guild.progression.results import GRADES
from modelwright.errors import ConfigError

SHIPPED = read_rules(Places(Path("/nowhere")))


def only(**fields: Any) -> EffectRules:
    return EffectRules(effects={"it": EffectRule(**fields)})


def follow(rules: EffectRules, seen: Iterable[Observation]) -> tuple[Tracker, list[tuple[str, bool, int]]]:
    tracker, told = Tracker(), []
    for one in seen:
        tracker, changes = advance(rules, tracker, one)
        told += [(change.name, change.began, change.step) for change in changes]
    return tracker, told


def answers(step: int, *results: str) -> Observation:
    return Observation(step, results=results)  # type: ignore[arg-type]


def test_the_shipped_rules_are_those_of_the_specification() -> None:
    rules = SHIPPED.effects
    assert set(rules) == {"tunnel_vision", "confusion", "curse_of_repetition", "exhaustion", "reality_tear", "momentum", "insight"}
    gap, confusion, momentum = rules["tunnel_vision"], rules["confusion"], rules["momentum"]
    assert (gap.trigger, gap.above, gap.window, gap.cooldown) == ("gap", 0.3, 10, 500)
    assert (confusion.count, confusion.factor, confusion.steps, confusion.cooldown) == (5, Fraction("0.8"), 500, 200)
    assert (momentum.count, momentum.factor, momentum.steps) == (10, Fraction("1.25"), 100)
    assert (rules["insight"].factor, rules["insight"].steps) == (Fraction("1.5"), 50)
    assert [name for name, rule in rules.items() if rule.blocks_training] == ["reality_tear"] and SHIPPED.stance == "thoughtful"


def test_five_misses_confuse_for_500_steps_and_it_rests_200() -> None:
    misses = ("miss", "crit_miss", "miss", "miss")
    seen = [
        answers(100, *misses),
        answers(200, "miss"),
        answers(600, *misses),
        answers(700, *misses),
        answers(890, *misses),
        answers(900, *misses),
    ]
    tracker, told = follow(SHIPPED, seen)
    assert [one for one in told if one[0] == "confusion"] == [("confusion", True, 200), ("confusion", False, 700), ("confusion", True, 900)]
    assert factor(SHIPPED, tracker, 900) == Fraction("0.8") and factor(SHIPPED, tracker, 1399) == Fraction("0.8")
    assert factor(SHIPPED, tracker, 1400) == 1, "it ends after its steps, also when nothing is observed then"


def test_a_row_in_the_middle_of_an_evaluation_counts_and_an_old_one_does_not_count_again() -> None:
    rules = only(trigger="consecutive", results=["hit"], count=3, steps=10)
    _, told = follow(rules, [answers(1, "miss", "hit", "hit", "hit", "miss"), answers(20, "hit", "hit"), answers(30), answers(40, "hit")])
    assert told == [("it", True, 1), ("it", False, 11), ("it", True, 40)]


def test_success_has_momentum_and_mastering_gives_insight_and_factors_multiply() -> None:
    tracker, _ = follow(SHIPPED, [answers(10, *["hit"] * 9), Observation(20, results=("crit",), level_up=True)])
    assert sorted(at_work(tracker, 20)) == ["insight", "momentum"]
    assert factor(SHIPPED, tracker, 69) == Fraction("1.25") * Fraction("1.5") and factor(SHIPPED, tracker, 70) == Fraction("1.25")


@pytest.mark.parametrize(("gap", "begins"), [(0.3, False), (0.31, True)])
def test_a_gap_over_ten_checkpoints_is_tunnel_vision(gap: float, begins: bool) -> None:
    seen = [Observation(step, train_loss=0.0, val_loss=gap) for step in range(10)]
    assert follow(SHIPPED, seen[:9])[1] == []
    _, told = follow(SHIPPED, seen)
    assert (("tunnel_vision", True, 9) in told) is begins
    if begins:
        better = [Observation(20, train_loss=1.0, val_loss=1.0)]
        assert ("tunnel_vision", False, 20) in follow(SHIPPED, [*seen, *better])[1], "it ends with its cause"


def test_a_loss_that_is_no_number_blocks_training_until_one_is_again() -> None:
    tracker, told = follow(SHIPPED, [Observation(5, train_loss=1.0), Observation(6, train_loss=math.nan), Observation(7)])
    assert told == [("reality_tear", True, 6)] and blocking(SHIPPED, tracker, 7) == ["reality_tear"]
    tracker, changes = advance(SHIPPED, tracker, Observation(8, train_loss=0.9))
    assert [(one.name, one.began) for one in changes] == [("reality_tear", False)] and blocking(SHIPPED, tracker, 8) == []


def test_the_same_reply_to_most_questions_is_a_curse_and_different_ones_end_it() -> None:
    same, mixed = ("x",) * 11, tuple(str(number) for number in range(9))
    tracker, told = follow(SHIPPED, [Observation(1, replies=same), Observation(2, replies=mixed)])
    assert told == [("curse_of_repetition", True, 2)], "11 of 20 are more than half; before there were not 20"
    assert advance(SHIPPED, tracker, Observation(3, replies=mixed))[1][0].began is False


def test_a_loss_that_no_longer_falls_is_exhaustion() -> None:
    falling = [Observation(step, train_loss=20 - step) for step in range(15)]
    assert follow(SHIPPED, falling)[1] == []
    flat = [Observation(15 + at, train_loss=6) for at in range(10)]
    assert follow(SHIPPED, [*falling, *flat])[1] == [("exhaustion", True, 24)]
    assert ("exhaustion", False, 30) in follow(SHIPPED, [*falling, *flat, Observation(30, train_loss=5)])[1]


def test_unknown_losses_say_nothing() -> None:
    assert follow(SHIPPED, [Observation(step) for step in range(50)])[1] == []
    assert follow(SHIPPED, [Observation(step, val_loss=9.0) for step in range(50)])[1] == []


@given(st.lists(st.tuples(st.integers(0, 300), st.lists(st.sampled_from(GRADES), max_size=12)), max_size=30))
def test_beginnings_and_ends_alternate_and_rests_are_kept(steps: list[tuple[int, list[Any]]]) -> None:
    rules = only(trigger="consecutive", results=["miss"], count=2, steps=40, cooldown=25)
    step, seen = 0, []
    for further, results in steps:
        step += further
        seen.append(Observation(step, results=tuple(results)))
    _, told = follow(rules, seen)
    assert [began for _, began, _ in told] == [at % 2 == 0 for at in range(len(told))]
    for (_, began, at), (_, _, then) in pairwise(told):
        assert then == at + 40 if began else then >= at + 25


def test_an_installation_has_rules_of_its_own_and_every_fault_is_named(tmp_path: Path) -> None:
    places = Places(tmp_path)
    places.schedule.parent.mkdir(parents=True)
    own = places.schedule.with_name("effects.yaml")
    own.write_text("stance: quick_draw\neffects: {calm: {trigger: level_up, steps: 5}}\n")
    rules = read_rules(places)
    assert (rules.stance, list(rules.effects)) == ("quick_draw", ["calm"])
    own.write_text(
        "stance: brave\neffects:\n  a: {trigger: gap, above: 0.3}\n  b: {trigger: luck}\n  c: {trigger: not_finite, xp_factor: 0}\n"
    )
    with pytest.raises(ConfigError) as caught:
        read_rules(places)
    text = str(caught.value)
    assert len(caught.value.faults) == 4 and "needs window" in text and "quick_draw" in text and "luck" in text
