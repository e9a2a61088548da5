"""`curriculum_state.json`: what every skill has mastered, and the evaluations behind it. (specs/guild.md 4.8, 2.3.2)

A campaign's document lies in its `status/` folder. `data_manager/curriculum_state.json` belongs to an installation without campaigns;
otherwise it is an export of the active campaign's, which `campaign` names. A campaign whose own document is missing (one of the original
system) reads what the original system left there: the first change writes the campaign's own, and the export puts the original aside.
Fields that are unknown here stay, at every depth.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guild.campaigns.pointer import active_key
from guild.curriculum.rule import Measured, Standing
from guild.places import Places
from guild.records.checkpoint_record import NO_CAMPAIGN, CampaignId
from guild.records.status_documents import export, is_ours, original_document, read_document
from guild.skills.names import canonical
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.errors import DamagedFileError, MissingFileError
from modelwright.home import ensure_folder
from modelwright.lock import WriterLock

HISTORY = 100
"""Entries of a skill's accuracy history that are kept."""
NAME = "curriculum_state.json"
LOCK_FOLDER = ".guild-curriculum"
PATIENCE_S = 30.0
_REPAIR = "Correct it, or move it away to begin at level 1"


@dataclass
class CurriculumDocument:
    """The document as it was read, for reading and, inside `changing`, for changing. path: where it is written. content: its fields."""

    path: Path
    content: dict[str, Any] = field(default_factory=dict)

    @property
    def skills(self) -> tuple[str, ...]:
        """Canonical ids of the skills that have an entry."""
        return tuple(dict.fromkeys(canonical(name) for name in self.content.get("skills", {})))

    @property
    def active_skill(self) -> str | None:
        """The skill that data was last made for; None before."""
        named = self.content.get("active_skill")
        return canonical(named) if isinstance(named, str) else None

    def entry(self, skill: str) -> dict[str, Any]:
        """The fields of a skill, by its canonical id; {} when it has none yet."""
        skills = self.content.get("skills", {})
        if skill in skills:
            return dict(skills[skill])
        return next((dict(fields) for name, fields in skills.items() if canonical(name) == skill), {})

    def standing(self, skill: str) -> Standing:
        """Where a skill stands; at the beginning when it has no entry. What the original system counted is history and no evidence: it
        counted one checkpoint many times, on five problems (10.1 no. 8)."""
        entry = self.entry(skill)
        evidence = tuple(
            Measured(str(one["checkpoint"]), int(one["level"]), int(one["correct"]), int(one["total"])) for one in entry.get("evidence", [])
        )
        return Standing(int(entry.get("current_level", 0)), evidence, frozenset(map(str, entry.get("counted_checkpoints", []))))

    def put(self, skill: str, standing: Standing, **news: Any) -> None:
        """Replace what is known of a skill, under its canonical id. news: further fields of its entry."""
        entry = self.entry(skill)
        entry.setdefault("accuracy_history", [])
        entry.setdefault("progression_history", [])
        entry |= {
            "current_level": standing.mastered,
            "evidence": [vars(one) for one in standing.evidence[-HISTORY:]],
            "counted_checkpoints": sorted(standing.counted),
            **news,
        }
        skills = {name: fields for name, fields in self.content.get("skills", {}).items() if canonical(name) != skill}
        self.content["skills"] = {**skills, skill: entry}


def state_path(places: Places, campaign: CampaignId = NO_CAMPAIGN) -> Path:
    """Where the state of a campaign is written."""
    if campaign == NO_CAMPAIGN:
        return places.curriculum_state
    return places.campaigns / campaign.hero_id / campaign.campaign_id / "status" / NAME


def read_state(places: Places, campaign: CampaignId = NO_CAMPAIGN) -> CurriculumDocument:
    """The state of a campaign; empty when nothing was ever written. Raises DamagedFileError with every wrong field, StorageError."""
    path, shared = state_path(places, campaign), places.curriculum_state
    content = _read(path)
    if content is None and path != shared:
        content = _read(shared)
        if isinstance(content, dict) and content.get("campaign"):  # an export of some campaign
            content = original_document(shared)
    return CurriculumDocument(path, {} if content is None else _checked(content, path if path.is_file() else shared))


