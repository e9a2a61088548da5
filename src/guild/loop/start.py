"""How a daemon begins: settings, folders, the pid lock, and what a crash left put in order. (specs/guild.md 2.1.1, G6, G8)"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from guild.campaigns.campaign import CampaignFolder
from guild.campaigns.config_file import ConfigFile, installation_config
from guild.campaigns.effective_config import start_config
from guild.campaigns.pointer import require_active
from guild.control.signals import clear
from guild.control.state import RECOVERED, recover_state
from guild.errors import RefusedError
from guild.loop.trainer_process import find_trainer
from guild.places import Places
from guild.processes import OwnProcess
from guild.queue.folders import make_folders
from guild.queue.recovery import QueueRecovery, recover_queue
from guild.records import events
from guild.records.database import open_guild
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.database import Database
from modelwright.errors import RunLockedError
from modelwright.files import make_folder, write_json
from modelwright.identity import current_identity
from modelwright.lock import WriterLock

SOURCE = "daemon"
LOCK_FOLDER = "daemon"


@dataclass
class Started:
    """A daemon's footing. trainer: one that lived through the end of the daemon before, adopted. recovered: the state said that
    something was at work, and nothing was."""

    places: Places
    db: Database
    lock: WriterLock
    config: ConfigFile
    campaign: CampaignFolder
    trainer: OwnProcess | None
    queue: QueueRecovery
    recovered: bool
    said: list[str] = field(default_factory=list)

    def close(self) -> None:
        """Let go of database, pid file and lock."""
        self.db.close()
        self.places.daemon_pid.unlink(missing_ok=True)
        self.lock.release()


def start(places: Places, *, sets: tuple[str, ...] = (), clock: Clock = SYSTEM_CLOCK) -> Started:
    """The start sequence. Raises ConfigError (every fault of the settings), LockMismatchError, NoActiveCampaignError, and RefusedError
    naming the daemon that holds this house; nothing was changed then."""
    config = installation_config(places)
    campaign = require_active(places)
    start_config(places, campaign, sets=sets)
    try:
        lock = WriterLock(make_folder(places.pids / LOCK_FOLDER), command=sys.argv, clock=clock)
    except RunLockedError as error:
        raise RefusedError(f"A daemon keeps {places.base} already: {error}") from error
    try:
        write_json(places.daemon_pid, current_identity().as_dict())
        for folder in (places.status, places.logs, places.snapshots, places.control):
            make_folder(folder)
        make_folders(places)
        db = open_guild(places)
    except BaseException:
        lock.release()
        raise
    try:
        return _recover(places, db, lock, config, campaign, clock)
    except BaseException:
        db.close()
        lock.release()
        raise


def _recover(places: Places, db: Database, lock: WriterLock, config: ConfigFile, campaign: CampaignFolder, clock: Clock) -> Started:
    """What dead processes held returns to the queue; a trainer that lives keeps its file, its state and its signals."""
    trainer = find_trainer(places)
    queue = recover_queue(db, places, clock=clock)
    recovered = False
    if trainer is None:
        recovered = recover_state(places, clock=clock)
        clear(places)
        (places.base / ".stop").unlink(missing_ok=True)
    begun = Started(places, db, lock, config, campaign, trainer, queue, recovered)
    begun.said.append(f"Campaign {'/'.join(campaign.key)} at step {campaign.campaign.current_step}.")
    if recovered:
        begun.said.append(f"{RECOVERED}: the state is idle again.")
    for one in queue.taken_back:
        begun.said.append(f"{one.job.name} returns to its queue (its process {one.holder.pid} is gone).")
    if trainer is not None:
        begun.said.append(f"The trainer of the daemon before (process {trainer.identity.pid}) goes on.")
    events.record(
        db, "daemon.started", " ".join(begun.said), source=SOURCE, durable=True, clock=clock,
        data={"campaign": "/".join(campaign.key), "adopted": trainer is not None, "recovered": recovered},
    )  # fmt: skip
    return begun
