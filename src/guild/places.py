"""The guild's house: where everything lies under one base directory. (specs/guild.md 2, 4)

Nothing here reads or makes a folder; the layout is that of the original system, so that an installation is adopted in place.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from modelwright.home import home_path

VARIABLE = "TRAINING_BASE_DIR"
Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
"""Queue levels, first taken first."""


def base_directory(named: str | Path | None = None) -> Path:
    """The base directory as an absolute path: `named` (a flag), else `TRAINING_BASE_DIR`, else `$MODELWRIGHT_HOME/guild`."""
    chosen = str(named) if named else os.environ.get(VARIABLE, "").strip()
    return Path(chosen).expanduser().absolute() if chosen else home_path("guild")


@dataclass(frozen=True)
class Places:
    """Paths below `base`, an absolute path."""

    base: Path

    @classmethod
    def of(cls, named: str | Path | None = None) -> Places:
        """The places of `base_directory(named)`."""
        return cls(base_directory(named))

    # the truth about jobs, events and evaluations
    @property
    def database(self) -> Path:
        return self.base / "guild.db"

    @property
    def backups(self) -> Path:
        return self.base / "backups"

    # the queue: payload files
    @property
    def inbox(self) -> Path:
        return self.base / "inbox"

    @property
    def queue(self) -> Path:
        return self.base / "queue"

    def level(self, priority: Priority) -> Path:
        return self.queue / priority

    @property
    def processing(self) -> Path:
        return self.queue / "processing"

    @property
    def failed(self) -> Path:
        return self.queue / "failed"

    @property
    def recently_completed(self) -> Path:
        return self.queue / "recently_completed"

    @property
    def queue_metadata(self) -> Path:
        return self.queue / "queue_metadata.json"

    # control
    @property
    def control(self) -> Path:
        return self.base / "control"

    @property
    def state(self) -> Path:
        return self.control / "state.json"

    @property
    def active_campaign(self) -> Path:
        return self.control / "active_campaign.json"

    @property
    def daemon_pid(self) -> Path:
        return self.base / ".daemon.pid"

    @property
    def pids(self) -> Path:
        return self.base / ".pids"

    # models
    @property
    def models(self) -> Path:
        return self.base / "models"

    @property
    def current_model(self) -> Path:
        return self.base / "current_model"

    @property
    def snapshots(self) -> Path:
        return self.base / "snapshots"

    @property
    def campaigns(self) -> Path:
        return self.base / "campaigns"

    @property
    def archive(self) -> Path:
        return self.campaigns / "archive"

    # settings
    @property
    def config_file(self) -> Path:
        return self.base / "config.json"

    @property
    def hosts(self) -> Path:
        return self.base / "config" / "hosts.json"

    @property
    def storage(self) -> Path:
        return self.base / "config" / "storage.json"

    @property
    def heroes(self) -> Path:
        return self.base / "configs" / "heroes"

    @property
    def skills(self) -> Path:
        return self.base / "configs" / "skills"

    @property
    def schedule(self) -> Path:
        return self.base / "configs" / "schedule.yaml"

    # data
    @property
    def data_manager(self) -> Path:
        return self.base / "data_manager"

    @property
    def curriculum_state(self) -> Path:
        return self.data_manager / "curriculum_state.json"

    @property
    def rejected(self) -> Path:
        return self.data_manager / "rejected"

    @property
    def reports(self) -> Path:
        return self.data_manager / "reports"

    @property
    def sparring_data(self) -> Path:
        return self.base / "guild" / "sparring_data"

    @property
    def validation_data(self) -> Path:
        return self.base / "data" / "validation"

    # what others read
    @property
    def status(self) -> Path:
        return self.base / "status"

    @property
    def baselines(self) -> Path:
        return self.status / "baselines"

    @property
    def logs(self) -> Path:
        return self.base / "logs"
