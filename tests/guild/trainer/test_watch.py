"""What a training does with what is asked of it, alone and together. (specs/guild.md 2.1.3; acceptance 5 to 8)"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from guild.control.signals import SignalKind, active, give
from guild.control.state import read_state
from guild.places import Places
from guild.records import jobs
from guild.trainer.dismissal import ask_to_leave
from guild.trainer.watch import LEASE_EVERY_S, Watch
from guild.training.interface import Begun, LeaveError
from helpers.guild_house import make_house
from helpers.guild_watch import watching
from modelwright import control
from modelwright.clock import SYSTEM_CLOCK, ManualClock
from modelwright.errors import DiskFullError

KINDS: tuple[SignalKind, ...] = ("pause", "resume", "skip", "stop")
PAIRS = list(itertools.permutations(KINDS, 2))


@pytest.fixture
def house(tmp_path: Path) -> Places:
    return make_house(tmp_path)


def asked(house: Places, watch: Watch, how: str, kinds: tuple[SignalKind, ...]) -> None:
    """Ask in that order: by the house's signals, or of the run itself."""
    now = time.time_ns()
    for number, kind in enumerate(kinds):
        if how == "signals":
            path = house.control / f".{kind}"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{kind} it\n")
            os.utime(path, ns=(now + number * 10**6, now + number * 10**6))
        else:
            control.ask(watch.run.path, kind, body={"reason": f"{kind} it"}, actor="test")
            for written in (watch.run.path / "control").glob(f"{kind}*.request"):
                os.utime(written, ns=(now + number * 10**6, now + number * 10**6))


def looks(watch: Watch, *, paused: bool, most: int = 3) -> list[str]:
    """What it does in looks one after the other, each in the state that the one before led to, until it leaves or nothing is asked."""
    done = []
    for _ in range(most):
        wish = watch._asked(paused=paused)
        if wish is None:
            return done
        done.append(wish)
        if wish in ("stop", "skip"):
            return done
        paused = wish == "pause"
    return done


WHILE_TRAINING = {
    ("pause", "resume"): ([], []),  # signals withdraw each other; see below for requests
    ("resume", "pause"): (["pause"], []),
    ("pause", "skip"): (["skip"], []),
    ("skip", "pause"): (["skip"], ["pause"]),
    ("resume", "skip"): (["skip"], []),
    ("skip", "resume"): (["skip"], []),
}
WHILE_PAUSED = {
    ("pause", "resume"): (["resume"], []),
    ("resume", "pause"): (["resume", "pause"], []),
    ("pause", "skip"): (["skip"], []),
    ("skip", "pause"): (["skip"], ["pause"]),
    ("resume", "skip"): (["skip"], []),
    ("skip", "resume"): (["skip"], []),
}


@pytest.mark.parametrize("how", ["signals", "requests"])
@pytest.mark.parametrize("paused", [False, True], ids=["training", "paused"])
def test_every_pair_in_both_orders(how: str, paused: bool, house: Places) -> None:
    """A stop is always heard; of two others both have their effect, as if there had been time between them."""
    with watching(house) as watch:
        for pair in PAIRS:
            watch.stop_asked = watch.skip_asked = False
            asked(house, watch, how, pair)
            expected, standing = (WHILE_PAUSED if paused else WHILE_TRAINING).get(pair, (["stop"], []))
            if how == "requests" and pair == ("pause", "resume") and not paused:
                expected = ["pause", "resume"]
            assert looks(watch, paused=paused) == expected, pair
            assert watch.stop_asked == ("stop" in pair), pair
            watch.settle("at rest", 1)
            assert [kind for kind, there in active(house).items() if there] == standing, pair
            for kind in standing:
                (house.control / f".{kind}").unlink()
            unanswered = [record for record in control.answers(watch.run.path) if record["outcome"] is None]
            assert unanswered == [] == watch.run.control().poll(), pair


def test_three_at_once_and_the_reason_is_the_stops(house: Places) -> None:
    with watching(house) as watch:
        for order in itertools.permutations(("pause", "skip", "stop")):
            asked(house, watch, "signals", order)
            assert looks(watch, paused=False) == ["stop"]
            assert (watch.reason, read_state(house).status) == ("stop it", "stopping")
            watch.settle("stopped", 1)
            assert not any(active(house).values())


def test_a_pause_behind_a_skip_is_told_where_it_went(house: Places) -> None:
    with watching(house) as watch:
        request = control.ask(watch.run.path, "skip", actor="test")
        later = control.ask(watch.run.path, "pause", body={"reason": "lunch"}, actor="test")
        assert watch._asked(paused=False) == "skip"
        watch.settle("skipped", 4)
        outcomes = [(control.answer(watch.run.path, id) or {})["outcome"] for id in (request, later)]
        assert outcomes == ["skipped", "passed on"]
        assert (house.control / ".pause").read_text().startswith("lunch\n")


