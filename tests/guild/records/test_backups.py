"""Backups of guild.db, damage inside rows, and bringing a backup back."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import apsw
import pytest

from guild.errors import RefusedError
from guild.places import Places
from guild.records import backups, events, jobs
from guild.records.checksums import DamagedRowError
from guild.records.database import open_guild
from helpers.guild_jobs import ME, data_file, python, queued, report, store
from modelwright.clock import ManualClock
from modelwright.errors import DamagedFileError, UsageError


def clock_at(day: int, hour: int = 0) -> ManualClock:
    return ManualClock(datetime(2026, 5, day, hour, tzinfo=UTC))


def flip(path: Path, text: bytes, offset: int = 0, bit: int = 0x01) -> None:
    """Change one byte of `text` wherever it stands in the file."""
    data = path.read_bytes()
    assert text in data
    changed = bytearray(text)
    changed[offset] ^= bit
    path.write_bytes(data.replace(text, bytes(changed)))


@pytest.fixture
def damaged_second_of_three(tmp_path: Path) -> Path:
    """A store of three files whose second row has one wrong byte, in the text of its payload."""
    with store(tmp_path) as db:
        for number in (1, 2, 3):
            jobs.enqueue(db, data_file(f"f{number}", mtime=number, reason=f"because of number {number}"))
    flip(tmp_path / "guild.db", b"because of number 2", 3)
    return tmp_path


# --- damage


def test_a_changed_byte_inside_a_row_is_named_and_the_others_are_listed(damaged_second_of_three: Path) -> None:
    with store(damaged_second_of_three) as db:
        assert db.check() == []  # SQLite itself sees nothing
        assert backups.problems(db) == [
            "Row 2 of jobs in guild.db is damaged (its checksum is wrong); expected the values that were written. "
            "The other rows can be used; restore a backup to get this one back."
        ]
        listing = jobs.list_jobs(db)
        assert [job.id for job in listing.jobs] == [1, 3] and listing.damaged == tuple(backups.problems(db))
        with pytest.raises(DamagedRowError):
            jobs.get(db, 2)
        with pytest.raises(DamagedRowError):
            jobs.cancel(db, 2)


def test_a_damaged_job_is_set_aside_when_its_turn_comes_and_the_next_is_taken(damaged_second_of_three: Path) -> None:
    with store(damaged_second_of_three) as db:
        jobs.claim(db, ME)
        jobs.finish(db, 1, ME)
        job = jobs.claim(db, ME)
        assert job is not None and job.id == 3
        assert [(row["table_name"], row["row_id"]) for row in db.rows("SELECT * FROM damaged_rows")] == [("jobs", 2)]
        assert "bec`use of number 2" in db.rows("SELECT content FROM damaged_rows")[0]["content"]
        assert events.log_of(db, 2).events[-1].type == "daemon.row_damaged"
        assert backups.problems(db) == []
        jobs.enqueue(db, data_file("f2"))  # its file can be queued again


@pytest.mark.parametrize(
    ("text", "offset", "bit"),
    [(b"train_file", 3, 0x01), (b"because", 2, 0x80), (b"f2.jsonl", 0, 0x20), (b"}queued", 1, 0x01)],
    ids=["a name", "no UTF-8 any more", "an indexed value", "a state"],
)
def test_wherever_the_byte_is_it_is_found_and_never_a_traceback(tmp_path: Path, text: bytes, offset: int, bit: int) -> None:
    with store(tmp_path) as db:
        jobs.enqueue(db, data_file("f2", reason="because"))
        jobs.enqueue(db, report())
    flip(tmp_path / "guild.db", text, offset, bit)
    with store(tmp_path) as db:
        assert backups.problems(db) != []
        jobs.list_jobs(db)
        taken = [job.kind for job in iter(lambda: jobs.claim(db, ME), None)]
        assert "train_file" not in taken


@pytest.mark.parametrize(
    ("text", "said"), [(b"the highest is taken first", "definition of the table jobs"), (b"CREATE INDEX jobs_held", "damaged")]
)
def test_damage_in_the_definition_of_a_table_is_named(tmp_path: Path, text: bytes, said: str) -> None:
    store(tmp_path).close()
    flip(tmp_path / "guild.db", text, 14)

    def look() -> None:
        with store(tmp_path) as db:
            raise DamagedFileError(tmp_path, *backups.problems(db), "a sound one")

    with pytest.raises(DamagedFileError, match=said):
        look()


def test_a_damaged_event_is_named_and_the_stream_goes_on(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        for number in range(5):
            events.record(db, "data.generated", f"this is number {number}", source="test")
    flip(tmp_path / "guild.db", b"this is number 2", 5)
    with store(tmp_path) as db:
        page = events.read_after(db)
        assert [event.id for event in page.events] == [1, 2, 4, 5] and page.last == 5
        assert page.damaged[0].startswith("Row 3 of events in guild.db is damaged")


# --- making


def test_backups_are_made_when_due_and_the_newest_are_kept(tmp_path: Path) -> None:
    places = Places(tmp_path)
    with store(tmp_path) as db:
        for day in range(1, 6):
            assert backups.due(places, clock=clock_at(day))
            queued(db, f"f{day}")
            made = backups.make(db, places, keep=3, clock=clock_at(day))
            assert made.name == f"guild-2026050{day}-000000.db"
            assert not backups.due(places, clock=clock_at(day, 5))
            assert backups.due(places, clock=clock_at(day, 7))
    assert [backup.name for backup in backups.list_backups(places)] == [f"guild-2026050{day}-000000.db" for day in (5, 4, 3)]
    assert sorted(os.listdir(places.backups)) == [f"guild-2026050{day}-000000.db" for day in (3, 4, 5)]


def test_a_clock_that_was_set_back_makes_a_backup_due_and_loses_none_of_the_new(tmp_path: Path) -> None:
    places = Places(tmp_path)
    with store(tmp_path) as db:
        for day in (20, 21, 22):
            backups.make(db, places, keep=3, clock=clock_at(day))
        assert backups.due(places, clock=clock_at(2))
        made = backups.make(db, places, keep=3, clock=clock_at(2))
        assert made.path.exists()


def test_a_damaged_database_pushes_no_good_backup_out(damaged_second_of_three: Path) -> None:
    places = Places(damaged_second_of_three)
    places.backups.mkdir()
    (places.backups / "guild-20260101-000000.db").write_bytes(b"an older one")
    with store(damaged_second_of_three) as db, pytest.raises(DamagedFileError, match="Row 2 of jobs"):
        backups.make(db, places, keep=1)
    assert os.listdir(places.backups) == ["guild-20260101-000000.db"]


# --- restoring


def test_a_backup_comes_back_and_the_damaged_file_is_kept(tmp_path: Path) -> None:
    places = Places(tmp_path)
    with store(tmp_path) as db:
        queued(db, "a", "b")
        backups.make(db, places, clock=clock_at(1))
        queued(db, "c")
        seen = events.last_id(db)
    places.database.write_bytes(b"\x00" * 100 + places.database.read_bytes()[100:])
    with pytest.raises(DamagedFileError):
        open_guild(places)
    wreck = places.database.read_bytes()
    restored = backups.restore(places, clock=clock_at(2))
    assert restored.backup.name == "guild-20260501-000000.db"
    assert restored.quarantined == tmp_path / "guild.db.damaged-20260502-000000"
    assert restored.quarantined.read_bytes() == wreck
    with store(tmp_path) as db:
        assert [job.name for job in jobs.list_jobs(db).jobs] == ["a.jsonl", "b.jsonl"]
        page = events.read_after(db, seen)
        assert [event.type for event in page.events] == ["daemon.database_restored"]  # a stream goes on behind what it has seen
        assert page.events[0].data == {"backup": "guild-20260501-000000.db", "quarantined": "guild.db.damaged-20260502-000000"}
        assert jobs.enqueue(db, data_file("d")).id > 1000  # the id of c is not given again
        assert backups.problems(db) == []
    assert (places.backups / "guild-20260501-000000.db").exists()


def test_the_newest_sound_backup_is_taken(tmp_path: Path) -> None:
    places = Places(tmp_path)
    with store(tmp_path) as db:
        queued(db, "a")
        backups.make(db, places, clock=clock_at(1))
        queued(db, "b")
        newest = backups.make(db, places, clock=clock_at(2))
    flip(newest.path, b"b.jsonl", 0)
    assert backups.restore(places).backup.name == "guild-20260501-000000.db"
    with store(tmp_path) as db:
        assert [job.name for job in jobs.list_jobs(db).jobs] == ["a.jsonl"]


def test_a_named_backup_is_taken_or_refused(tmp_path: Path) -> None:
    places = Places(tmp_path)
    with store(tmp_path) as db:
        backups.make(db, places, clock=clock_at(1))
        backups.make(db, places, clock=clock_at(2))
    with pytest.raises(UsageError, match=r"found 'yesterday'; allowed: guild-20260502-000000\.db, guild-20260501"):
        backups.restore(places, "yesterday")
    assert backups.restore(places, "guild-20260501-000000.db").backup.made_at == clock_at(1).now()


def test_nothing_is_restored_under_a_running_process(tmp_path: Path) -> None:
    places = Places(tmp_path)
    with store(tmp_path) as db:
        backups.make(db, places)
    head = "import sys\nfrom pathlib import Path\nfrom helpers.guild_jobs import store\n"
    code = head + "db = store(Path(sys.argv[1]))\nprint(1, flush=True)\ninput()"
    holder = python(code, tmp_path)
    assert holder.stdout is not None and holder.stdout.readline()
    before = places.database.read_bytes()
    with pytest.raises(RefusedError, match=f"is open in process {holder.pid}"):
        backups.restore(places)
    assert places.database.read_bytes() == before
    holder.communicate("\n")
    backups.restore(places)


def test_a_database_that_vanished_is_not_begun_anew_beside_its_backups(tmp_path: Path) -> None:
    places = Places(tmp_path)
    with store(tmp_path) as db:
        queued(db, "a")
        backups.make(db, places)
    places.database.unlink()
    for size in (None, 0):
        if size is not None:
            places.database.touch()
        with pytest.raises(DamagedFileError, match="it is missing or empty"):
            open_guild(places)
    assert backups.restore(places).quarantined is not None
    with store(tmp_path) as db:
        assert len(jobs.list_jobs(db).jobs) == 1


def test_without_any_sound_backup_everything_stays_as_it_is(tmp_path: Path) -> None:
    places = Places(tmp_path)
    store(tmp_path).close()
    with pytest.raises(DamagedFileError, match="no backup is there"):
        backups.restore(places)
    places.backups.mkdir()
    (places.backups / "guild-20260501-000000.db").write_bytes(b"nothing of the kind")
    with pytest.raises(DamagedFileError, match=r"guild-20260501-000000\.db: "):
        backups.restore(places)
    connection = apsw.Connection(str(places.database))
    assert next(iter(connection.execute("PRAGMA integrity_check")))[0] == "ok"
    connection.close()
