"""How a daemon begins: settings, the model, folders, the pid lock, and what a crash left put in order. (specs/guild.md 2.1.1, G6, G8)"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from guild.campaigns.campaign import CampaignFolder
from guild.campaigns.config_file import ConfigFile, installation_config
from guild.campaigns.effective_config import start_config
from guild.campaigns.heroes import get_hero
from guild.campaigns.pointer import require_active
from guild.campaigns.start_model import StartModel, start_model
from guild.control.signals import clear
from guild.control.state import RECOVERED, recover_state
from guild.control.training_status import reset_stale
from guild.errors import RefusedError
from guild.loop.trainer_process import find_trainer
from guild.places import Places
from guild.processes import OwnProcess
from guild.queue.folders import make_folders
from guild.queue.recovery import QueueRecovery, recover_queue
from guild.records import events
from guild.records.database import open_guild
from guild.records.original_tree import adopt_new
from guild.trainer.settings import start_point
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.database import Database
from modelwright.errors import RunLockedError
from modelwright.files import make_folder, write_json
from modelwright.identity import current_identity
from modelwright.lock import WriterLock

SOURCE = "daemon"
LOCK_FOLDER = "daemon"
FACTS_OF_ADOPTED = {"allow_default": True}
"""Of the jobs of files that wait in a house that is taken over: the original named no schema, for all its rows were chats."""


@dataclass
class Started:
    """A daemon's footing. model: what training begins with. trainer: one that lived through the end of the daemon before, adopted.
    recovered: the state said that something was at work, and nothing was."""

    places: Places
    db: Database
    lock: WriterLock
    config: ConfigFile
    campaign: CampaignFolder
    model: StartModel
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
    """The start sequence. Raises ConfigError (every fault of the settings), LockMismatchError, NoActiveCampaignError, CheckpointsLostError
    and RefusedError naming the daemon that holds this house; nothing was changed then."""
    config = installation_config(places)
    campaign = require_active(places)
    start_point(campaign, start_config(places, campaign, sets=sets).value)
    model = start_model(places, campaign, get_hero(places, campaign.key[0]))
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
        return _recover(places, db, lock, config, campaign, model, clock)
    except BaseException:
        db.close()
        lock.release()
        raise


def _recover(
    places: Places, db: Database, lock: WriterLock, config: ConfigFile, campaign: CampaignFolder, model: StartModel, clock: Clock
) -> Started:
    """What dead processes held returns to the queue; a trainer that lives keeps its file, its state and its signals."""
    trainer = find_trainer(places)
    adopted = adopt_new(db, places)
    taken_over = adopted is not None and adopted.anything
    queue = recover_queue(db, places, facts=FACTS_OF_ADOPTED if taken_over else None, clock=clock)
    recovered = False
    if trainer is None:
        recovered = recover_state(places, clock=clock)
        reset_stale(places, clock=clock)
        clear(places)
        (places.base / ".stop").unlink(missing_ok=True)
    begun = Started(places, db, lock, config, campaign, model, trainer, queue, recovered)
    begun.said += [f"Campaign {'/'.join(campaign.key)} at step {campaign.campaign.current_step}.", model.sentence]
    begun.said += [f"Passed over: {sentence}" for sentence in model.passed_over]
    if adopted is not None and taken_over:
        found = f"{adopted.checkpoints} checkpoints, {adopted.evaluations} evaluations and {adopted.passives} passives"
        begun.said.append(f"This house is taken over as it stands: {found}.")
        begun.said += [f"Passed over: {sentence}" for sentence in adopted.faults]
    if recovered:
        begun.said.append(f"{RECOVERED}: the state is idle again.")
    for one in queue.taken_back:
        begun.said.append(f"{one.job.name} returns to its queue (its process {one.holder.pid} is gone).")
    if trainer is not None:
        begun.said.append(f"The trainer of the daemon before (process {trainer.identity.pid}) goes on.")
    events.record(
        db, "daemon.started", " ".join(begun.said), source=SOURCE, durable=True, clock=clock,
        data={
            "campaign": "/".join(campaign.key), "adopted": trainer is not None, "recovered": recovered,
            "model": {"source": model.source, "path": str(model.path or ""), "step": model.step},
        },
    )  # fmt: skip
    return begun
