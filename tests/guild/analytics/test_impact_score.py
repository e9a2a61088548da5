"""The score's arithmetic against closed forms. (specs/guild.md 2.9)"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guild.analytics.impact_score import Measurement, classify, delta, impact_score, relative_change

losses = st.one_of(st.none(), st.floats(0, 50))
shares = st.one_of(st.none(), st.floats(0, 1))
measurements = st.builds(Measurement, loss=losses, accuracy=shares, val_loss=losses)


def test_the_score_is_the_weighted_sum_of_the_relative_changes() -> None:
    before, after = Measurement(2.0, 0.5, 4.0), Measurement(1.0, 0.7, 3.0)
    # loss halves: -0.5; accuracy +0.2; validation loss falls by a quarter: -0.25
    assert impact_score(before, after).value == pytest.approx(0.5 * 0.5 + 0.3 * 0.2 + 0.2 * 0.25)
    assert impact_score(before, after).terms == ("loss", "accuracy", "val_loss")
    # the other way round: each change the other way
    assert impact_score(after, before).value == pytest.approx(-0.5 * 0.5 - 0.3 * 0.2 - 0.2 * 0.25)


def test_a_term_that_was_not_measured_leaves_the_others_their_proportions() -> None:
    assert impact_score(Measurement(2.0, None, 4.0), Measurement(1.0, 0.9, 3.0)).value == pytest.approx((0.25 + 0.05) / 0.7)
    assert impact_score(Measurement(val_loss=4.0), Measurement(val_loss=3.0)).value == pytest.approx(0.25)
    assert impact_score(Measurement(accuracy=0.2), Measurement(accuracy=0.3)).value == pytest.approx(0.1)


def test_nothing_measured_at_both_ends_is_no_score_and_not_neutral() -> None:
    nothing = impact_score(Measurement(1.0), Measurement(val_loss=1.0))
    assert (nothing.value, nothing.terms, nothing.classification) == (None, (), None)
    assert impact_score(Measurement(math.nan), Measurement(1.0)).value is None


@pytest.mark.parametrize(
    ("score", "name"),
    [(0.0100001, "positive"), (0.01, "neutral"), (0.0, "neutral"), (-0.01, "neutral"), (-0.0100001, "negative"), (1.0, "positive")],
)
def test_the_classes_begin_beyond_a_hundredth(score: float, name: str) -> None:
    assert classify(score) == name


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [(2.0, 1.0, -0.5), (1.0, 2.0, 0.5), (4.0, 3.0, -0.25), (0.0, 3.0, 1.0), (3.0, 0.0, -1.0), (0.0, 0.0, 0.0)],
)
def test_a_loss_changes_by_a_share_of_the_larger(before: float, after: float, change: float) -> None:
    assert relative_change(before, after) == change


def test_a_difference_needs_two_numbers() -> None:
    assert delta(0.25, 1.0) == 0.75
    assert delta(None, 1.0) is delta(1.0, None) is delta(math.inf, 1.0) is relative_change(1.0, math.nan) is None


@given(measurements, measurements)
def test_a_score_lies_within_one_and_turns_its_sign_with_time(before: Measurement, after: Measurement) -> None:
    there, back = impact_score(before, after), impact_score(after, before)
    assert there.terms == back.terms
    if there.value is None:
        assert back.value is None
    else:
        assert back.value is not None
        assert -1 - 1e-12 <= there.value <= 1 + 1e-12
        assert there.value == pytest.approx(-back.value, abs=1e-12)


@given(measurements, st.floats(0.01, 40), st.floats(0.01, 5))
def test_a_lower_loss_afterwards_never_scores_less(before: Measurement, loss: float, less: float) -> None:
    worse, better = (impact_score(before, Measurement(at, 0.5, 1.0)).value for at in (loss + less, loss))
    assert worse is None or (better is not None and better >= worse)
