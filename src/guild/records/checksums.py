"""Rows with checksums: a changed byte inside a value is found when the row is read, named, and set aside. (parts.md, fault 11)"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apsw
import orjson

from modelwright.database import Row, Values, query
from modelwright.errors import ModelwrightError


class DamagedRowError(ModelwrightError):
    """A row whose values are not what was written. `table` and `row_id` name it."""

    def __init__(self, table: str, row_id: int) -> None:
        self.table, self.row_id = table, row_id
        super().__init__(damage_sentence(table, row_id))


def damage_sentence(table: str, row_id: int) -> str:
    """What is said of a damaged row."""
    return (
        f"Row {row_id} of {table} in guild.db is damaged (its checksum is wrong); expected the values that were written. "
        "The other rows can be used; restore a backup to get this one back."
    )


def checksum(values: Iterable[Any]) -> int:
    """CRC-32 of the values of a row (text, numbers, None) in their order."""
    return zlib.crc32(orjson.dumps(list(values)))


def matches(row: Mapping[str, Any], columns: Sequence[str]) -> bool:
    """Whether a row that was read still has the checksum of its columns."""
    try:
        return bool(checksum(row[name] for name in columns) == row["checksum"])
    except (orjson.JSONEncodeError, TypeError):  # a value that changed into bytes
        return False


def read_rows(
    connection: apsw.Connection, table: str, columns: Sequence[str], rest: str, values: Values = ()
) -> tuple[list[Row], list[int]]:
    """Rows of `SELECT id, columns, checksum FROM table <rest>` that are what was written, and the ids of those that are not."""
    wanted = f"SELECT id, {', '.join(columns)}, checksum FROM {table} "
    try:
        rows = query(connection, wanted + rest, values)
    except UnicodeDecodeError:  # some text is none any more: row by row then
        ids = [row[0] for row in connection.execute(f"SELECT id FROM {table} {rest}", values)]
        rows = [_row(connection, table, columns, number) for number in ids]
    sound = [row for row in rows if matches(row, columns)]
    known = {row["id"] for row in sound}
    return sound, [row["id"] for row in rows if row["id"] not in known]


def damaged_ids(connection: apsw.Connection, table: str, columns: Sequence[str]) -> list[int]:
    """Ids of all rows of a table that are not what was written. No mapping is made of a row: a backup proves a long history inside a round
    of the daemon."""
    found: list[int] = []
    at = 0
    wanted = f"SELECT id, checksum, {', '.join(columns)} FROM {table} WHERE id > ? ORDER BY id"
    while True:
        try:
            for number, expected, *values in connection.execute(wanted, (at,)):
                try:
                    if checksum(values) != expected:
                        found.append(number)
                except (orjson.JSONEncodeError, TypeError):  # a value that changed into bytes
                    found.append(number)
                at = number
            return found
        except UnicodeDecodeError:  # the text of the next row is none any more; it has bytes now
            at = next(iter(connection.execute(f"SELECT min(id) FROM {table} WHERE id > ?", (at,))))[0]
            found.append(at)


def set_aside(connection: apsw.Connection, table: str, columns: Sequence[str], row_id: int, now: str) -> None:
    """Move a damaged row into `damaged_rows`, inside the caller's transaction."""
    row = _row(connection, table, columns, row_id)
    plain = {name: value.hex() if isinstance(value, bytes) else value for name, value in row.items()}
    connection.execute(f"REINDEX {table}")  # the indexes still hold the values that the row had
    connection.execute(
        "INSERT INTO damaged_rows (table_name, row_id, content, found_at) VALUES (?, ?, ?, ?)",
        (table, row_id, orjson.dumps(plain).decode(), now),
    )
    connection.execute(f"DELETE FROM {table} WHERE id = ?", (row_id,))


def _row(connection: apsw.Connection, table: str, columns: Sequence[str], row_id: int) -> Row:
    """One row; with its texts as bytes when one of them is no text any more."""
    for form in ("{0}", "CAST({0} AS BLOB) AS {0}"):
        wanted = ", ".join(form.format(name) for name in columns)
        try:
            return query(connection, f"SELECT id, {wanted}, checksum FROM {table} WHERE id = ?", (row_id,))[0]
        except UnicodeDecodeError:
            continue
    raise DamagedRowError(table, row_id)
