"""The sidecar `.ledger.json` in a checkpoint's folder: the truth of the ledger, from which its index is rebuilt. (specs/guild.md 4.5)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from guild.naming import checkpoint_step
from guild.places import Places
from guild.records.checkpoint_marks import SIDECAR_NAME, TRAINER_STATE, checkpoint_bytes, has_optimizer, trainer_state
from guild.records.checkpoint_places import campaign_of
from guild.records.checkpoint_record import CampaignId, CheckpointRecord, finite, parse_record
from guild.records.status_documents import export, read_document
from modelwright.clock import stamp
from modelwright.errors import DamagedFileError, MissingFileError

Source = Literal["sidecar", "original", "trainer_state"]
"""Where a record came from: the checkpoint's sidecar, the original system's ledger document, the trainer's own state."""
_OURS = {"training_file": str, "skill_name": str, "skill_level": int}
"""Fields of a record that our trainer writes into `trainer_state.json` too."""
Originals = Mapping[tuple[CampaignId, int], CheckpointRecord]
"""Records of the original system's ledger documents, by campaign and step (see `original_tree`)."""


@dataclass(frozen=True)
class Found:
    """A checkpoint on disk with its record, whose path and campaign are those of the place where it was found."""

    record: CheckpointRecord
    source: Source

    @property
    def rank(self) -> tuple[bool, str, str]:
        """Of two folders with one step, the one of the higher rank is listed: one with a sidecar, then the later, then the later name."""
        return self.source == "sidecar", self.record.timestamp, self.record.path


def read_sidecar(path: Path) -> CheckpointRecord | None:
    """The record in the checkpoint folder `path`; None when it has none. Raises DamagedFileError, also when it is another step's."""
    file = path / SIDECAR_NAME
    try:
        record = parse_record(read_document(file), str(file))
    except MissingFileError:
        return None
    step = checkpoint_step(path.name)
    if record.step != step:
        raise DamagedFileError(file, f"it speaks of step {record.step}", f"step {step}, as its folder is named", "Restore it or delete it")
    return record


def write_sidecar(path: Path, record: CheckpointRecord) -> None:
    """Replace the sidecar in the checkpoint folder `path`, durably; fields that only the old one has stay."""
    export(path / SIDECAR_NAME, record.model_dump(), make_parent=False)


def look_at(places: Places, path: Path, originals: Originals) -> Found:
    """The record of the checkpoint folder `path`: its sidecar's, else the original ledger's, else one made from `trainer_state.json`.

    Writes nothing. Raises DamagedFileError, or MissingFileError when it has none of the three.
    """
    path = path.resolve()
    step = checkpoint_step(path.name) or 0
    sidecar = read_sidecar(path)
    campaign = campaign_of(places, path, sidecar)
    source: Source = "sidecar"
    record = sidecar
    if record is None:
        record, source = originals.get((campaign, step)), "original"
    if record is None:
        record, source = record_from_state(path), "trainer_state"
    here = {"path": str(path), "hero_id": campaign.hero_id, "campaign_id": campaign.campaign_id}
    return Found(record.model_copy(update=here), source)


def record_from_state(path: Path) -> CheckpointRecord:
    """What `trainer_state.json` in the folder `path` tells: step, epoch, the last losses and learning rate, and when it was written; of our
    trainer also file and skill."""
    state = trainer_state(path)
    history = [entry for entry in state.get("log_history", []) if isinstance(entry, dict)]
    written = datetime.fromtimestamp((path / TRAINER_STATE).stat().st_mtime, UTC)
    return CheckpointRecord(
        step=checkpoint_step(path.name) or 0,
        timestamp=stamp(written),
        path=str(path),
        canonical_name=path.name,
        train_loss=_last(history, "loss"),
        val_loss=_last(history, "eval_loss"),
        learning_rate=_last(history, "learning_rate"),
        epoch=finite(state.get("epoch")),
        **{name: state[name] for name, kind in _OURS.items() if isinstance(state.get(name), kind)},
        size_bytes=checkpoint_bytes(path),
        has_optimizer=has_optimizer(path),
    )


def _last(history: list[dict[str, Any]], name: str) -> float | None:
    values = [finite(entry[name]) for entry in history if isinstance(entry.get(name), int | float)]
    return values[-1] if values else None
