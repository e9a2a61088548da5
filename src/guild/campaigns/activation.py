"""Choosing the active campaign. Running training is paused first and resumed afterwards. (specs/guild.md 2.3.2, 10.1 no. 5)

Status files of a campaign lie in its own folder. The global names under `status/` are never links: `status_file` says which file a name
means now, so that a rename can break nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from guild.campaigns.campaign import STATUS_FILES, CampaignFolder, campaigns_lock, update_campaign
from guild.campaigns.pointer import active_campaign, active_key, write_pointers
from guild.campaigns.store import find_campaign, list_campaigns
from guild.control.daemon import house_liveness
from guild.control.signals import give, signal_path
from guild.control.state import Status, read_state
from guild.errors import RefusedError
from guild.places import Places
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.errors import UsageError
from modelwright.files import make_folder
from modelwright.lock import WriterLock

PAUSE_WAIT_S = 60.0
POLL_S = 0.1
_BUSY = ("training", "stopping", "skipping")


@dataclass(frozen=True)
class Activation:
    """What an activation did. paused: training was running and was paused for it, and is asked to go on. changed: another campaign was
    active before."""

    folder: CampaignFolder
    paused: bool
    changed: bool


def activate(places: Places, hero_id: str, campaign_id: str, *, wait_s: float = PAUSE_WAIT_S, clock: Clock = SYSTEM_CLOCK) -> Activation:
    """Make a campaign the active one.

    wait_s: seconds that running training may take to pause. Raises UnknownHeroError, UnknownCampaignError, RefusedError when it is
    archived or when training does not pause in time (nothing has changed then).
    """
    with _one_at_a_time(places):
        target = find_campaign(places, hero_id, campaign_id)
        if target.archived:
            raise RefusedError(
                f"Campaign {hero_id}/{campaign_id} is archived and cannot be activated. Start a new one from its checkpoint."
            )
        before = active_key(places)
        if before is not None and before.agree and before.key == target.key and target.campaign.status == "active":
            return Activation(target, paused=False, changed=False)
        with (
            _training_paused(places, f"Switching to campaign {hero_id}/{campaign_id}", wait_s, clock) as paused,
            campaigns_lock(places, "campaign switch"),
        ):
            write_pointers(places, hero_id, campaign_id, clock)
            for other in list_campaigns(places).campaigns:
                if other.campaign.status == "active" and other.key != target.key:
                    update_campaign(other.path, {"status": "paused"})
            folder = update_campaign(target.path, {"status": "active"})
        return Activation(folder, paused, changed=before is None or before.key != target.key)


def status_file(places: Places, name: str) -> Path:
    """The file that a campaign's status document of that name means now: the active campaign's, or the one in `status/` when no campaign
    is active. name: with or without `.json`. Raises UsageError for other names."""
    plain = name.removesuffix(".json")
    if plain not in STATUS_FILES:
        raise UsageError(f"status file: found {name!r}; allowed: {', '.join(STATUS_FILES)}.")
    folder = active_campaign(places)
    return (places.status if folder is None else folder.status) / f"{plain}.json"


def readable_status_file(places: Places, name: str) -> Path | None:
    """The file to read a status document from: `status_file` when it is there, else what an adopted installation has under the global
    name (a plain file of the original layout); None when there is neither."""
    chosen = status_file(places, name)
    plain = chosen.name
    adopted = places.curriculum_state if plain == "curriculum_state.json" else places.status / plain
    return next((path for path in (chosen, adopted) if path.is_file()), None)


def training_state(places: Places) -> Status:
    """What the guild does, as far as a live daemon stands behind it, or a trainer that outlived it; `idle` when neither does.
    (specs/guild.md 4.1, G5, G6)

    Raises DamagedFileError for a state document that says nothing.
    """
    return "idle" if house_liveness(places) == "dead" else read_state(places).status


def refuse_while_training(places: Places, doing: str) -> None:
    """Raise RefusedError when training runs: settings change only while it is paused or idle. (specs/guild.md G4)"""
    state = training_state(places)
    if state in _BUSY:
        raise RefusedError(f"Training runs (state: {state}), so {doing} is refused. Pause it first: guild control pause --wait.")


@contextmanager
def _training_paused(places: Places, reason: str, wait_s: float, clock: Clock) -> Iterator[bool]:
    """Inside, training is not running. Says whether it was paused for this, in which case it goes on afterwards."""
    asked = _pause(places, reason, wait_s, clock)
    try:
        yield asked
    finally:
        if asked:
            _resume(places, clock)


def _pause(places: Places, reason: str, wait_s: float, clock: Clock) -> bool:
    """Ask for a pause when training runs and wait until it is reached. Returns whether it was asked for."""
    asked = False
    deadline = clock.monotonic() + wait_s
    while (state := training_state(places)) in _BUSY:
        if state == "training" and not asked:
            give(places, "pause", reason, clock=clock)
            asked = True
        if clock.monotonic() >= deadline:
            if asked:
                _resume(places, clock)
            raise RefusedError(f"Training did not pause within {wait_s:g} seconds (state: {state}); nothing was changed. Try again later.")
        clock.sleep(POLL_S)
    return asked


def _resume(places: Places, clock: Clock) -> None:
    """Take our pause back when nobody has taken it; otherwise let training go on."""
    try:
        signal_path(places, "pause").unlink()
    except FileNotFoundError:
        give(places, "resume", clock=clock)


@contextmanager
def _one_at_a_time(places: Places) -> Iterator[None]:
    """Activations follow one another. Not the campaigns' lock: training takes that one when it saves, while we wait for its pause."""
    lock = WriterLock(make_folder(places.control / ".activation"), command=("guild", "campaign", "switch"), patience_s=2 * PAUSE_WAIT_S)
    try:
        yield
    finally:
        lock.release()
