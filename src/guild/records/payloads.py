"""What each kind of job is told: one model per kind, every field checked when the job is queued. (specs/guild.md 8.5)"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from guild.places import Priority

Word = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]
"""A name: no control characters."""
FileName = Annotated[str, StringConstraints(min_length=7, max_length=255, pattern=r"^[^./\x00-\x1f][^/\x00-\x1f]*\.jsonl$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Payload(BaseModel):
    """Base: unknown fields are faults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    reason: str = Field(default="", max_length=1000, description="why it was asked for, for people")


class TrainFile(Payload):
    """One epoch over one data file of the queue."""

    file: FileName
    size_bytes: int | None = Field(default=None, ge=0)
    rows: int | None = Field(default=None, ge=0)
    sha256: Sha256 | None = None
    schema_id: Word | None = None
    allow_default: bool = Field(default=False, description="rows that name no schema are chat_sft_v1")
    skill: Word | None = None
    level: int | None = Field(default=None, ge=1)
    generator: Word | None = Field(default=None, description="id@version")


class RoomRun(Payload):
    """A run of another room, started as its own command and followed through its run directory."""

    arguments: list[str] = Field(min_length=1, description="of the command, without its name")
    run_dir: str | None = Field(default=None, min_length=1)
    model: str | None = Field(default=None, min_length=1)
    campaign: Word | None = Field(default=None, description="hero/campaign whose history the result joins")
    cwd: str | None = Field(
        default=None, min_length=1, description="folder that relative paths are meant from; default: the base directory"
    )
    opens_child: bool = Field(default=False, description="a completed context stretch opens a child campaign")
    child_name: Word | None = None
    child_max_length: int | None = Field(default=None, ge=128, le=32768, description="training length of the child campaign, tokens")


class Evaluation(Payload):
    """One evaluation of one checkpoint: of a skill, or by a passive."""

    campaign: Word | None = None
    step: int = Field(ge=0)
    checkpoint: Word
    suite: Literal["quick", "full"] = "quick"
    skill: Word | None = None
    level: int | None = Field(default=None, ge=1, description="none: every level of the set")
    passive: Word | None = None
    mode: Literal["lite", "full"] | None = None
    problems: int | None = Field(default=None, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _one_subject(self) -> Evaluation:
        if (self.skill is None) == (self.passive is None):
            raise ValueError("exactly one of skill and passive")
        return self


class Sparring(Payload):
    """Wrong answers of a checkpoint turned into correction rows."""

    skill: Word
    level: int | None = Field(default=None, ge=1)
    count: int = Field(ge=1, le=100_000)
    checkpoint: Word | None = None
    model: Word | None = Field(default=None, description="name under which the inference host serves it")
    priority: Priority = "high"
    seed: int | None = None


class DataGeneration(Payload):
    """New training rows of a skill."""

    skill: Word | None = Field(default=None, description="none: what the curriculum asks for")
    level: int | None = Field(default=None, ge=1)
    count: int = Field(ge=1, le=10_000_000)
    seed: int | None = None
    priority: Priority = "normal"
    force: bool = False


class Retention(Payload):
    """A pass over checkpoints and snapshots."""

    dry_run: bool = False
    campaign: Word | None = None


class HealthCheck(Payload):
    """A look at hosts and services; none named: all of them."""

    hosts: list[Word] = Field(default_factory=list)


class Report(Payload):
    """A report or an analysis by its name."""

    name: Word
    campaign: Word | None = None
    options: dict[str, Any] = Field(default_factory=dict)
