"""`status/sparring.json`: the last sessions, for people and pages. (specs/guild.md 4.12)"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guild.places import Places
from guild.records.status_documents import export, read_document, records_lock
from modelwright.clock import Clock, stamp
from modelwright.errors import DamagedFileError, MissingFileError

NAME = "sparring.json"
HISTORY = 50
"""Sessions that are kept."""


def status_path(places: Places) -> Path:
    """Where the document lies."""
    return places.status / NAME


def read_status(places: Places) -> dict[str, Any]:
    """The document; {} before the first session. Raises DamagedFileError, StorageError."""
    try:
        found = read_document(status_path(places))
    except MissingFileError:
        return {}
    if not isinstance(found, dict):
        raise DamagedFileError(status_path(places), f"found a {type(found).__name__}", "an object", "Move it away")
    return found


def total_sessions(places: Places) -> int:
    """Sessions so far."""
    found = read_status(places).get("total_sessions", 0)
    return found if isinstance(found, int) else 0


def note_session(places: Places, session: Mapping[str, Any], *, clock: Clock) -> bool:
    """Put a session into the document: `last_session{timestamp, checkpoint, skill, level, total_rounds, correct, incorrect, accuracy,
    training_examples}`, `history` (at most 50), `total_sessions`, `updated_at`.

    The same session (by `id`) twice is noted once; whether it is new. Raises StorageError."""
    with records_lock(places):
        try:
            before = read_status(places)
        except DamagedFileError:
            before = {}  # `export` puts it aside
        history = [one for one in before.get("history") or [] if isinstance(one, dict)]
        if any(one.get("id") == session["id"] for one in history):
            return False
        counted = before.get("total_sessions")
        export(
            status_path(places),
            {
                "last_session": dict(session),
                "history": [*history, dict(session)][-HISTORY:],
                "total_sessions": (counted if isinstance(counted, int) else len(history)) + 1,
                "updated_at": stamp(clock.now()),
            },
        )
    return True
