"""From signal files to requests of the live run. (specs/guild.md 2.1.3; acceptance 8)"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guild.control.forward import forward_signals, judge
from guild.control.signals import SIGNALS, Signal, SignalKind, active, give
from guild.places import Places
from modelwright.control import Control, ask
from modelwright.errors import ModelwrightError
from modelwright.rundir import RunDir

from .test_signals import touch

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with RunDir.create(tmp_path / "run", kind="train_file", command=["train"]):
        pass
    return tmp_path / "run"


def test_a_pause_becomes_a_request_with_its_reason(tmp_path: Path, run: Path) -> None:
    places = Places(tmp_path)
    give(places, "pause", "GPU needed")
    found = forward_signals(places, run, paused=False)
    (request,) = Control(run).poll()
    assert (request.kind, request.actor, request.body["reason"]) == ("pause", "guild.control", "GPU needed")
    assert request.id == found.asked[0][1]
    assert found.paused and found.held == () and list(places.control.iterdir()) == []
    assert forward_signals(places, run, paused=True).asked == (), "each signal once"


def test_item_8_a_stale_resume_does_not_cancel_a_later_pause(tmp_path: Path, run: Path) -> None:
    places = Places(tmp_path)
    touch(places, "resume", 60)
    found = forward_signals(places, run, paused=False)
    assert [signal.kind for signal, _ in found.discarded] == ["resume"] and found.asked == ()
    touch(places, "resume", 60)  # stale again, and this time nobody looks before the pause comes
    touch(places, "pause", 10)
    found = forward_signals(places, run, paused=False)
    assert found.paused
    assert [request.kind for request in Control(run).poll()] == ["pause"]
    assert not any(active(places).values())


def test_while_paused_an_older_resume_does_not_undo_a_newer_pause(tmp_path: Path, run: Path) -> None:
    places = Places(tmp_path)
    touch(places, "resume", 60)
    touch(places, "pause", 10)
    assert forward_signals(places, run, paused=True).paused
    assert [request.kind for request in Control(run).poll()] == ["resume", "pause"]


def test_a_resume_goes_to_a_paused_run(tmp_path: Path, run: Path) -> None:
    places = Places(tmp_path)
    touch(places, "resume")
    assert not forward_signals(places, run, paused=True).paused
    assert [request.kind for request in Control(run).poll()] == ["resume"]


def test_a_pause_with_its_resume_behind_it_cancels_out(tmp_path: Path, run: Path) -> None:
    places = Places(tmp_path)
    touch(places, "pause", 10)
    touch(places, "resume", 5)
    found = forward_signals(places, run, paused=False)
    assert not found.paused and len(found.discarded) == 2
    assert Control(run).poll() == []


def test_a_stop_is_asked_and_told_also_while_paused(tmp_path: Path, run: Path) -> None:
    places = Places(tmp_path)
    give(places, "stop", "night")
    found = forward_signals(places, run, paused=True)
    assert found.stop is not None and found.stop.reason == "night"
    assert [request.kind for request in Control(run).poll()] == ["stop"]


def test_a_pause_behind_a_skip_is_for_the_next_file(tmp_path: Path, run: Path) -> None:
    """While paused too: the skip ends that pause."""
    places = Places(tmp_path)
    for paused in (False, True):
        touch(places, "skip", 10)
        touch(places, "pause", 5)
        assert forward_signals(places, run, paused=paused).paused
        assert [request.kind for request in Control(run).poll()] == ["skip", "pause"]


def test_without_a_live_run_the_caller_acts_and_a_skip_means_nothing(tmp_path: Path) -> None:
    places = Places(tmp_path)
    touch(places, "skip", 3)
    touch(places, "pause", 2)
    touch(places, "stop", 1)
    found = forward_signals(places, None, paused=False)
    assert [signal.kind for signal in found.held] == ["pause", "stop"]
    assert [signal.kind for signal, _ in found.discarded] == ["skip"]
    assert list(places.control.iterdir()) == []


def test_signals_that_cannot_be_passed_on_stand_again(tmp_path: Path) -> None:
    places = Places(tmp_path)
    touch(places, "pause", 2)
    touch(places, "stop", 1)
    with pytest.raises(ModelwrightError):
        forward_signals(places, tmp_path / "no run there", paused=False)
    assert [kind for kind, there in active(places).items() if there] == ["pause", "stop"]


def made(kinds: tuple[SignalKind, ...]) -> list[Signal]:
    return [Signal(kind, "r", NOW, order, Path(f"/nowhere/{order}")) for order, kind in enumerate(kinds)]


@given(st.permutations(SIGNALS), st.integers(0, 4), st.booleans(), st.booleans())
def test_every_signal_is_used_or_discarded_and_the_last_word_counts(order: list[SignalKind], count: int, paused: bool, live: bool) -> None:
    signals = made(tuple(order[:count]))
    wanted, discarded, after = judge(signals, paused=paused, live=live)
    assert sorted(signal.order for signal in wanted + [signal for signal, _ in discarded]) == list(range(count))
    words = [signal.kind for signal in signals if signal.kind in ("pause", "resume") or (live and signal.kind == "skip")]
    assert after == (paused if not words else words[-1] == "pause")
    assert all(signal in wanted for signal in signals if signal.kind == "stop")


def test_the_run_sees_what_a_sequence_of_looks_means(tmp_path: Path, run: Path) -> None:
    """Whatever is given between the looks, the run ends as paused or not as the last word said, and a resume without a pause is nothing."""
    places = Places(tmp_path)
    for first, second in itertools.product(("pause", "resume"), repeat=2):
        paused = False
        for kind in (first, second):
            touch(places, kind)
            paused = forward_signals(places, run, paused=paused).paused
        asked = [request.kind for request in Control(run).poll()]
        assert asked == {("pause", "pause"): ["pause"], ("pause", "resume"): ["pause", "resume"], ("resume", "pause"): ["pause"]}.get(
            (first, second), []
        )
    ask(run, "stop", actor="test")  # the run's own control is as usable as before
    assert [request.kind for request in Control(run).poll()] == ["stop"]
