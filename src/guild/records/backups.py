"""Backups of guild.db, each checked before it counts; the deep check; and bringing one back by a person's word.
(issue decision State; parts.md, faults 11 and 13)

A backup is made only of a sound database, so that the old ones are never pushed out by copies of the damage.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import apsw

from guild.errors import RefusedError
from guild.places import Places
from guild.records import events, job_rows
from guild.records.checksums import damage_sentence, damaged_ids
from guild.records.database import APPLICATION_ID, MIGRATIONS
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.database import Database, copy_database, holder_of, query, told
from modelwright.errors import DamagedFileError, UsageError, storage_error
from modelwright.files import fsync_directory, remove_stale_temporaries
from modelwright.home import ensure_folder

KEEP = 7
EVERY_S = 6 * 3600.0
ID_GAP = 1_000_000
"""How far ids move on at a restore, so that one given after the backup was made is never given again."""
_NAME = re.compile(r"guild-(\d{8}-\d{6})\.db")
_FORM = "%Y%m%d-%H%M%S"
_BESIDE = ("-wal", "-shm", "-journal")


@dataclass(frozen=True)
class Backup:
    """One backup: its file and when it was made."""

    path: Path
    made_at: datetime

    @property
    def name(self) -> str:
        return self.path.name


@dataclass(frozen=True)
class Restored:
    """A backup was brought back. quarantined: the database that stood there, under its new name; None when there was none."""

    backup: Backup
    quarantined: Path | None


def problems(db: Database) -> list[str]:
    """Everything that is wrong with the database, a sentence each: what SQLite finds, tables that are not ours any more, and every row of
    jobs and events whose checksum is wrong."""
    with db.snapshot():
        return db.check() or content_problems(db.connection)


def content_problems(connection: apsw.Connection) -> list[str]:
    """What is wrong with a database that SQLite calls sound."""
    ours = apsw.Connection(":memory:")
    for sql in MIGRATIONS:
        ours.execute(sql)
    definitions = "SELECT type || ' ' || name AS what, sql FROM sqlite_schema WHERE sql IS NOT NULL"
    found, expected = ({row["what"]: row["sql"] for row in query(one, definitions)} for one in (connection, ours))
    ours.close()
    wrong = [name for name, sql in expected.items() if found.get(name) != sql]
    if wrong:
        return [f"The definition of the {name} in guild.db is damaged or missing." for name in wrong]
    return row_problems(connection)


def row_problems(connection: apsw.Connection) -> list[str]:
    """One sentence for each row of jobs and events that is not what was written."""
    found = []
    for table, columns in (("jobs", job_rows.COLUMNS), ("events", events.COLUMNS)):
        found += [damage_sentence(table, number) for number in damaged_ids(connection, table, columns)]
    return found


def list_backups(places: Places) -> list[Backup]:
    """Every backup, newest first."""
    found = []
    for path in places.backups.glob("guild-*.db"):
        match = _NAME.fullmatch(path.name)
        if match:
            found.append(Backup(path, datetime.strptime(match[1], _FORM).replace(tzinfo=UTC)))
    return sorted(found, key=lambda backup: backup.made_at, reverse=True)


def due(places: Places, *, every_s: float = EVERY_S, clock: Clock = SYSTEM_CLOCK) -> bool:
    """Whether it is time for a backup; also when the newest one lies in the future, which a moved clock makes of it."""
    newest = next(iter(list_backups(places)), None)
    return newest is None or not 0 <= (clock.now() - newest.made_at).total_seconds() < every_s


def make(db: Database, places: Places, *, keep: int = KEEP, clock: Clock = SYSTEM_CLOCK) -> Backup:
    """Write a checked backup while others go on working, then delete all but the newest `keep`.

    Raises DamagedFileError when the database or the copy is not sound; nothing is deleted then, nor when the disk is full.
    """
    moment = clock.now().astimezone(UTC).replace(microsecond=0)
    path = ensure_folder(places.backups) / f"guild-{moment.strftime(_FORM)}.db"
    remove_stale_temporaries(places.backups)
    db.backup(path, content_problems)
    for old in list_backups(places)[max(1, keep) :]:
        if old.path != path:  # with a clock set back the new one may sort as the oldest
            try:
                old.path.unlink(missing_ok=True)
            except OSError as error:
                raise storage_error(error, old.path, "remove") from error
    return Backup(path, moment)


def restore(places: Places, name: str | None = None, *, clock: Clock = SYSTEM_CLOCK) -> Restored:
    """Put a backup (default: the newest sound one) in the database's place; by a person's word only, with nothing running.

    The database that stands there is moved aside and kept. What was queued since the backup comes back from the files: data files are
    imported from the queue's folders, ledger and lineage from their sidecars.
    Raises RefusedError while another process has the database open, UsageError for an unknown name, DamagedFileError when no backup is
    sound.
    """
    holder = holder_of(places.database)
    if holder is not None:
        raise RefusedError(f"{places.database} is open in process {holder}. Stop the daemon and the other commands first, then restore.")
    backup = _chosen(places, name)
    moment = clock.now()
    aside = places.database.with_name(f"{places.database.name}.damaged-{moment.astimezone(UTC).strftime(_FORM)}")
    quarantined = aside if places.database.exists() else None
    prepared = _prepared(places, backup, quarantined, moment)
    try:
        for suffix in (*_BESIDE, ""):  # the log first: left beside another database it would be taken for its own
            source = places.database.with_name(places.database.name + suffix)
            if source.exists():
                source.rename(aside.with_name(aside.name + suffix))
        prepared.replace(places.database)
    except OSError as error:
        raise storage_error(error, places.database, "replace") from error
    fsync_directory(places.base)
    return Restored(backup, quarantined)


def _chosen(places: Places, name: str | None) -> Backup:
    found = list_backups(places)
    if name is not None:
        found = [backup for backup in found if backup.name == name]
        if not found:
            names = ", ".join(backup.name for backup in list_backups(places)) or "none was made"
            raise UsageError(f"backup: found {name!r}; allowed: {names}.")
    wrong: list[str] = []
    for backup in found:
        said = _unsound(backup.path)
        if not said:
            return backup
        wrong.append(f"{backup.name}: {said[0]}")
    raise DamagedFileError(
        places.backups, "; ".join(wrong) or "no backup is there", "a sound backup", "Make one while the database is sound"
    )


def _unsound(path: Path) -> list[str]:
    """What is wrong with a backup."""
    try:
        with told(path):
            connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            with told(path, connection):
                found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
                return found or row_problems(connection)  # a backup may be of an older format
        finally:
            connection.close()
    except (DamagedFileError, apsw.SQLError) as error:
        return [str(error)]


def _prepared(places: Places, backup: Backup, quarantined: Path | None, moment: datetime) -> Path:
    """A copy of the backup beside the database, brought to the present format, with ids that move on and a word about itself."""
    path = places.database.with_name(f".{places.database.name}.restoring")
    for suffix in ("", *_BESIDE):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    with told(backup.path):
        source = apsw.Connection(str(backup.path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        copy_database(source, backup.path, path, row_problems)
    finally:
        source.close()
    with Database(path, MIGRATIONS, application_id=APPLICATION_ID) as db, db.transaction() as connection:
        for table in ("jobs", "events"):  # a table that never had a row is not in sqlite_sequence
            connection.execute("UPDATE sqlite_sequence SET seq = seq + ? WHERE name = ?", (ID_GAP, table))
            if not connection.changes():
                connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, ID_GAP))
        events.append(
            connection, "daemon.database_restored", f"guild.db was restored from {backup.name}.", source="backups",
            now=stamp(moment, millis=True), severity="warning",
            data={"backup": backup.name, "quarantined": quarantined.name if quarantined else None},
        )  # fmt: skip
    return path
