"""The kernel's artifacts as pydantic models: what stands in each file a run directory holds.

The writers of frequent files (metrics, heartbeat, requests) build plain dicts, which is cheaper; these models say what
those dicts contain, are exported as JSON Schemas, and are what tests hold the written files against. Readers tolerate
further fields.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from modelwright.hardware import HardwareInventory
from modelwright.record import RunRecord, Writer
from modelwright.schema_registry import ArtifactSchema

OWNER = "modelwright"
SHA256 = r"^[0-9a-f]{64}$"
RequestKind = Literal["pause", "resume", "stop", "skip", "approve", "abort", "rollback"]


class Artifact(BaseModel):
    """Base of the kernel's artifacts: a field that a newer version adds is not an error."""

    model_config = ConfigDict(extra="allow")


class HeartbeatSnapshot(Artifact):
    """The newest state of a run; a line of the timeline has the same fields."""

    run_id: str
    attempt: int = Field(ge=1)
    status: str
    phase: str
    step: int
    total_steps: int | None = None
    progress: float | None = Field(None, ge=0, le=1)
    steps_per_s: float | None = None
    throughput: float | None = Field(None, description="in `unit`")
    unit: str = ""
    eta_s: float | None = Field(None, description="seconds left, from the smoothed rate of steps")
    elapsed_s: float | None = Field(None, description="seconds since the writer opened the heartbeat")
    latest_checkpoint: str | None = None
    message: str = ""
    beat_at: str = Field(description="last progress, ISO 8601 UTC")
    alive_at: str = Field(description="last sign of life, ISO 8601 UTC")
    alive_uptime_s: float | None = Field(None, description="the same in seconds since boot, deaf to clock adjustments")
    boot_id: str
    stale_after_s: float
    writer: Writer


class ControlRequest(Artifact):
    """Content of `control/<kind>.request`; an empty file asks the same without saying who."""

    id: str
    kind: RequestKind
    actor: str
    asked_at: str
    body: dict[str, Any] = Field(default_factory=dict)


class ControlAnswer(Artifact):
    """What became of a request. `outcome` is null between taking and acknowledging."""

    n: int = Field(ge=1)
    id: str
    kind: str
    actor: str
    asked_at: str
    body: dict[str, Any]
    taken_at: str
    taken_by: Writer
    outcome: str | None
    answered_at: str | None
    answered_by: Writer | None = None
    detail: dict[str, Any] = Field(default_factory=dict)


class CheckpointFile(Artifact):
    """One file of a checkpoint."""

    size: int = Field(ge=0, description="bytes")
    sha256: str = Field(pattern=SHA256)


class CheckpointManifest(Artifact):
    """What a checkpoint consists of. `manifest_sha256` is the digest of all other fields as canonical JSON."""

    schema_version: Literal[1]
    name: str
    step: int | None
    sequence: int = Field(ge=1, description="position in the order of saving, independent of clocks")
    created_at: str
    metadata: dict[str, Any]
    files: dict[str, CheckpointFile]
    manifest_sha256: str = Field(pattern=SHA256)


class MetricEvent(Artifact):
    """One line of a metrics file; further fields (phase, rung, length, split, dataset …) tell streams of one metric
    apart.
    """

    timestamp: str
    metric: str
    value: float | int | None
    step: int | None = None
    attempt: int | None = Field(None, ge=2, description="absent in a first attempt")
    nonfinite: Literal["nan", "inf", "-inf"] | None = Field(None, description="why `value` is null")


class MemoryPartLine(Artifact):
    """One part of a memory forecast."""

    name: str
    bytes: int
    formula: str


class MemoryForecastDocument(Artifact):
    """Predicted peak memory before a job (`memory_plan` of a room's hardware file)."""

    parts: list[MemoryPartLine]
    total_bytes: int
    total_gib: float
    parameters: int
    exact_shape: bool = Field(description="false when the model family is unknown and a gated decoder was assumed")


class MemoryMeasured(Artifact):
    """Predicted against measured peak memory of a run."""

    schema_version: Literal[1]
    predicted_bytes: int
    measured_bytes: int
    error: float | None = Field(description="predicted / measured − 1")
    source: str = Field(description="how it was measured")
    length: int
    batch: int
    parts: list[MemoryPartLine]


SCHEMAS: tuple[ArtifactSchema, ...] = (
    ArtifactSchema("run-record", 1, RunRecord, OWNER, "run.json"),
    ArtifactSchema("heartbeat", 1, HeartbeatSnapshot, OWNER, "heartbeat.json, lines of heartbeat.jsonl"),
    ArtifactSchema("control-request", 1, ControlRequest, OWNER, "control/<kind>.request"),
    ArtifactSchema("control-answer", 1, ControlAnswer, OWNER, "control/answered/<n>-<kind>.json"),
    ArtifactSchema("checkpoint-manifest", 1, CheckpointManifest, OWNER, "checkpoints/<name>/manifest.json"),
    ArtifactSchema("metric-event", 1, MetricEvent, OWNER, "lines of metrics.jsonl"),
    ArtifactSchema("hardware-inventory", 1, HardwareInventory, OWNER, "hardware.json"),
    ArtifactSchema("memory-forecast", 1, MemoryForecastDocument, OWNER, "memory_plan in hardware.json and plan.json"),
    ArtifactSchema("memory-measured", 1, MemoryMeasured, OWNER, "memory.json"),
)
