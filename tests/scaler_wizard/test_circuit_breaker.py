from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scaler_wizard.circuit_breaker import PERSONAS, CBConfig, CircuitBreaker, least_squares_slope
from scaler_wizard.telegram import TelegramContext

NAN, INF = float("nan"), float("inf")


def breaker(**settings: Any) -> CircuitBreaker:
    return CircuitBreaker(CBConfig(**settings), printer=lambda line: None)


def feed(target: CircuitBreaker, values: list[float | None]) -> dict[str, Any]:
    telegram: dict[str, Any] = {}
    for step, value in enumerate(values):
        telegram = target.register(step, value)
    return telegram


def test_rising_perplexity_stops_with_the_seeds_words() -> None:
    assert feed(breaker(window_steps=3), [5.0, 5.3, 5.6]) == {
        "action": "stop",
        "reason": "perplexity rising 0.200/step",
        "step": "2",
    }


def test_without_hard_stop_it_warns() -> None:
    assert feed(breaker(window_steps=3, hard_stop=False), [5.0, 5.3, 5.6])["action"] == "warn"


def test_the_slope_needs_a_full_window_of_perplexities() -> None:
    assert feed(breaker(window_steps=3), [5.0, 9.0])["action"] == "continue"
    assert feed(breaker(window_steps=3), [5.0, None, 9.0])["action"] == "continue"
    assert feed(breaker(window_steps=2, max_perplexity_delta=0.5), [5.0, 6.0])["action"] == "continue"  # 0.5 is not above 0.5


def test_accuracy_exactly_at_the_floor_continues() -> None:
    guard = breaker(min_accuracy=0.6)
    assert guard.register(1, 5.0, 0.6)["action"] == "continue"
    telegram = guard.register(2, 5.0, 0.4)
    assert telegram == {"action": "stop", "reason": "accuracy 0.40 below floor 0.60", "step": "2"}


def test_reasons_are_joined() -> None:
    guard = breaker(window_steps=2, min_accuracy=0.6)
    guard.register(0, 5.0)
    assert guard.register(1, 6.0, 0.4)["reason"] == "perplexity rising 0.500/step; accuracy 0.40 below floor 0.60"


