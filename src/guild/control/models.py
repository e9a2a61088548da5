"""The model of `control/state.json`, for the schema registry. (specs/guild.md 4.1)"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from guild.control.state import Status


class ControlStateDocument(BaseModel):
    """What the daemon does. Times are UTC stamps. pending: a signal that was taken and is not carried out yet."""

    model_config = ConfigDict(extra="allow")

    schema_version: Literal[1]
    status: Status
    last_update: str | None
    current_file: str | None
    paused_at: str | None
    reason: str | None
    pending: str | None = None
