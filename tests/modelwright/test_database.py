"""The kernel's SQLite: transactions, formats, backups, other processes, a full disk."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import apsw
import pytest

from modelwright import database
from modelwright.database import Database, NewerDatabaseError, holder_of, immediate
from modelwright.errors import DamagedFileError, DiskFullError, StorageError

FIRST = "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL);"
SECOND = "ALTER TABLE notes ADD COLUMN stars INTEGER NOT NULL DEFAULT 0;"
THIRD = "CREATE TABLE tags (note INTEGER, tag TEXT);"
OURS, OTHERS = 0x54455354, 0x4F544852


def opened(path: Path, *migrations: str, readonly: bool = False) -> Database:
    return Database(path, migrations or (FIRST,), application_id=OURS, readonly=readonly)


def texts(db: Database) -> list[str]:
    return [row["text"] for row in db.rows("SELECT text FROM notes ORDER BY id")]


def add_and_break(db: Database, *, durable: bool) -> None:
    with db.transaction(durable=durable):
        db.execute("INSERT INTO notes (text) VALUES ('undone')", durable=durable)
        raise ZeroDivisionError


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that runs `code` with the names of this module's constants and `arguments` as `sys.argv[1:]`."""
    head = "import sys\nfrom pathlib import Path\nfrom modelwright.database import Database\n"
    head += f"FIRST, SECOND, OURS = {(FIRST, SECOND, OURS)!r}\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_transaction_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    with opened(tmp_path / "a folder" / "nötes.db") as db:
        with db.transaction() as connection:
            connection.execute("INSERT INTO notes (text) VALUES ('one'), ('two')")
        with pytest.raises(ZeroDivisionError):
            add_and_break(db, durable=False)
        assert texts(db) == ["one", "two"]
        assert db.row("SELECT text FROM notes WHERE id = ?", (9,)) is None
        assert db.execute("DELETE FROM notes WHERE id = ?", (1,)) == 1


def test_a_transaction_within_another_is_a_part_of_it(tmp_path: Path) -> None:
    with opened(tmp_path / "notes.db") as db:
        with db.transaction():
            db.execute("INSERT INTO notes (text) VALUES ('outer')")
            with pytest.raises(ZeroDivisionError):
                add_and_break(db, durable=False)
            with db.snapshot():
                assert texts(db) == ["outer"]
        assert texts(db) == ["outer"]
        with pytest.raises(ZeroDivisionError):
            add_and_break(db, durable=True)
        assert texts(db) == ["outer"]
        with pytest.raises(ValueError, match="cannot be a part"), db.transaction(durable=False):
            db.execute("INSERT INTO notes (text) VALUES ('x')", durable=True)


def test_durable_transactions_wait_for_the_disk_and_others_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def noting(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    with opened(tmp_path / "notes.db") as db:
        assert db.row("PRAGMA journal_mode") == {"journal_mode": "wal"}
        assert db.row("PRAGMA synchronous") == {"synchronous": 1}
        monkeypatch.setattr(os, "fdatasync", noting)
        for durable, expected in ((True, 1), (False, 1), (True, 2), (False, 2)):
            with db.transaction(durable=durable) as connection:
                connection.execute("INSERT INTO notes (text) VALUES ('x')")
            assert synced == [str(tmp_path / "notes.db-wal")] * expected


def test_a_disk_that_fails_to_sync_is_told_and_others_were_not_held_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path / "notes.db") as db, opened(tmp_path / "notes.db") as other:

        def broken(descriptor: int) -> None:
            other.execute("INSERT INTO notes (text) VALUES ('meanwhile')", durable=False)  # the lock is free by now
            raise OSError(errno.EIO, "input/output error")

        monkeypatch.setattr(os, "fdatasync", broken)
        with pytest.raises(StorageError, match="input/output error; what was written since the last success is uncertain"):
            db.execute("INSERT INTO notes (text) VALUES ('x')")


def test_a_snapshot_does_not_see_what_others_write_meanwhile(tmp_path: Path) -> None:
    with opened(tmp_path / "notes.db") as one, opened(tmp_path / "notes.db") as two:
        with one.snapshot():
            assert texts(one) == []
            two.execute("INSERT INTO notes (text) VALUES ('new')")
            assert texts(one) == []
        assert texts(one) == ["new"]


def test_two_immediate_transactions_take_turns(tmp_path: Path) -> None:
    """The second one waits, reads what the first one wrote, and neither write is lost."""
    path = tmp_path / "notes.db"
    with opened(path) as db:
        db.execute("INSERT INTO notes (text) VALUES ('0')")
        adders = [
            child(
                """
                with Database(Path(sys.argv[1]), (FIRST,), application_id=OURS) as db:
                    for _ in range(200):
                        with db.transaction(durable=False) as connection:
                            number = int(next(iter(connection.execute("SELECT text FROM notes")))[0])
                            connection.execute("UPDATE notes SET text = ?", (str(number + 1),))
                """,
                path,
            )
            for _ in range(3)
        ]
        for adder in adders:
            _, said = adder.communicate(timeout=60)
            assert adder.returncode == 0, said
        assert texts(db) == ["600"]