def test_a_resume_after_a_pause_that_is_being_carried_out_is_heard(house: Places) -> None:
    with watching(house) as watch:
        give(house, "pause", "lunch")
        assert watch._asked(paused=False) == "pause"
        assert read_state(house).pending == "pause"
        give(house, "resume")
        assert watch._asked(paused=True) == "resume"


# --- who is meant


def test_a_signal_to_the_trainer_is_not_a_stop_of_the_daemon(house: Places) -> None:
    with watching(house) as watch:
        watch.signals.signal = signal.SIGTERM
        assert watch.halt() == "stop"
        assert not watch.stop_asked
    with watching(make_house(house.base / "b")) as watch:
        control.ask(watch.run.path, "stop", actor="test")
        watch.signals.signal = signal.SIGTERM
        assert watch.halt() == "stop"
        assert watch.stop_asked and not watch.dismissed
    with watching(make_house(house.base / "c")) as watch:
        ask_to_leave(watch.run.path, "no step for 600 s", clock=SYSTEM_CLOCK)
        assert watch.halt() == "stop"
        assert watch.dismissed and not watch.stop_asked
        control.ask(watch.run.path, "stop", actor="test")
        watch.signals.signal = signal.SIGTERM
        assert watch.halt() == "stop" and watch.stop_asked


def test_a_file_that_is_lost_is_left_and_the_daemon_lives(house: Places) -> None:
    with watching(house) as watch:
        jobs.release(watch.db, watch.taken.job.id, watch.me)
        assert watch.halt() == "stop" and "held" in watch.lost
        assert not watch.stop_asked and not watch.cancelled


# --- a file that makes no steps


def test_a_file_that_is_loaded_is_left_for_a_signal_a_stop_or_a_skip_and_a_pause_waits(house: Places) -> None:
    with watching(house) as watch:
        give(house, "pause", "lunch")
        with watch.during("loading"):
            pass
        assert active(house)["pause"], "it stays where `guild control resume` withdraws it"
        give(house, "skip", "later")
        with pytest.raises(LeaveError) as left, watch.during("loading"):
            raise AssertionError("nothing is loaded any more")
        assert (left.value.outcome, watch.skip_asked) == ("skipped", True)
    with watching(make_house(house.base / "b")) as watch:
        with pytest.raises(LeaveError) as left, watch.during("loading"):
            watch.signals.signal = signal.SIGTERM
        assert (left.value.outcome, watch.stop_asked) == ("stopped", False)
        with pytest.raises(LeaveError):
            watch.begun(Begun(0, 0, 10, {}, None))
        with watch.during("evaluating"):
            pass  # beside steps that are not saved nothing is broken off


def test_a_failure_while_loading_is_not_hidden_by_a_signal(house: Places) -> None:
    def load(watch: Watch) -> None:
        with watch.during("loading"):
            watch.signals.signal = signal.SIGTERM
            raise ValueError("bad file")

    with watching(house) as watch, pytest.raises(ValueError, match="bad file"):
        load(watch)


class Hurrying(ManualClock):
    """Every wait is long enough for the next renewal of the lease. at_waits: what happens at the n-th."""

    def __init__(self) -> None:
        super().__init__(datetime(2026, 1, 2, tzinfo=UTC))
        self.waits = 0
        self.at_wait: dict[int, Callable[[], object]] = {}

    def sleep(self, seconds: float) -> None:
        self.advance(max(seconds, LEASE_EVERY_S + 1))
        self.waits += 1
        assert self.waits < 20, "nobody listens"
        self.at_wait.pop(self.waits, lambda: None)()


@pytest.mark.parametrize("what", ["cancel", "stop", "skip", "signal"])
def test_waiting_for_disk_space_ends_when_the_file_is_to_be_left(what: str, tmp_path: Path) -> None:
    house, clock = make_house(tmp_path), Hurrying()
    with watching(house, minimum_free=2**62, clock=clock) as watch:

        def ask() -> None:
            if what == "cancel":
                jobs.cancel(watch.db, watch.taken.job.id)
            elif what == "signal":
                watch.signals.signal = signal.SIGTERM
            else:
                give(house, what)  # type: ignore[arg-type]

        clock.at_wait = {1: lambda: give(house, "pause"), 2: ask}
        assert watch.disk_full(DiskFullError("no room", house.base)) is False
        assert clock.waits == 2
        assert (watch.cancelled, watch.stop_asked, watch.skip_asked) == (what == "cancel", what == "stop", what == "skip")
        assert active(house)["pause"] == (what in ("cancel", "signal"))


def test_a_pause_given_while_a_full_disk_is_waited_for_holds_when_there_is_room(tmp_path: Path) -> None:
    house, clock = make_house(tmp_path), Hurrying()
    with watching(house, minimum_free=2**62, clock=clock) as watch:

        def room() -> None:
            watch.minimum_free = 0

        clock.at_wait = {1: lambda: give(house, "pause", "lunch"), 3: room}
        assert watch.disk_full(DiskFullError("no room", house.base)) is True
        assert watch.halt() == "pause" and watch.reason == "lunch"
