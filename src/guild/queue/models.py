"""The model of `queue/queue_metadata.json`, for the schema registry. (specs/guild.md 4.10)

Entries of the original system stand in the same lists, so only `file` is sure to be there.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from guild.places import Priority


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Processed(_Open):
    file: str
    completed_at: str | None = None
    job: int | None = None


class Skipped(_Open):
    file: str
    skipped_at: str | None = None
    reason: str | None = None
    job: int | None = None


class Failed(_Open):
    """`retry_at` while attempts are left, `final_failure` once it is parked."""

    file: str
    attempts: int = Field(default=0, ge=0)
    last_error: str | None = None
    retry_at: str | None = None
    final_failure: str | None = None
    job: int | None = None


class Processing(_Open):
    """position_examples: examples of the file that were trained and saved."""

    file: str
    from_priority: Priority | None
    position_examples: int = Field(ge=0)
    started_at: str | None
    job: int


class Totals(_Open):
    processed: int = Field(ge=0)
    skipped: int = Field(ge=0)
    failed: int = Field(ge=0)


class QueueMetadata(_Open):
    """What became of the files; the newest entries of each list, and how many there are in all."""

    schema_version: Literal[1]
    processed: list[Processed]
    skipped: list[Skipped]
    failed: list[Failed]
    processing: list[Processing]
    totals: Totals
