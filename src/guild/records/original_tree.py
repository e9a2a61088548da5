"""Taking over an installation of the original system in place. (specs/guild.md 1.1, item 22)

Everything is read, only `guild.db` is written: checkpoints with their sidecars and ledger documents, evaluations, passives and the totals
of the lineage. The exports begin with the first change that the new system makes. After the loss of `guild.db` the same call brings back
what the files beside checkpoints and data tell. The daemon makes it at its start (`adopt_new`), `guild ledger rebuild` part by part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from guild.places import Places
from guild.records import evaluation_documents, passives
from guild.records.checkpoint_marks import EVALUATIONS_NAME
from guild.records.checkpoint_places import all_checkpoints, campaign_folders, campaign_of, loose_owner
from guild.records.checkpoint_record import CampaignId, wrong_fields
from guild.records.evaluation_records import Evaluation, Passive
from guild.records.evaluations import store_evaluation
from guild.records.lineage import enter_told
from guild.records.original_lineage import adopt_totals
from guild.records.orphans import index_checkpoints
from guild.records.passives import store_passive
from guild.records.status_documents import is_ours, original_document, read_document
from modelwright.database import Database
from modelwright.errors import ModelwrightError

Enter = Callable[[Database, CampaignId, str, dict[str, Any]], None]
"""Stores one entry of a document: (database, campaign that it belongs to unless it says so, key, entry)."""
_READ_INTO = ("checkpoints", "evaluations", "passives", "lineage_before")


@dataclass(frozen=True)
class Adopted:
    """What was taken over, and a sentence for each thing that could not be. lineage: generators and validators with totals."""

    checkpoints: int
    evaluations: int
    passives: int
    lineage: int
    faults: tuple[str, ...] = ()

    @property
    def anything(self) -> bool:
        """Whether there was an installation."""
        return bool(self.checkpoints or self.evaluations or self.passives or self.lineage)


@dataclass(frozen=True)
class ReadBack:
    """How many entries were read, and a sentence for each thing that could not be."""

    evaluations: int
    passives: int
    faults: tuple[str, ...] = ()


def adopt_new(db: Database, places: Places) -> Adopted | None:
    """`adopt_tree` for a database that knows no checkpoint, evaluation, passive or total yet: a new one, or one that stands in for one that
    was lost. None for one that does."""
    if any(db.row(f"SELECT 1 FROM {table} LIMIT 1") is not None for table in _READ_INTO):
        return None
    return adopt_tree(db, places)


def adopt_tree(db: Database, places: Places) -> Adopted:
    """Read an existing installation into `guild.db`. It may be done again: what is known already is not entered twice."""
    rebuilt = index_checkpoints(db, places)
    results = read_back(db, places)
    lineage, wrong = adopt_totals(db, places)
    unread = enter_told(db, places)
    return Adopted(rebuilt.listed, results.evaluations, results.passives, lineage, (*rebuilt.faults, *results.faults, *wrong, *unread))


def read_back(db: Database, places: Places, checkpoints: Iterable[Path] | None = None) -> ReadBack:
    """Enter the evaluations and passives that the documents tell of. checkpoints: read only what lies in these folders."""
    faults: list[str] = []
    of_evaluations, evaluations, entered = ("evaluations",), 0, 0
    if checkpoints is None:
        evaluations = _adopt_counted(db, places, evaluation_documents.NAME, of_evaluations, _enter_evaluation, faults)
        entered = _adopt_counted(db, places, passives.NAME, ("passives", "results"), _enter_passive, faults, ours_too=True)
    for path in all_checkpoints(places) if checkpoints is None else checkpoints:
        owner = campaign_of(places, path)
        evaluations += _enter_all(db, path / EVALUATIONS_NAME, owner, of_evaluations, _enter_evaluation, faults, ours_too=True)
    return ReadBack(evaluations, entered, tuple(faults))


def _adopt_counted(
    db: Database, places: Places, name: str, fields: tuple[str, ...], enter: Enter, faults: list[str], *, ours_too: bool = False
) -> int:
    """Enter what stands in the campaigns' documents of that name and in the original's common one; returns how many entries were read."""
    count = 0
    for owner, folder in campaign_folders(places).items():
        count += _enter_all(db, folder / "status" / name, owner, fields, enter, faults, ours_too=ours_too)
    common = places.status / name
    owner = campaign_of(places, common) if common.is_symlink() else loose_owner(places)
    return count + _enter_all(db, common, owner, fields, enter, faults)


def _enter_all(
    db: Database, path: Path, owner: CampaignId, fields: tuple[str, ...], enter: Enter, faults: list[str], *, ours_too: bool = False
) -> int:
    """ours_too: also read a document of our own making, from which a lost database gets its evaluations back."""
    entries: list[tuple[str, dict[str, Any]]] = []
    try:
        entries += _entries(original_document(path), fields)
        if ours_too and path.exists() and is_ours(document := read_document(path)):
            entries += _entries(document, fields)
    except ModelwrightError as error:
        faults.append(str(error))
    count = 0
    for key, entry in entries:
        try:
            enter(db, owner, key, entry)
            count += 1
        except ValidationError as error:
            faults.append(f"{path}, entry {key}: {wrong_fields(error)}.")
    return count


def _entries(document: Any, fields: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, entry) of a list, of an object of entries, or of the first of `fields` that holds one of these."""
    if isinstance(document, dict):
        document = next((document[name] for name in fields if name in document), document)
    pairs = document.items() if isinstance(document, dict) else enumerate(document, start=1) if isinstance(document, list) else ()
    for key, entry in pairs:
        if isinstance(entry, dict):
            yield str(key), entry


def _enter_evaluation(db: Database, owner: CampaignId, key: str, entry: dict[str, Any]) -> None:
    step = entry.get("checkpoint_step", entry.get("step"))
    store_evaluation(db, Evaluation.model_validate({"timestamp": "", **_named(owner, entry), "checkpoint_step": step}))


def _enter_passive(db: Database, owner: CampaignId, key: str, entry: dict[str, Any]) -> None:
    """An entry may leave what its key `step:id:mode:version` says to the key."""
    parts = key.split(":")
    from_key = dict(zip(("checkpoint_step", "passive_id", "mode", "version"), parts, strict=True)) if len(parts) == 4 else {}
    merged = {"timestamp": "", **from_key, **_named(owner, entry)}
    store_passive(db, Passive.model_validate({**merged, "mode": str(merged.get("mode", "")).lower()}))


def _named(owner: CampaignId, entry: dict[str, Any]) -> dict[str, Any]:
    return {"hero_id": owner.hero_id, "campaign_id": owner.campaign_id, **entry}
