"""`guild.db`: the truth about jobs, queue order, events and evaluations; an index of ledger and lineage that their sidecars rebuild.

One format, migrated in order; any process may open it, and each writes through the functions of this folder.
"""

from __future__ import annotations

import contextlib

from guild.places import Places
from guild.records import job_tables, ledger_tables, queue_file_tables
from modelwright.database import Database
from modelwright.errors import DamagedFileError

APPLICATION_ID = 0x4D57474C  # "MWGL"
MIGRATIONS = (job_tables.SQL + ledger_tables.SQL + queue_file_tables.SQL,)


def open_guild(places: Places, *, readonly: bool = False) -> Database:
    """Open the guild's database, made on the first call. Raises what `Database` raises, and DamagedFileError when it is missing or empty
    although backups of it exist: beginning anew would lose them without a word."""
    _refuse_lost(places)
    return Database(places.database, MIGRATIONS, application_id=APPLICATION_ID, readonly=readonly)


def _refuse_lost(places: Places) -> None:
    with contextlib.suppress(FileNotFoundError):
        if places.database.stat().st_size:
            return
    if any(places.backups.glob("guild-*.db")):
        raise DamagedFileError(
            places.database,
            "it is missing or empty",
            f"the database that the backups in {places.backups} were made of",
            "Restore one of them with `guild backups restore`, or move them away to begin anew",
        )
