"""The index of runs: a SQLite cache of what the files say, in `$MODELWRIGHT_HOME/index.db`, rebuilt whenever it is
lost.

The run directories are the truth. A refresh looks at the size and change time of every record and snapshot, reads only
those that changed, and answers with what the files say now; if the database cannot be used, the answer is the same and
only slower. A damaged database is moved aside and made anew; a row whose checksum is wrong is read again; a newer one
is refused in plain words.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import apsw
import orjson

from modelwright.clock import SYSTEM_CLOCK
from modelwright.errors import ModelwrightError
from modelwright.home import ensure_folder, index_path
from modelwright.scan import DEFAULT_STEM, RunRow, Signature, find_runs, is_text, row, signature, summarise

SCHEMA_VERSION = 2
APPLICATION_ID = 0x4D574958  # "MWIX"
BUSY_MS = 5000
UNUSABLE = (apsw.CantOpenError, apsw.ReadOnlyError, apsw.IOError, apsw.FullError, apsw.BusyError, apsw.PermissionsError)
DAMAGED = (apsw.CorruptError, apsw.NotADBError)
TABLES = """
CREATE TABLE runs (
    path TEXT PRIMARY KEY,     -- absolute path of the run directory
    signature TEXT NOT NULL,   -- size, change time, inode of run.json and the snapshot
    summary BLOB NOT NULL,     -- JSON, see modelwright.scan.summarise
    checksum INTEGER NOT NULL  -- CRC-32 of the three above
) WITHOUT ROWID;
"""

T = TypeVar("T")
Known = dict[str, tuple[Signature, dict[str, Any]]]
Stored = tuple[str, Signature, bytes, int]


@dataclass
class Found:
    """Answer of a refresh: the runs, and one sentence per thing that was not as it should be."""

    rows: list[RunRow] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class RunIndex:
    """The index at one path (default: `$MODELWRIGHT_HOME/index.db`). Raises ModelwrightError when the file is a newer
    format.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or index_path()
        self.notices: list[str] = []
        self._connection = self._open()

    def refresh(self, roots: Sequence[Path]) -> Found:
        """What the runs below the roots say now, in no order; the cache is brought up to date on the way."""
        found = Found()
        for root in roots:
            self._refresh_root(root.absolute(), found)
        found.problems = [*self.notices, *found.problems]
        return found

    def rebuild(self, roots: Sequence[Path]) -> Found:
        """Forget everything and read every run below the roots anew."""
        self._guarded(lambda connection: connection.execute("DELETE FROM runs"), None)
        return self.refresh(roots)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def __enter__(self) -> RunIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _refresh_root(self, root: Path, found: Found) -> None:
        nothing: tuple[Known, int] = ({}, 0)
        known, wrong = self._guarded(lambda connection: _load(connection, root), nothing)
        if wrong:
            self._note(f"{wrong} rows of the index {self.path} had a wrong checksum; these runs were read again.")
        paths: set[str] = set()
        fresh: list[Stored] = []
        if not root.is_dir():
            found.problems.append(f"{root} is no directory (any more); nothing below it is listed.")
            return
        for path in find_runs(root, found.problems):
            paths.add(path)
            cached = known.get(path)
            stem = cached[1]["stem"] if cached else DEFAULT_STEM
            seen = signature(path, stem)
            if cached is not None and seen and seen == cached[0]:
                summary = cached[1]
            else:
                summary = summarise(path)
                unchanged = seen == signature(path, summary["stem"])
                if is_text(path):
                    kept = seen if unchanged else ""  # changed while it was read: look again next time
                    data = orjson.dumps(summary)
                    fresh.append((path, kept, data, _checksum(path, kept, data)))
            found.rows.append(row(path, summary))
        gone = [path for path in known if path not in paths]
        if fresh or gone:
            self._guarded(lambda connection: _store(connection, fresh, gone), None)

    def _guarded(self, action: Callable[[apsw.Connection], T], otherwise: T) -> T:
        """Run an action on the database; a damaged one is replaced and tried once more, an unusable one is only
        noted.
        """
        for attempt in (1, 2):
            try:
                return action(self._connection)
            except DAMAGED as error:
                self._connection.close()
                self._move_aside(str(error))
                self._connection = self._open() if attempt == 1 else apsw.Connection(":memory:")
            except UNUSABLE as error:
                self._note(f"The index {self.path} is not kept up to date ({error}); the runs were read directly.")
                return otherwise
        return otherwise

    def _open(self) -> apsw.Connection:
        try:
            ensure_folder(self.path.parent)
            try:
                return _connect(self.path)
            except DAMAGED as error:
                self._move_aside(str(error))
                return _connect(self.path)
        except (*UNUSABLE, ModelwrightError) as error:
            if isinstance(error, NewerIndexError):
                raise
            self._note(f"The index {self.path} cannot be used ({error}); the runs were read directly.")
            connection = apsw.Connection(":memory:")
            connection.execute(TABLES)
            return connection

    def _move_aside(self, why: str) -> None:
        """Rename the database (and the two files beside it) out of the way; whoever finds it gone already has nothing
        to do.
        """
        moment = SYSTEM_CLOCK.now().strftime("%Y%m%dT%H%M%S%f")
        aside = self.path.with_name(f"{self.path.name}.damaged-{moment}")
        for suffix in ("", "-wal", "-shm"):
            try:
                os.rename(f"{self.path}{suffix}", f"{aside}{suffix}")
            except FileNotFoundError:
                continue
        self._note(f"The index was damaged ({why}); it was moved to {aside} and rebuilt from the run directories.")

    def _note(self, sentence: str) -> None:
        if sentence not in self.notices:
            self.notices.append(sentence)


