from __future__ import annotations

import math

import pytest

from scaler_wizard.evaluation import Measured, rung_scores, short_context_regression
from scaler_wizard.resolved import RungPlan


def measured(perplexity: dict[int, float], passkey: dict[int, float]) -> Measured:
    return Measured(perplexity, {"passkey": passkey}, ())


def rung(length: int) -> RungPlan:
    return RungPlan(1, length, length / 512, 2, 10, 1e-4, 0.2, 1, 1, (), ("passkey",), "", False)


def test_scores_are_higher_is_better() -> None:
    base = measured({512: 4.0}, {512: 0.9})
    after = measured({512: 4.1, 1024: 5.0}, {512: 0.9, 1024: 0.7})
    assert rung_scores(after, base, rung(1024), 512) == {"passkey": 0.7, "sliding_ppl": pytest.approx(0.8)}
    better = measured({1024: 3.0}, {1024: 1.0})
    assert rung_scores(better, base, rung(1024), 512)["sliding_ppl"] == 1.0
    broken = measured({1024: math.inf}, {1024: 0.0})
    assert rung_scores(broken, base, rung(1024), 512)["sliding_ppl"] == 0.0


@pytest.mark.parametrize(
    ("after", "accuracy", "persona", "verdict", "drop"),
    [
        (3.9, 1.0, "conservative", "continue", 0.0),
        (4.04, 1.0, "balanced", "continue", 1.0),
        (4.12, 1.0, "balanced", "warn", 3.0),
        (4.4, 1.0, "balanced", "warn", 10.0),
        (4.4, 1.0, "conservative", "stop", 10.0),
        (4.0, 0.9, "conservative", "stop", 10.0),
        (math.nan, 1.0, "conservative", "stop", math.inf),
    ],
)
def test_short_context_regression(after: float, accuracy: float, persona: str, verdict: str, drop: float) -> None:
    found = short_context_regression(
        measured({512: 4.0}, {512: 1.0}), measured({512: after}, {512: accuracy}), 512, warn_at=2.0, stop_at=5.0, persona=persona
    )
    assert found.verdict == verdict
    assert found.drop_points == pytest.approx(drop)
    assert "short context" in found.sentence()