def test_a_writer_that_holds_on_too_long_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notes.db"
    with opened(path) as one, opened(path) as two:
        two.connection.set_busy_handler(database.Patience(50))
        with one.transaction(), pytest.raises(StorageError, match="held by another program"):
            two.execute("INSERT INTO notes (text) VALUES ('x')")
        two.execute("INSERT INTO notes (text) VALUES ('y')")
        assert texts(one) == ["y"]


def test_immediate_rolls_back_on_any_connection() -> None:
    connection = apsw.Connection(":memory:")
    connection.execute(FIRST)

    def interrupted() -> None:
        with immediate(connection):
            connection.execute("INSERT INTO notes (text) VALUES ('x')")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not connection.in_transaction
    assert list(connection.execute("SELECT * FROM notes")) == []


# --- formats


def test_an_older_file_is_brought_up_to_date_and_kept_beside(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    with opened(path) as db:
        db.execute("INSERT INTO notes (text) VALUES ('old')")
    with opened(path, FIRST, SECOND, THIRD) as db:
        assert db.rows("SELECT * FROM notes") == [{"id": 1, "text": "old", "stars": 0}]
        assert db.rows("SELECT * FROM tags") == []
    with opened(tmp_path / "notes.db.format1.backup") as before:
        assert texts(before) == ["old"]
    assert [name for name in os.listdir(tmp_path) if name.endswith(".tmp")] == []


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    with opened(path) as db:
        db.execute("INSERT INTO notes (text) VALUES ('old')")
    with pytest.raises(apsw.SQLError):
        opened(path, FIRST, SECOND, "CREATE TABLE tags (note); NONSENSE")
    with opened(path) as db:
        assert texts(db) == ["old"]
        assert db.row("PRAGMA user_version") == {"user_version": 1}


def test_a_newer_file_is_refused_in_plain_words_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    opened(path, FIRST, SECOND).close()
    before = path.read_bytes()
    for readonly in (False, True):
        with pytest.raises(NewerDatabaseError, match="has format 2; this version of Modelwright knows formats up to 1"):
            opened(path, readonly=readonly)
    assert path.read_bytes() == before


def test_another_programs_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    marked, unmarked, text = tmp_path / "marked.db", tmp_path / "unmarked.db", tmp_path / "text.db"
    Database(marked, (FIRST,), application_id=OTHERS).close()
    connection = apsw.Connection(str(unmarked))
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    text.write_text("this is a letter and no database, whatever its name says\n" * 20, encoding="utf-8")
    for path, said in ((marked, "another program"), (unmarked, "another program"), (text, "is damaged")):
        before = path.read_bytes()
        with pytest.raises((StorageError, DamagedFileError), match=said):
            opened(path)
        assert path.read_bytes() == before


def test_a_file_of_no_bytes_counts_as_new(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.touch()
    with opened(path) as db:
        assert texts(db) == []


def test_a_reader_neither_makes_nor_changes_a_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be used"):
        opened(tmp_path / "none.db", readonly=True)
    assert not (tmp_path / "none.db").exists()
    opened(tmp_path / "notes.db").close()
    with opened(tmp_path / "notes.db", readonly=True) as db, pytest.raises(StorageError, match="read and write"):
        db.execute("INSERT INTO notes (text) VALUES ('x')")


def test_eight_processes_open_a_fresh_file_at_once(tmp_path: Path) -> None:
    """Whoever comes first makes it; nobody takes a half-made file for another program's."""
    for number in range(4):
        path = tmp_path / f"notes{number}.db"
        openers = [
            child(
                """
                sys.stdin.readline()
                with Database(Path(sys.argv[1]), (FIRST, SECOND), application_id=OURS) as db:
                    db.execute("INSERT INTO notes (text) VALUES (?)", (sys.argv[2],))
                """,
                path,
                name,
            )
            for name in range(4 if number else 8)
        ]
        time.sleep(0.3)  # most of them stand at the line now; those that do not come later, which is a case as well
        for opener in openers:
            assert opener.stdin is not None
            opener.stdin.write("go\n")
            opener.stdin.flush()
        for opener in openers:
            _, said = opener.communicate(timeout=60)
            assert opener.returncode == 0, said
        with opened(path, FIRST, SECOND) as db:
            assert sorted(texts(db)) == sorted(str(name) for name in range(len(openers)))


def test_processes_that_migrate_at_once_keep_the_old_file_once(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    with opened(path) as db:
        db.execute("INSERT INTO notes (text) VALUES ('old')")
    code = "Database(Path(sys.argv[1]), (FIRST, SECOND), application_id=OURS).close()"
    for process in [child(code, path) for _ in range(5)]:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    with opened(tmp_path / "notes.db.format1.backup") as before:  # raises when it holds the new format
        assert texts(before) == ["old"]


# --- damage, backups


def test_a_backup_is_a_whole_file_and_others_go_on_writing(tmp_path: Path) -> None:
    with opened(tmp_path / "notes.db") as db, opened(tmp_path / "notes.db") as other:
        for number in range(50):
            db.execute("INSERT INTO notes (text) VALUES (?)", (str(number) * 500,), durable=False)
        target = db.backup(tmp_path / "backups" / "notes.db")
        other.execute("INSERT INTO notes (text) VALUES ('later')")
        assert len(texts(db)) == 51
    assert os.listdir(target.parent) == ["notes.db"]
    with opened(target) as copy:
        assert len(texts(copy)) == 50
        assert copy.check() == []


def test_a_damaged_database_gives_no_backup_and_the_older_one_stays(tmp_path: Path) -> None:
    path, target = tmp_path / "notes.db", tmp_path / "backup.db"
    with opened(path) as db:
        for number in range(200):
            db.execute("INSERT INTO notes (text) VALUES (?)", (str(number) * 300,), durable=False)
        db.backup(target)
    good, data = target.read_bytes(), bytearray(path.read_bytes())
    data[5 * 4096 : 5 * 4096 + 8] = b"\xff" * 8  # the head of a page
    path.write_bytes(data)
    with opened(path) as db:
        assert db.check() != []
        with pytest.raises(DamagedFileError, match="Restore its newest backup"):
            db.backup(target)
    assert target.read_bytes() == good
    assert sorted(os.listdir(tmp_path)) == ["backup.db", "notes.db"]


def test_what_a_caller_checks_of_a_backup_counts_too(tmp_path: Path) -> None:
    with opened(tmp_path / "notes.db") as db:
        with pytest.raises(DamagedFileError, match="a note is missing"):
            db.backup(tmp_path / "backup.db", lambda copy: ["a note is missing"])
        assert not (tmp_path / "backup.db").exists()


def test_who_has_a_file_open_is_known(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    assert holder_of(path) is None
    opened(path).close()
    assert holder_of(path) is None
    holder = child(
        "db = Database(Path(sys.argv[1]), (FIRST,), application_id=OURS)\nprint(db.rows('SELECT 1'), flush=True)\nsys.stdin.readline()\n",
        path,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline()
    assert holder_of(path) == holder.pid
    holder.communicate("\n", timeout=30)
    assert holder_of(path) is None


# --- kills, full disks


def test_acknowledged_transactions_survive_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    writer = child(
        """
        with Database(Path(sys.argv[1]), (FIRST,), application_id=OURS) as db:
            number = 0
            while True:
                number += 1
                db.execute("INSERT INTO notes (text) VALUES (?)", (str(number),), durable=number % 2 == 0)
                print(number, flush=True)
        """,
        path,
    )
    assert writer.stdout is not None
    for _ in range(40):
        writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    acknowledged = 40 + writer.stdout.read().count("\n")
    writer.communicate()
    with opened(path) as db:
        assert len(texts(db)) in (acknowledged, acknowledged + 1)
        assert db.check() == []


def test_a_full_disk_is_named_and_loses_nothing(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"no small tmpfs can be mounted here: {made.stderr.strip()[:120]}")
    try:
        ballast, stored = mount / "ballast", 0
        ballast.write_bytes(bytes(500 * 1024))

        def fill(db: Database) -> None:
            nonlocal stored
            for _ in range(10_000):
                db.execute("INSERT INTO notes (text) VALUES (?)", ("x" * 900,), durable=stored % 2 == 0)
                stored += 1

        with opened(mount / "notes.db") as db:
            with pytest.raises(DiskFullError, match="no space left"):
                fill(db)
            assert stored > 50
            assert len(texts(db)) == stored
            with pytest.raises(DiskFullError):
                db.backup(mount / "backup.db")
            assert not (mount / "backup.db").exists()
            ballast.unlink()
            db.execute("INSERT INTO notes (text) VALUES ('last')")
            assert len(texts(db)) == stored + 1
            assert db.check() == []
    finally:
        subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.needs_strace
def test_a_disk_that_is_full_at_the_switch_to_the_log_is_named(tmp_path: Path) -> None:
    """SQLite reports it only behind the row that names the new mode."""
    inject = ["strace", "-f", "-qq", "-o", os.devnull, "-e", "trace=pwrite64", "-e", "inject=pwrite64:error=ENOSPC:when=3"]
    if subprocess.run([*inject, "true"], capture_output=True).returncode != 0:
        pytest.skip("strace cannot trace here")
    code = (
        "import sys; from pathlib import Path; from modelwright.database import Database\n"
        f"Database(Path(sys.argv[1]), ({FIRST!r},), application_id={OURS})"
    )
    done = subprocess.run([*inject, sys.executable, "-c", code, str(tmp_path / "notes.db")], capture_output=True, text=True)
    assert "DiskFullError" in done.stderr
    with opened(tmp_path / "notes.db") as db:
        assert db.row("PRAGMA journal_mode") == {"journal_mode": "wal"}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        opened(tmp_path / "file" / "notes.db")
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(StorageError, match=r"folder\.db cannot be used"):
        opened(tmp_path / "folder.db")


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelwright.lock.file_system", lambda path: "nfs4")
    with pytest.raises(StorageError, match=r"network file system \(nfs4\)"):
        opened(tmp_path / "notes.db")
