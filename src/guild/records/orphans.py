"""Checkpoints that the ledger does not list, and the ledger built anew from what lies on disk. (specs/guild.md 2.1.8, item 22)

A kill between rename and record leaves an orphan; a deleted or restored `guild.db` makes every checkpoint one. Nothing here writes into
a checkpoint's folder unless it is asked to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from guild.errors import RefusedError
from guild.naming import checkpoint_step
from guild.places import Places
from guild.records.checkpoint_marks import SIDECAR_NAME, checkpoint_folders, usable_checkpoint
from guild.records.checkpoint_places import all_checkpoints
from guild.records.checkpoint_record import CheckpointRecord
from guild.records.checkpoint_sidecars import Found, look_at, write_sidecar
from guild.records.ledger import put
from guild.records.ledger_documents import write_ledger_documents
from guild.records.original_ledger import original_records
from guild.records.status_documents import records_lock
from modelwright.checkpoint_folders import MANIFEST_NAME
from modelwright.database import Database
from modelwright.errors import DamagedFileError, MissingFileError, ModelwrightError


@dataclass(frozen=True)
class Orphan:
    """A checkpoint folder without a row in the index. reasons: why it cannot be adopted (a save that was cut off, a damaged sidecar),
    empty when it can. outranked: the ledger lists another folder of the same campaign and step."""

    path: Path
    step: int
    has_sidecar: bool
    reasons: tuple[str, ...] = ()
    outranked: bool = False


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild found. listed: records in the ledger now. gone: paths that were listed and are there no more. faults: one sentence
    for each thing that is not listed because it is damaged or cut off, and for each folder outranked by another of the same step."""

    listed: int
    gone: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


def scan_orphans(db: Database, places: Places) -> list[Orphan]:
    """Every checkpoint folder that the index does not list, by path. Raises StorageError."""
    originals, _ = original_records(places)
    listed = {row["path"] for row in db.rows("SELECT path FROM checkpoints")}
    taken = {(row["hero_id"], row["campaign_id"], row["step"]) for row in db.rows("SELECT hero_id, campaign_id, step FROM checkpoints")}
    orphans = []
    for path in all_checkpoints(places):
        if str(path) in listed:
            continue
        reasons, outranked = usable_checkpoint(path), False
        if not reasons:
            try:
                record = look_at(places, path, originals).record
                outranked = (record.hero_id, record.campaign_id, record.step) in taken
            except ModelwrightError as error:
                reasons = [str(error)]
        orphans.append(Orphan(path, checkpoint_step(path.name) or 0, (path / SIDECAR_NAME).exists(), tuple(reasons), outranked))
    return orphans


def adopt_orphan(db: Database, places: Places, path: Path, *, keep_sidecar: bool = False) -> CheckpointRecord:
    """Enter the checkpoint folder `path` into the ledger, from its sidecar, else from what the original ledger or `trainer_state.json`
    say of it.

    keep_sidecar: write the record into the folder when it has no sidecar yet. Raises RefusedError when the checkpoint is not whole or
    another folder of its step is listed, DamagedFileError for a sidecar that cannot be read, MissingFileError when nothing tells of it.
    """
    if reasons := usable_checkpoint(path):
        raise RefusedError("\n".join(reasons))
    originals, _ = original_records(places)
    with records_lock(places):
        found = look_at(places, path, originals)
        if keep_sidecar and found.source != "sidecar":
            write_sidecar(path, found.record)
            found = look_at(places, path, originals)
        with db.transaction() as connection:
            if not put(connection, found):
                raise RefusedError(f"{path}: the ledger lists another folder of step {found.record.step}. Move one of the two away.")
        write_ledger_documents(db, places, [found.record.campaign])
    return found.record


def adopt_below(db: Database, places: Places, folder: Path) -> list[CheckpointRecord]:
    """Enter every whole checkpoint directly in `folder` that the index does not list, the lowest step first: their trainer died before it
    recorded them. Those with a manifest are of our trainer and get their sidecar; nothing is written into others. What is not whole or
    cannot be read is left to `scan_orphans`, which names it. Raises StorageError.
    """
    listed = {row["path"] for row in db.rows("SELECT path FROM checkpoints")}
    adopted = []
    for path in sorted(checkpoint_folders(folder.resolve()), key=lambda path: checkpoint_step(path.name) or 0):
        if str(path) in listed or usable_checkpoint(path):
            continue
        try:
            adopted.append(adopt_orphan(db, places, path, keep_sidecar=(path / MANIFEST_NAME).exists()))
        except (RefusedError, DamagedFileError, MissingFileError):
            continue
    return adopted


def index_checkpoints(db: Database, places: Places) -> Rebuilt:
    """Make the index say what lies on disk, and write nothing else: how an existing tree is adopted."""
    with records_lock(places):
        return _index(db, places)


def rebuild(db: Database, places: Places) -> Rebuilt:
    """Make the index say what lies on disk, then write the exports. It may be done at any time, beside a running trainer."""
    with records_lock(places):
        rebuilt = _index(db, places)
        write_ledger_documents(db, places)
    return rebuilt


def _index(db: Database, places: Places) -> Rebuilt:
    originals, faults = original_records(places)
    found: dict[tuple[str, str, int], Found] = {}
    for path in all_checkpoints(places):
        if reasons := usable_checkpoint(path):
            faults += reasons
            continue
        try:
            candidate = look_at(places, path, originals)
        except ModelwrightError as error:
            faults.append(str(error))
            continue
        key = (candidate.record.hero_id, candidate.record.campaign_id, candidate.record.step)
        rival = found.get(key)
        if rival is not None:
            candidate, loser = sorted((candidate, rival), key=lambda item: item.rank, reverse=True)
            faults.append(f"{loser.record.path} is not listed: {candidate.record.path} holds the same step of the same campaign.")
        found[key] = candidate
    listed = {candidate.record.path for candidate in found.values()}
    gone = tuple(row["path"] for row in db.rows("SELECT path FROM checkpoints ORDER BY path") if not Path(row["path"]).is_dir())
    with db.transaction() as connection:
        connection.execute("DELETE FROM checkpoints")
        for candidate in found.values():
            put(connection, candidate)
    return Rebuilt(len(listed), gone, tuple(faults))
