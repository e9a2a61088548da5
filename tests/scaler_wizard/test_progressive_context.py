from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler_wizard.progressive_context import (
    ContextStep,
    ScoreBook,
    build_context_schedule,
    evaluation_lengths,
    runnable_probes,
    should_halt,
)


def lengths(steps: list[ContextStep]) -> list[int]:
    return [step.length for step in steps]


@pytest.mark.parametrize(
    ("base", "target", "expected"),
    [
        (2048, 16384, [2048, 4096, 8192, 16384]),
        (2048, 65536, [2048, 4096, 8192, 16384, 32768, 65536]),
        (512, 3000, [512, 1024, 2048, 3000]),
        (4096, 4096, [4096]),
        (512, 600, [512, 600]),
    ],
)
def test_automatic_schedules(base: int, target: int, expected: list[int]) -> None:
    assert lengths(build_context_schedule(base, target)) == expected
    assert lengths(build_context_schedule(base, target, [])) == expected


def test_explicit_values_are_sorted_made_unique_and_ended_by_the_target() -> None:
    assert lengths(build_context_schedule(2048, 16384, [12288, 6144, 6144])) == [2048, 6144, 12288, 16384]
    assert lengths(build_context_schedule(2048, 16384, [2048, 16384])) == [2048, 16384]


def test_values_outside_base_and_target_are_refused() -> None:
    with pytest.raises(ValueError, match="1024 below the base context 2048"):
        build_context_schedule(2048, 16384, [1024, 4096])
    with pytest.raises(ValueError, match="32768 above the target context 16384"):
        build_context_schedule(2048, 16384, [4096, 32768])
    with pytest.raises(ValueError, match="below the base"):
        build_context_schedule(4096, 2048)


def test_probes_of_each_rung() -> None:
    steps = build_context_schedule(2048, 32768)
    assert steps[0] == ContextStep(2048, ["synthetic_longform"], "base context checkpoint")
    assert steps[1].probes == ["synthetic_longform", "retrieval_qa"]
    assert steps[-1].probes == ["synthetic_longform", "retrieval_qa", "code_generation"]
    assert "code_generation" not in steps[-2].probes


@given(st.data(), st.integers(1, 5000), st.integers(0, 200_000), st.sampled_from(["double", "single_shot", "two_stage"]))
def test_any_schedule_rises_and_ends_at_the_target(data: st.DataObject, base: int, extra: int, growth: str) -> None:
    target = base + extra
    explicit = data.draw(st.lists(st.integers(base, target), max_size=5))
    found = lengths(build_context_schedule(base, target, explicit, growth))  # type: ignore[arg-type]
    assert found[0] == base
    assert found[-1] == target
    assert all(first < second for first, second in pairwise(found))


def test_growth_policies() -> None:
    assert lengths(build_context_schedule(2048, 32768, growth="single_shot")) == [2048, 32768]
    assert lengths(build_context_schedule(2048, 32768, growth="two_stage")) == [2048, 8192, 32768]
    with pytest.raises(ValueError, match="double, single_shot, two_stage"):
        build_context_schedule(2048, 4096, growth="triple")  # type: ignore[arg-type]


def test_should_halt_needs_a_window_and_is_strict_at_equality() -> None:
    assert not should_halt([0.0, 0.0], 0.5)
    assert not should_halt([0.5, 0.5, 0.5], 0.5)
    assert should_halt([1.0, 0.5, 0.5, 0.49], 0.5)
    assert should_halt([1.0, 1.0, float("nan")], 0.5)


def test_each_probe_is_judged_against_its_own_base_score() -> None:
    book = ScoreBook(floor_ratio=0.9, window=2)
    for passkey, longform in ((1.0, 0.5), (0.8, 0.5), (0.7, 0.5)):
        book.add("passkey", passkey)
        book.add("synthetic_longform", longform)
    assert book.threshold("passkey") == pytest.approx(0.9)
    assert book.halting() == ["passkey"]


def test_a_rung_is_evaluated_at_every_earlier_length() -> None:
    assert evaluation_lengths([512, 1024, 2048], 1) == [512, 1024]


def test_passkey_stands_in_for_retrieval_until_that_exists() -> None:
    run, remarks = runnable_probes(["retrieval_qa", "code_generation", "passkey"], {"passkey"})
    assert run == ["passkey"]
    assert len(remarks) == 2
    assert "passkey stands in" in remarks[0]
    assert runnable_probes(["retrieval_qa"], {"retrieval_qa", "passkey"}) == (["retrieval_qa"], [])
