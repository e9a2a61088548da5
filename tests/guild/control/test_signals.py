"""Signal files, however they were written: read once, in order, never by two."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from guild.control.signals import DEFAULT_REASON, SIGNALS, active, clear, done, give, odd_signals, put_back, signal_path, take
from guild.places import Places
from helpers.guild_jobs import run_all
from modelwright.clock import ManualClock
from modelwright.errors import StorageError

NOON = datetime(2026, 5, 6, 12, tzinfo=UTC)


def touch(places: Places, kind: str, age_s: float = 0.0) -> Path:
    """As a person does it."""
    places.control.mkdir(parents=True, exist_ok=True)
    path = places.control / f".{kind}"
    path.touch()
    moment = time.time() - age_s
    os.utime(path, (moment, moment))
    return path


def test_a_signal_holds_reason_and_time_and_resume_is_empty(tmp_path: Path) -> None:
    places = Places(tmp_path)
    path = give(places, "pause", "GPU\nneeded  now", clock=ManualClock(NOON))
    assert path.read_text() == "GPU needed now\n2026-05-06T12:00:00Z\n"
    assert give(places, "stop", "  ").read_text().splitlines()[0] == DEFAULT_REASON
    assert give(places, "resume").read_bytes() == b""
    assert active(places) == {"pause": True, "stop": True, "skip": False, "resume": True}


def test_a_signal_is_taken_once_with_what_it_says(tmp_path: Path) -> None:
    places = Places(tmp_path)
    give(places, "pause", "GPU needed", clock=ManualClock(NOON))
    (signal,) = take(places)
    assert (signal.kind, signal.reason, signal.at) == ("pause", "GPU needed", NOON)
    assert take(places) == [] and not any(active(places).values())
    done(signal)
    assert [path.name for path in places.control.iterdir()] == []


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe\x00", b"just a reason", b"reason\nnot a time\n", b"x" * 200_000])
def test_whatever_a_person_writes_is_a_signal(content: bytes, tmp_path: Path) -> None:
    places = Places(tmp_path)
    touch(places, "skip").write_bytes(content)
    (signal,) = take(places)
    assert signal.kind == "skip" and signal.reason
    assert abs(signal.at.timestamp() - time.time()) < 60


def test_signals_come_in_the_order_they_were_given(tmp_path: Path) -> None:
    places = Places(tmp_path)
    touch(places, "pause", 10)
    touch(places, "resume", 30)
    touch(places, "skip", 20)
    assert [signal.kind for signal in take(places)] == ["resume", "skip", "pause"]


def test_a_later_pause_withdraws_a_resume_that_nobody_took(tmp_path: Path) -> None:
    places = Places(tmp_path)
    give(places, "resume")
    give(places, "pause")
    assert active(places) == {"pause": True, "stop": False, "skip": False, "resume": False}


def test_a_signal_that_could_not_be_passed_on_stands_again_unless_a_newer_one_does(tmp_path: Path) -> None:
    places = Places(tmp_path)
    give(places, "pause", "first")
    (signal,) = take(places)
    put_back(signal)
    assert signal_path(places, "pause").read_text().startswith("first")
    (signal,) = take(places)
    give(places, "pause", "second")
    put_back(signal)
    assert signal_path(places, "pause").read_text().startswith("second")
    assert [path.name for path in places.control.iterdir()] == [".pause"]


def test_clear_removes_signals_and_what_a_killed_process_took(tmp_path: Path) -> None:
    places = Places(tmp_path)
    for kind in SIGNALS:
        give(places, kind)
    take(places)  # and killed before it acted
    give(places, "stop")
    (places.control / "state.json").write_text("{}")
    assert clear(places) == ["stop"]
    assert [path.name for path in places.control.iterdir()] == ["state.json"]
    assert clear(places) == [] and clear(Places(tmp_path / "nowhere")) == []


def test_what_is_no_plain_file_asks_for_nothing_and_is_named(tmp_path: Path) -> None:
    places = Places(tmp_path)
    places.control.mkdir()
    (places.control / ".pause").mkdir()
    (places.control / ".stop").symlink_to("/etc/hostname")
    assert take(places) == [] and not any(active(places).values())
    assert len(odd_signals(places)) == 2
    with pytest.raises(StorageError, match="directory"):
        give(places, "pause")
    with pytest.raises(StorageError, match="folder"):
        clear(places)


def test_two_processes_never_take_the_same_signal(tmp_path: Path) -> None:
    places = Places(tmp_path)
    give(places, "pause")
    code = (
        "import sys\nfrom guild.control.signals import take\nfrom guild.places import Places\n"
        "print(sum(len(take(Places.of(sys.argv[1]))) for _ in range(2000)))"
    )
    assert sorted(run_all(code, [(tmp_path,)] * 2)) == ["0\n", "1\n"]
