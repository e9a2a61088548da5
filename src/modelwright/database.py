"""One SQLite file, kept safe: WAL, immediate transactions, numbered migrations, verified backups. (apsw, which carries its own SQLite)

For the databases of rooms that are truth and no cache; the index of runs, which is a cache, has its own rules (`modelwright.index`).
Any number of processes of one machine may open the same file; one `Database` belongs to one thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apsw

from modelwright.errors import DISK_FULL_ERRNOS, DamagedFileError, DiskFullError, ModelwrightError, StorageError, storage_error
from modelwright.files import fsync_directory
from modelwright.home import ensure_folder

BUSY_MS = 10_000
"""How long a writer waits for the others before it gives up."""
UNUSABLE = (apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError, apsw.BusyError, apsw.LockedError, apsw.IOError)
DAMAGED = (apsw.CorruptError, apsw.NotADBError)
TROUBLE = (apsw.FullError, *UNUSABLE, *DAMAGED)
"""Errors of the file or its disk, not of the program."""
NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "afs", "9p")
"""Where the memory that WAL shares between processes does not work."""

Row = dict[str, Any]
Values = Sequence[Any] | Mapping[str, Any]
Check = Callable[[apsw.Connection], list[str]]


class NewerDatabaseError(ModelwrightError):
    """The file was written by a newer version of the program."""


def trouble(error: apsw.Error, path: Path, errno: int = 0) -> ModelwrightError:
    """The sentence for one of `TROUBLE` met with the file at `path`. errno: what the system said, 0 when unknown."""
    if isinstance(error, apsw.FullError) or (isinstance(error, apsw.IOError) and errno in DISK_FULL_ERRNOS):
        return DiskFullError(f"Cannot write {path}: no space left on the device or in the quota. Free some space, then resume.", path)
    if isinstance(error, DAMAGED):
        return DamagedFileError(path, str(error), "a sound SQLite database", "Restore its newest backup")
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return StorageError(f"{path} is held by another program ({error}). Wait for it, then try again.", path)
    return StorageError(f"{path} cannot be used ({error}). It must be a file that this user may read and write.", path)


@contextlib.contextmanager
def told(path: Path, connection: apsw.Connection | None = None) -> Iterator[None]:
    """Within the block an error of the file or its disk is raised as its sentence. connection: knows what the system said."""
    try:
        yield
    except TROUBLE as error:
        raise trouble(error, path, connection.system_errno if connection is not None else 0) from error


@contextlib.contextmanager
def immediate(connection: apsw.Connection) -> Iterator[None]:
    """One transaction that holds the write lock from its first moment, so that what it read stays true; rolled back when the block
    raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