def share(places: Places, campaign: CampaignId) -> bool:
    """Bring the export up to date with the active campaign; returns whether it was written. Nothing is written for another campaign, and
    for one that nothing was ever changed in. Raises what `read_state` raises, RunLockedError."""
    if not _is_active(places, campaign) or _is_exported(places, campaign):
        return False
    with _locked(places):
        _export(places, campaign, _read(state_path(places, campaign)))
    return True


@contextlib.contextmanager
def changing(places: Places, campaign: CampaignId = NO_CAMPAIGN, *, clock: Clock = SYSTEM_CLOCK) -> Iterator[CurriculumDocument]:
    """Read, change, and write the state as one act among all processes; nothing is written when nothing changed or the block raises.

    Not to be taken twice by one process. Raises RunLockedError naming the holder after `PATIENCE_S`, and what `read_state` raises.
    """
    with _locked(places):
        document = read_state(places, campaign)
        before = copy.deepcopy(document.content)
        yield document
        if document.content != before:
            now = stamp(clock.now())
            document.content.setdefault("skills", {})
            document.content.setdefault("active_skill", None)
            document.content.setdefault("started_at", now)
            document.content["last_updated"] = now
            export(document.path, document.content)
            if _is_active(places, campaign):
                _export(places, campaign, document.content)


@contextlib.contextmanager
def _locked(places: Places) -> Iterator[None]:
    lock = WriterLock(ensure_folder(places.base / LOCK_FOLDER), command=("guild", "curriculum"), patience_s=PATIENCE_S)
    try:
        yield
    finally:
        lock.release()


def _is_active(places: Places, campaign: CampaignId) -> bool:
    found = active_key(places)
    return found is not None and found.key == (campaign.hero_id, campaign.campaign_id)


def _export(places: Places, campaign: CampaignId, content: Mapping[str, Any]) -> None:
    export(places.curriculum_state, {**content, "campaign": campaign.key})


def _is_exported(places: Places, campaign: CampaignId) -> bool:
    """Whether the export says what the campaign's document does; true also of a document that the original system wrote."""
    content, exported = _read(state_path(places, campaign)), _read(places.curriculum_state)
    if not is_ours(content):
        return True
    same = isinstance(exported, dict) and all(exported.get(name) == value for name, value in content.items())
    return same and exported.get("campaign") == campaign.key


def _read(path: Path) -> Any:
    try:
        return read_document(path)
    except MissingFileError:
        return None


def _checked(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise DamagedFileError(path, f"found a {type(content).__name__}", "an object with the field skills", _REPAIR)
    skills = content.get("skills", {})
    if not isinstance(skills, dict):
        raise DamagedFileError(path, f"skills: found a {type(skills).__name__}", "an object of skills", _REPAIR)
    faults = [fault for name, fields in skills.items() for fault in _faults(name, fields)]
    if faults:
        raise DamagedFileError(path, "; ".join(faults), "levels of 0 or more, and lists of objects", _REPAIR)
    return content


def _faults(name: str, fields: Any) -> Iterator[str]:
    if not isinstance(fields, dict):
        yield f"skills.{name}: found a {type(fields).__name__}"
        return
    level = fields.get("current_level", 0)
    if isinstance(level, bool) or not isinstance(level, int) or level < 0:
        yield f"skills.{name}.current_level: found {level!r}"
    for part in ("accuracy_history", "progression_history", "evidence"):
        entries = fields.get(part, [])
        if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
            yield f"skills.{name}.{part}: found no list of objects"
        elif part == "evidence" and not all(_is_evidence(one) for one in entries):
            yield f"skills.{name}.evidence: found an entry without checkpoint, level, correct and total"
    if not isinstance(fields.get("counted_checkpoints", []), list):
        yield f"skills.{name}.counted_checkpoints: found no list"


def _is_evidence(entry: dict[str, Any]) -> bool:
    numbers = [entry.get(key) for key in ("level", "correct", "total")]
    if not isinstance(entry.get("checkpoint"), str) or not all(isinstance(one, int) and not isinstance(one, bool) for one in numbers):
        return False
    return entry["level"] >= 1 and 0 <= entry["correct"] <= entry["total"] and entry["total"] > 0
