"""Of repeated measurements one counts: the newest with at least as many problems as the one before it. The others stay as history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import apsw
import orjson

from guild.records.evaluation_records import Counted
from modelwright.database import Row

Table = Literal["evaluations", "passives"]
Measured = TypeVar("Measured", bound=Counted)


def store(connection: apsw.Connection, table: Table, key: Mapping[str, Any], measured: Counted) -> bool:
    """Store one measurement under `key` (column → value) inside a transaction; returns whether it counts from now on.

    It counts unless one with more problems does already. The very same record, sent again after a kill, is stored once.
    """
    record = measured.model_dump_json(exclude={"problems"})
    problems = orjson.dumps(list(measured.problems)).decode()
    where = " AND ".join(f"{column} = ?" for column in key)
    values = tuple(key.values())
    known = connection.execute(
        f"SELECT current FROM {table} WHERE {where} AND record = ? AND problems = ?", (*values, record, problems)
    ).fetchone()
    if known is not None:
        return bool(known[0])
    standing = connection.execute(f"SELECT id, total FROM {table} WHERE {where} AND current = 1", values).fetchone()
    counts = standing is None or measured.total >= standing[1]
    if counts and standing is not None:
        connection.execute(f"UPDATE {table} SET current = 0 WHERE id = ?", (standing[0],))
    columns = (*key, "correct", "total", "record", "problems", "current")
    connection.execute(
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
        (*values, measured.correct, measured.total, record, problems, int(counts)),
    )
    return counts


def load(row: Row, kind: type[Measured]) -> Measured:
    """The measurement in a row with `record` and, when they are wanted, `problems`."""
    fields = orjson.loads(row["record"])
    return kind.model_validate({**fields, "problems": tuple(orjson.loads(row["problems"])) if "problems" in row else ()})