@pytest.mark.parametrize("mode", ["classic", "robust"])
@pytest.mark.parametrize("hard_stop", [True, False])
@pytest.mark.parametrize("field", ["perplexity", "loss", "grad_norm", "accuracy"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_value_that_is_not_finite_stops_in_every_mode(mode: str, hard_stop: bool, field: str, value: float) -> None:
    telegram = breaker(mode=mode, hard_stop=hard_stop).register(7, **{field: value})  # type: ignore[arg-type]
    assert telegram["action"] == "stop"
    assert "is not finite" in telegram["reason"]


def test_every_step_is_checked_cheaply() -> None:
    guard = breaker()
    assert guard.check_step(3, loss=2.0, grad_norm=1.0) is None
    telegram = guard.check_step(4, loss=2.0, grad_norm=NAN)
    assert telegram is not None
    assert telegram["reason"] == "grad norm is not finite (nan)"


def test_history_does_not_cross_a_rung() -> None:
    guard = breaker(window_steps=3)
    feed(guard, [5.0, 5.3])
    guard.reset(rung=4096)
    assert guard.register(2, 5.6)["action"] == "continue"
    assert feed(guard, [5.9, 9.0])["action"] == "stop"  # 5.6, 5.9, 9.0 is a window of the new rung


def test_an_override_silences_one_trigger_for_one_rung() -> None:
    guard = breaker(window_steps=2, min_accuracy=0.6)
    guard.reset(rung=2048)
    record = guard.override("accuracy_floor", actor="ada", reason="known to be low here")
    assert (record.rung, record.actor) == (2048, "ada")
    assert guard.register(0, 5.0, 0.1)["action"] == "continue"
    assert guard.register(1, 9.0, 0.1)["reason"] == "perplexity rising 2.000/step"
    guard.reset(rung=4096)
    assert guard.register(2, 5.0, 0.1)["action"] == "stop"
    assert len(guard.overrides) == 1


def test_nobody_can_silence_values_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match="cannot be overridden"):
        breaker().override("nonfinite", "ada", "no")


def test_robust_mode_warms_up_warns_and_stops_on_the_second_breach() -> None:
    guard = breaker(mode="robust", window_steps=3)
    assert feed(guard, [5.0, 6.0, 7.2])["action"] == "continue"  # the first window only warms up
    assert guard.register(3, 8.6)["action"] == "warn"  # first breach
    telegram = guard.register(4, 10.4)
    assert telegram["action"] == "stop"
    assert telegram["reason"].startswith("log perplexity rising 0.18")


def test_robust_mode_warns_at_half_the_threshold_and_forgets_a_single_breach() -> None:
    guard = breaker(mode="robust", window_steps=2)
    values = [100.0, 100.0, 102.0, 110.0, 110.0, 118.0]
    assert [guard.register(step, value)["action"] for step, value in enumerate(values)] == [
        "continue", "continue", "warn", "warn", "continue", "warn",
    ]  # fmt: skip


def test_robust_mode_watches_throughput_and_vram() -> None:
    guard = breaker(mode="robust")
    guard.register(0, 5.0, throughput=1000.0)
    assert guard.register(1, 5.0, throughput=499.0)["reason"] == "throughput down 50 % to 499 tokens/s"
    assert guard.register(2, 5.0, vram_used=0.92)["action"] == "warn"
    assert guard.register(3, 5.0, vram_used=0.98)["action"] == "stop"
    assert breaker().register(0, 5.0, vram_used=0.99)["action"] == "continue"  # classic does not look


def test_the_telegram_is_printed_as_one_line_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "telegram.json"
    context = TelegramContext("0b0f9f3e-0000-4000-8000-000000000000", phase=2, rung=4096, rollback_possible=True)
    guard = CircuitBreaker(CBConfig(window_steps=2, telegram_path=path), context=context)
    guard.register(0, 5.0)
    returned = guard.register(1, 6.0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert json.loads(lines[1]) == json.loads(path.read_text()) == returned
    assert returned["step"] == "1"
    assert (returned["phase"], returned["rung"], returned["recommended"]) == (2, 4096, "rollback")
    assert returned["triggers"] == ["perplexity_slope"]
    assert returned["canonical_sentence"] == "Stopped at step 1: perplexity rising 0.500/step. Recommended: rollback."
    assert returned["timestamp"].endswith("Z")


def test_state_goes_on_exactly_after_a_restore() -> None:
    first = breaker(mode="robust", window_steps=3)
    feed(first, [5.0, 6.0, 7.2, 8.6])
    first.override("vram", "ada", "shared card")
    second = breaker(mode="robust", window_steps=3)
    second.restore(json.loads(json.dumps(first.state())))
    assert second.register(4, 10.4) == first.register(4, 10.4)
    assert second.silenced() == {"vram"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("conservative", (10, 0.10, 0.6, True)), ("balanced", (10, 0.15, 0.5, True)), ("experimental", (20, 0.30, 0.3, False))],
)
def test_personas(name: str, expected: tuple[int, float, float, bool]) -> None:
    config = PERSONAS[name]  # type: ignore[index]
    assert (config.window_steps, config.max_perplexity_delta, config.min_accuracy, config.hard_stop) == expected


def test_a_window_below_two_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        CBConfig(window_steps=1)


def test_least_squares_slope_against_a_line_and_numpy_like_values() -> None:
    assert least_squares_slope([1.0, 3.0, 5.0, 7.0]) == pytest.approx(2.0)
    assert least_squares_slope([0.0, 1.0, 0.0]) == pytest.approx(0.0)
