"""The original system's ledger documents, an object or the list that it sometimes wrote. (specs/guild.md 4.5, 10.1 no. 5)

They are read in place (or from `<name>.original`, once an export has taken the name) and tell of checkpoints that have no sidecar.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guild.places import Places
from guild.records.checkpoint_places import campaign_folders, campaign_of, loose_owner
from guild.records.checkpoint_record import NO_CAMPAIGN, CampaignId, CheckpointRecord, parse_record
from guild.records.ledger_documents import NAME
from guild.records.status_documents import original_document
from modelwright.errors import DamagedFileError, ModelwrightError


def original_records(places: Places) -> tuple[dict[tuple[CampaignId, int], CheckpointRecord], list[str]]:
    """What the original's ledgers say, by campaign and step, and a sentence for each document or entry that cannot be read.

    A campaign's own document speaks of that campaign; the common one of the campaign named in the entry, else of `loose_owner`, unless
    it is a link into a campaign.
    """
    folders = campaign_folders(places)
    documents = [(folder / "status" / NAME, campaign) for campaign, folder in folders.items()]
    common = places.status / NAME
    documents.append((common, campaign_of(places, common) if common.is_symlink() else loose_owner(places)))
    records: dict[tuple[CampaignId, int], CheckpointRecord] = {}
    faults: list[str] = []
    for path, owner in documents:
        try:
            entries = _entries(original_document(path))
        except ModelwrightError as error:
            faults.append(str(error))
            continue
        for key, entry in entries:
            try:
                record = parse_record(_with_step(entry, key), f"{path}, entry {key}")
            except DamagedFileError as error:
                faults.append(str(error))
                continue
            campaign = owner if record.campaign == NO_CAMPAIGN else record.campaign
            records.setdefault((campaign, record.step), record)
    return records, faults


def _entries(document: Any) -> list[tuple[str, Any]]:
    """(key, entry) of a ledger document of either form."""
    body = document.get("checkpoints", {}) if isinstance(document, dict) else document
    if isinstance(body, dict):
        return list(body.items())
    return [(str(number), entry) for number, entry in enumerate(body, start=1)] if isinstance(body, list) else []


def _with_step(entry: Any, key: str) -> Any:
    """The entry with what older forms leave out and its key or path tells."""
    if not isinstance(entry, dict):
        return entry
    step = entry.get("step", int(key) if key.isdigit() else None)
    path = str(entry.get("path", ""))
    return {"timestamp": "", "canonical_name": Path(path).name, **entry, "path": path, "step": step}
