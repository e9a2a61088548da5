"""Too little disk holds files up and fails none; what the daemon says is kept by day. (specs/guild.md 2.1.1, G9)"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from guild.loop.daily_log import DailyLog
from guild.loop.disk_room import DiskRoom, words_of
from guild.places import Places
from guild.queue.inbox import process_inbox
from guild.records.database import open_guild
from guild.trainer import process
from helpers.guild_house import daemon, job_of, make_house, put, until
from helpers.guild_watchdog import told
from modelwright.clock import ManualClock

PETABYTES = "1000000000"


@pytest.fixture
def house(tmp_path: Path) -> Places:
    return make_house(tmp_path / "a house")


def test_without_room_files_keep_their_places_and_their_attempts(house: Places) -> None:
    put(house, "one.jsonl", 40)
    put(house, "two.jsonl", 40)
    with daemon(house, "--min-free-gb", PETABYTES) as running:
        until(lambda: "Until then files wait" in running.said(), "the word about the disk")
        until(lambda: running.said().count(" is queued.") == 2, "both files")
    for name in ("one.jsonl", "two.jsonl"):
        job = job_of(house, name)
        assert (job.state, job.attempts, job.priority) == ("queued", 0, job.from_priority or job.priority)
    with open_guild(house) as db:
        assert len(told(db, "daemon.disk_full")) == 1 and not told(db, "daemon.trainer_started")
    (log,) = house.logs.glob("daemon_*.log")
    assert "Until then files wait" in log.read_text() and "The daemon leaves" in log.read_text()


def test_a_trainer_that_finds_no_room_gives_the_file_back(house: Places, capsys: pytest.CaptureFixture[str]) -> None:
    put(house, "one.jsonl", 40)
    with open_guild(house) as db:
        process_inbox(db, house, allow_default=True)
    assert process.main(["--base-dir", str(house.base), "--files", "1", "--idle-exit", "0", "--min-free-gb", PETABYTES]) == 0
    assert "GB free" in capsys.readouterr().err
    job = job_of(house, "one.jsonl")
    assert (job.state, job.attempts) == ("queued", 0)


def test_a_verdict_is_news_once(tmp_path: Path) -> None:
    disk = DiskRoom(tmp_path, refuse_below=10**18)
    room, news = disk.look()
    assert not room and news is not None and words_of(news)[::2] == ("daemon.disk_full", "error")
    assert disk.look() == (False, None)
    disk.refuse_below = 0
    room, news = disk.look()
    assert room and news is not None and words_of(news)[0] in ("daemon.disk_well", "daemon.disk_low")
    assert disk.look() == (True, None)


def test_lines_are_kept_by_day_for_thirty_days(tmp_path: Path) -> None:
    said: list[str] = []
    clock = ManualClock(datetime(2026, 3, 4, 23, 59, 58, tzinfo=UTC))
    log = DailyLog(tmp_path / "logs", said.append, clock)
    log("one")
    clock.advance(5)
    log("two")
    assert (tmp_path / "logs" / "daemon_20260304.log").read_text() == "23:59:58Z one\n"
    assert (tmp_path / "logs" / "daemon_20260305.log").read_text() == "00:00:03Z two\n"
    (tmp_path / "logs" / "daemon_notes.log").write_text("of a person")
    clock.advance(30 * 86400)
    log("three")
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["daemon_20260305.log", "daemon_20260404.log", "daemon_notes.log"]
    (tmp_path / "blocked").write_text("a file")
    DailyLog(tmp_path / "blocked", said.append, clock)("four")
    assert said == ["one", "two", "three", "four"]