class NewerIndexError(ModelwrightError):
    """The index was written by a newer version of the program."""


def _connect(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    try:
        connection.set_busy_timeout(BUSY_MS)
        version = connection.pragma("user_version")
        owner = connection.pragma("application_id")
        if version > SCHEMA_VERSION and owner == APPLICATION_ID:
            raise NewerIndexError(
                f"The index {path} has format {version}, newer than format {SCHEMA_VERSION} of this Modelwright. "
                "Use the newer Modelwright, or delete the file: it is rebuilt from the run directories."
            )
        if version != SCHEMA_VERSION or owner != APPLICATION_ID:
            _create(connection, path)
        connection.execute("PRAGMA synchronous=NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def _create(connection: apsw.Connection, path: Path) -> None:
    tables = connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    owner = connection.pragma("application_id")
    if tables and owner != APPLICATION_ID:
        raise ModelwrightError(f"{path} is another program's database; move it away, or set MODELWRIGHT_HOME elsewhere.")
    connection.execute("PRAGMA journal_mode=WAL")
    with _transaction(connection):
        version = connection.pragma("user_version")
        if version == SCHEMA_VERSION:
            return  # another process made it while this one waited
        connection.execute("DROP TABLE IF EXISTS runs")  # an older format holds nothing that the files do not
        connection.execute(TABLES)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


class _transaction:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK on any exception."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: Any, *_: object) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK" if kind else "COMMIT")


def _load(connection: apsw.Connection, root: Path) -> tuple[Known, int]:
    """Cached rows at or below a root whose checksum is right, and how many had a wrong one and are left out."""
    prefix = str(root).rstrip("/")
    query = "SELECT path, signature, summary, checksum FROM runs WHERE path = ? OR (path > ? AND path < ?)"
    known: Known = {}
    wrong = 0
    for path, seen, summary, checksum in connection.execute(query, (prefix, prefix + "/", prefix + "0")):
        if isinstance(summary, bytes) and checksum == _checksum(path, seen, summary):
            known[path] = (seen, orjson.loads(summary))
        else:
            wrong += 1
    return known, wrong


def _store(connection: apsw.Connection, fresh: Sequence[Stored], gone: Sequence[str]) -> None:
    with _transaction(connection):
        connection.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)", fresh)
        connection.executemany("DELETE FROM runs WHERE path = ?", [(path,) for path in gone])


def _checksum(path: str, seen: Signature, summary: bytes) -> int:
    return zlib.crc32(summary, zlib.crc32(f"{path}\0{seen}".encode("utf-8", "surrogateescape")))
