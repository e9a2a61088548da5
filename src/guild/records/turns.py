"""Whose turn it is on a device that several kinds of jobs want: the first in line, whatever its kind. (issue decision One job system)

The trainer takes files one after the other; without a look at the others in line a run of another room would wait for as long as there
are files.
"""

from __future__ import annotations

from guild.records.kinds import Resource, kinds_of
from modelwright.database import Database

_FIRST = "SELECT priority, ordinal, id FROM jobs WHERE state = 'queued' AND kind = ? ORDER BY priority DESC, ordinal, id LIMIT 1"


def whose_turn(db: Database, resource: Resource) -> str | None:
    """The kind of the job that is first in line for a resource: of the highest priority, then the oldest; None when none waits.

    A few index look-ups and no lock. A kind of which nobody takes jobs here must not be waited for: ask only where it is taken.
    """
    best: tuple[int, int, int] | None = None
    found = None
    for kind in kinds_of(resource):
        row = db.row(_FIRST, (kind,))
        if row is None:
            continue
        order = (-row["priority"], row["ordinal"], row["id"])
        if best is None or order < best:
            best, found = order, kind
    return found
