"""The lock of a campaign: what must not change once it has trained. (specs/guild.md 2.1.5, 10.1 no. 2)

`campaigns/<hero>/<id>/.config_lock.json` holds `locked{base_model, model_architecture, max_context_length, vocab_size, model_version}`. A
mismatch refuses, and nothing falls back to defaults. One writer: this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guild.campaigns.campaign import CampaignFolder, campaigns_lock, read_campaign
from guild.campaigns.checkpoints import checkpoints_of
from guild.campaigns.config_schema import EffectiveConfig
from guild.errors import RefusedError
from guild.places import Places
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.errors import DamagedFileError, Fault
from modelwright.files import JsonlAppender, make_folder, read_json, write_json

LOCKED = ("base_model", "model_architecture", "max_context_length", "vocab_size", "model_version")
CHANGE_LOG = "config_changes.jsonl"
BY_TRAINING = "training"


class LockMismatchError(RefusedError):
    """A locked field has another value than the lock; `faults` has one entry per field."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(fault.sentence() for fault in faults))


def read_lock(folder: CampaignFolder) -> dict[str, Any] | None:
    """The locked values; None while the campaign is not locked. Raises DamagedFileError."""
    content = _document(folder)
    return None if content is None else dict(content["locked"])


def binding_lock(folder: CampaignFolder) -> dict[str, Any] | None:
    """The locked values that hold now. A lock that a training set binds from the campaign's first step on; until then nothing is lost by
    another choice, and the next training sets it anew. One that was set by hand, or by the original, binds at once."""
    content = _document(folder)
    if content is None or (content.get("created_by") == BY_TRAINING and not _has_trained(folder)):
        return None
    return dict(content["locked"])


def lock_faults(locked: Mapping[str, Any], config: EffectiveConfig, where: str) -> list[Fault]:
    """One fault per locked field that the configuration gives another value. A field that an older lock lacks is not compared."""
    todo = "a new base model or a new context length opens a campaign of its own: guild campaign new --checkpoint"
    return [
        Fault(name, repr(value), f"{locked[name]!r}, locked by {where}", todo)
        for name, value in config.locked.items()
        if name in locked and not _same(name, locked[name], value)
    ]


def check_lock(folder: CampaignFolder, config: EffectiveConfig) -> bool:
    """Raise LockMismatchError when the configuration breaks the campaign's lock. Returns whether there is a binding one."""
    locked = binding_lock(folder)
    if locked is None:
        return False
    faults = lock_faults(locked, config, str(folder.lock_file))
    if faults:
        raise LockMismatchError(faults)
    return True


def ensure_lock(places: Places, folder: CampaignFolder, config: EffectiveConfig, *, clock: Clock = SYSTEM_CLOCK) -> None:
    """What every training passes at its start: the lock is checked, and set where none binds yet. Raises LockMismatchError."""
    if check_lock(folder, config) or read_lock(folder) == config.locked:
        return
    with campaigns_lock(places, "config lock"):
        if not check_lock(folder, config):
            _write(folder, config, BY_TRAINING, clock)


def create_lock(places: Places, folder: CampaignFolder, config: EffectiveConfig, *, clock: Clock = SYSTEM_CLOCK) -> None:
    """Set the lock by hand. Raises RefusedError when there is one."""
    with campaigns_lock(places, "config lock"):
        if folder.lock_file.is_file():
            raise RefusedError(
                f"{folder.lock_file} is there already. Compare with it by --validate-only, or take it away by --remove-lock."
            )
        _write(folder, config, "config lock", clock)


def remove_lock(places: Places, folder: CampaignFolder, reason: str, *, clock: Clock = SYSTEM_CLOCK) -> None:
    """Take the lock away; the removal is logged with its reason. Raises RefusedError when there is no lock or no reason."""
    if not reason.strip():
        raise RefusedError("Removing a lock needs a reason, which is logged. Give one by --reason.")
    with campaigns_lock(places, "config lock"):
        locked = read_lock(folder)
        if locked is None:
            raise RefusedError(f"Campaign {'/'.join(folder.key)} has no lock to remove.")
        log_change(places, f"{'/'.join(folder.key)}: lock", before=locked, after=None, reason=reason, clock=clock)
        folder.lock_file.unlink()


def log_change(places: Places, what: str, *, before: Any, after: Any, reason: str, clock: Clock) -> None:
    """Append to `logs/config_changes.jsonl`. Call it under `campaigns_lock`, before the change itself."""
    with JsonlAppender(make_folder(places.logs) / CHANGE_LOG, fsync_every_s=0) as log:
        log.append({"at": stamp(clock.now()), "what": what, "before": before, "after": after, "reason": reason.strip()})


def _document(folder: CampaignFolder) -> dict[str, Any] | None:
    path = folder.lock_file
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("locked"), dict):
        todo = "Correct it, or remove it by `guild config lock --remove-lock`"
        raise DamagedFileError(path, "it has no object `locked`", f"locked with {', '.join(LOCKED)}", todo)
    return content


def _has_trained(folder: CampaignFolder) -> bool:
    now = read_campaign(folder.path).campaign
    return now.current_step > now.starting_step or bool(checkpoints_of(folder))


def _write(folder: CampaignFolder, config: EffectiveConfig, by: str, clock: Clock) -> None:
    write_json(folder.lock_file, {"schema_version": 1, "locked": config.locked, "created_at": stamp(clock.now()), "created_by": by})


def _same(name: str, locked: Any, value: Any) -> bool:
    if name != "base_model":
        return str(locked) == str(value) if name == "model_version" else bool(locked == value)
    return _model_name(str(locked)) == _model_name(str(value))


def _model_name(name: str) -> str:
    """`Qwen/Qwen3-0.6B`, `models/Qwen3-0.6B/` and `qwen3_0.6b` name one model."""
    return name.rstrip("/").rpartition("/")[2].lower().replace("_", "-")