class Database:
    """One open database.

    migrations: SQL of version 1, 2, …; those that a file lacks run in one transaction, so that a kill leaves the old format or the new
    one. A file that has content is backed up before, beside it. application_id: marks files of this kind; another kind is refused.
    Raises NewerDatabaseError, DamagedFileError, DiskFullError or StorageError.
    """

    def __init__(self, path: Path, migrations: Sequence[str], *, application_id: int, readonly: bool = False) -> None:
        self.path, self.readonly = path, readonly
        self._durable = False
        self._log: int | None = None
        if not readonly:
            ensure_folder(path.parent)
        flags = apsw.SQLITE_OPEN_READONLY if readonly else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        with told(path):
            self.connection = apsw.Connection(str(path), flags=flags)
        try:
            with self._told():
                self.connection.set_busy_handler(Patience())
                self._prepare(migrations, application_id)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self.connection.close()
        if self._log is not None:
            os.close(self._log)
            self._log = None

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[apsw.Connection]:
        """One immediate transaction, rolled back when the block raises.

        durable: on disk when the block ends, so that a power cut keeps it. Otherwise a power cut may lose the newest ones, never order or
        wholeness, and a killed process loses none. The disk is waited for when others may write again; where it reports an error they may
        have seen the transaction, and StorageError says that it may not last. Inside another transaction it is a part of that: undone
        alone when its block raises, kept when the outer one is. Raises ValueError for a durable part of one that is not.
        """
        if self.connection.in_transaction:
            if durable and not self._durable:
                raise ValueError("a durable transaction cannot be a part of one that is not")
            with self._told(), self.connection:  # a savepoint
                yield self.connection
            return
        self._durable = durable
        with self._told(), immediate(self.connection):
            yield self.connection
        if durable:
            self._sync()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Within the block every read sees the file as it was at the first one; inside a transaction, as that sees it."""
        if self.connection.in_transaction:
            yield
            return
        with self._told():
            self.connection.execute("BEGIN")
            try:
                yield
            finally:
                if self.connection.in_transaction:
                    self.connection.execute("COMMIT")

    def rows(self, sql: str, values: Values = ()) -> list[Row]:
        """Every row of a query as name → value."""
        with self._told():
            return query(self.connection, sql, values)

    def row(self, sql: str, values: Values = ()) -> Row | None:
        """The first row of a query, or None."""
        rows = self.rows(sql, values)
        return rows[0] if rows else None

    def execute(self, sql: str, values: Values = (), *, durable: bool = True) -> int:
        """One statement in a transaction of its own; returns how many rows it changed."""
        with self.transaction(durable=durable) as connection:
            connection.execute(sql, values)
            return connection.changes()

    def check(self) -> list[str]:
        """What SQLite finds wrong with the file; empty when it is sound. A changed byte inside a value is not among it."""
        with self._told():
            return _problems(self.connection)

    def backup(self, target: Path, check: Check | None = None) -> Path:
        """Write a whole copy to `target` while others go on, check it, and only then give it its name. Returns `target`.

        check: what else must hold, as sentences about what does not. Raises DamagedFileError when the copy is not sound, and then leaves
        an older `target` as it was.
        """
        ensure_folder(target.parent)
        return copy_database(self.connection, self.path, target, check)

    def _told(self) -> contextlib.AbstractContextManager[None]:
        return told(self.path, self.connection)

    def _prepare(self, migrations: Sequence[str], application_id: int) -> None:
        with self.snapshot():
            version = self._format(len(migrations), application_id)
        if self.readonly:
            return
        if version == 0:
            self._refuse_network()
        self._use_wal()
        self.connection.execute("PRAGMA synchronous = NORMAL")  # durable transactions sync the log themselves, when others may go on
        self.connection.execute("PRAGMA foreign_keys = ON")
        self.connection.execute("PRAGMA cell_size_check = ON")  # a damaged page is named instead of misread
        if version < len(migrations):
            self._migrate(migrations, application_id)

    def _format(self, known: int, application_id: int) -> int:
        """The version of the file, 0 when it is new; raises when it is not ours to use. Runs inside one transaction, so that a file being
        made by another process is seen before or after, never between."""
        found, version = self._pragma("application_id"), self._pragma("user_version")
        if found not in (0, application_id) or (found == 0 and self._has_tables()):
            raise StorageError(f"{self.path} is another program's database. Name another file, or move this one away.", self.path)
        if version > known:
            raise NewerDatabaseError(
                f"{self.path} has format {version}; this version of Modelwright knows formats up to {known}. "
                "Use the newer version that wrote it."
            )
        return version

    def _migrate(self, migrations: Sequence[str], application_id: int) -> None:
        with self.transaction() as connection:
            version = self._format(len(migrations), application_id)
            if version == len(migrations):
                return  # another process was faster
            if version:
                reader = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)  # SQLite copies from no connection that writes
                try:
                    copy_database(reader, self.path, self.path.with_name(f"{self.path.name}.format{version}.backup"))
                finally:
                    reader.close()
            for sql in migrations[version:]:
                connection.execute(sql)
            connection.execute(f"PRAGMA application_id = {application_id}")
            connection.execute(f"PRAGMA user_version = {len(migrations)}")

    def _use_wal(self) -> None:
        """Switch to the write-ahead log; SQLite does not wait for others here, so this does."""
        wait = Patience()
        for tries in range(1_000_000):
            try:
                mode = self.connection.execute("PRAGMA journal_mode = WAL").fetchall()[0][0]  # all: an error comes behind the row
            except apsw.BusyError:
                if not wait(tries):
                    raise
                continue
            if mode != "wal":
                raise StorageError(f"{self.path}: its file system cannot hold a shared database. Put it on a local disk.", self.path)
            return

    def _refuse_network(self) -> None:
        from modelwright.lock import file_system

        kind = file_system(self.path.parent)
        if kind in NETWORK_FILE_SYSTEMS:
            raise StorageError(
                f"{self.path} lies on a network file system ({kind}), where processes would damage it. Put it on a local disk.", self.path
            )

    def _sync(self) -> None:
        """Put the write-ahead log on disk, and with it every transaction so far. One descriptor for all, because the system reports a
        failed write once to each descriptor. A log that was emptied since is in the database, which SQLite syncs before."""
        path = self.connection.filename_wal
        try:
            if self._log is None:
                self._log = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            (os.fdatasync if hasattr(os, "fdatasync") else os.fsync)(self._log)
        except FileNotFoundError:
            return  # nothing was ever written
        except OSError as error:
            raise storage_error(error, self.path, "save what was written to") from error

    def _has_tables(self) -> bool:
        return next(iter(self.connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1")), None) is not None

    def _pragma(self, name: str) -> int:
        return int(next(iter(self.connection.execute(f"PRAGMA {name}")))[0])


class Patience:
    """Waits for another writer: fractions of a millisecond at first, because a transaction of ours is that short, then longer. SQLite's
    own steps reach a tenth of a second, which a queue with several takers feels."""

    def __init__(self, limit_ms: int = BUSY_MS) -> None:
        self._limit_s, self._since = limit_ms / 1000, 0.0

    def __call__(self, tries: int) -> bool:
        """Wait a little; False when the patience is at its end. tries: how often it was called for this lock."""
        now = time.monotonic()
        if tries == 0:
            self._since = now
        if now - self._since >= self._limit_s:
            return False
        longest = 0.0004 if tries < 50 else 0.002 if tries < 200 else 0.02
        time.sleep(random.uniform(0.25, 1.0) * longest)
        return True


def query(connection: apsw.Connection, sql: str, values: Values = ()) -> list[Row]:
    """Every row of a query as name → value."""
    names: list[str] = []
    found = []
    cursor = connection.execute(sql, values)
    for row in cursor:
        if not names:
            names = [column[0] for column in cursor.get_description()]
        found.append(dict(zip(names, row, strict=True)))
    return found


def copy_database(source: apsw.Connection, path: Path, target: Path, check: Check | None = None) -> Path:
    """`Database.backup` for any connection to the file at `path`. The copy is one file in rollback mode, with nothing beside it."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}-0.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with told(target):
            copy = apsw.Connection(str(temporary))
        try:
            with told(target, copy):
                copy.execute("PRAGMA journal_mode = OFF").fetchall()  # the name of the copy is what makes it whole or nothing
                with copy.backup("main", source, "main") as work:
                    while not work.done:
                        work.step(-1)
                copy.execute("PRAGMA journal_mode = DELETE").fetchall()
                wrong = _problems(copy) or (check(copy) if check is not None else [])
        finally:
            copy.close()
        if wrong:
            raise DamagedFileError(path, "; ".join(wrong[:3]), "a sound SQLite database", "Restore its newest backup")
        try:
            _sync_file(temporary)
            temporary.replace(target)
        except OSError as error:
            raise storage_error(error, target, "write the backup") from error
        fsync_directory(target.parent)
    finally:
        for suffix in ("", "-journal", "-wal", "-shm"):
            temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)
    return target


def holder_of(path: Path) -> int | None:
    """A process other than this one that has the database at `path` open, by its pid; None when there is none, or no file.

    An open WAL database holds a read lock on SQLite's shared bytes. Do not call it while this process has the file open: closing a
    second descriptor gives up the locks of the first (POSIX), which would put the database at risk.
    """
    shared_first, shared_size = 0x40000000 + 2, 510
    darwin = sys.platform == "darwin"
    layout = "qqihh" if darwin else "hhqqi"
    order = (shared_first, shared_size, 0, fcntl.F_WRLCK, 0) if darwin else (fcntl.F_WRLCK, 0, shared_first, shared_size, 0)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        answer = struct.unpack(layout, fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(layout, *order)))
    finally:
        os.close(descriptor)
    kind, pid = (answer[3], answer[2]) if darwin else (answer[0], answer[4])
    return None if kind == fcntl.F_UNLCK else int(pid)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _problems(connection: apsw.Connection) -> list[str]:
    try:
        return [str(row[0]) for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
    except DAMAGED as error:
        return [str(error)]
