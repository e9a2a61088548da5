"""What stands in the small files of a run: run record, log lines, heartbeats, acknowledgements. (specs/medic.md, 4.5, 7.3, 8.2-8.4)

Writers build plain dicts; these models say what the dicts hold and are exported as JSON Schemas. A number that may be null
is not known yet, does not apply (GPU memory on a CPU), or was not finite. Times are UTC, ISO 8601 with milliseconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

Stamp = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Status = Literal["running", "resumed", "paused", "completed", "failed"]
StopReason = Literal["pause_request", "keyboard_interrupt"]
TERMINAL_STATUSES = ("paused", "completed", "failed")
REASONS = (
    "startup", "startup_resume", "heartbeat", "progress", "curve_progress", "amplification_progress", "finalizing",
    "pause_request", "keyboard_interrupt", "completed", "already_completed",
)  # fmt: skip
"""What `reason` of a heartbeat says; a failed one holds the class of the exception instead."""


class Closed(BaseModel):
    """A document whose fields are all listed."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Open(BaseModel):
    """A document that may hold further fields."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


# ---------------------------------------------------------------------- run record


class GitState(Closed):
    """`git.json`; null where the code does not run from a git checkout."""

    commit: str | None
    dirty: bool | None


class Environment(Open):
    """The environment of a run; versions as text, `cuda` and `gpu_name` null without a GPU."""

    python: str
    torch: str
    transformers: str
    cuda: str | None
    gpu_name: str | None
    runtime_dtype: str | None = Field(None, description="the number format that really ran")


class EnvironmentFile(Environment):
    """`env.json`."""

    platform: str


class MedicRunRecord(Closed):
    """`run_record.json`; `run_id` is the name of the run directory."""

    run_id: str = Field(min_length=1)
    created_utc: Stamp
    command: list[str] = Field(min_length=1)
    config_path: str
    config_hash: Sha256
    git: GitState
    env: Environment


# ---------------------------------------------------------------------- log lines


class Line(Open):
    """What every log line has."""

    run_id: str
    timestamp_utc: Stamp
    step: int = Field(ge=0)


class LoggedCorruption(Open):
    """The corruption of a training step; type `none` on a clean one."""

    type: str
    epsilon: float
    head_count_mean: float | None = Field(None, description="active KV heads per corrupted layer")
    time_count_mean: float | None = Field(None, description="active tokens per corrupted layer and row")


class TrainLine(Line):
    """A line of `logs/train.jsonl`, every `log_every` steps and at the last one."""

    phase: Literal["train"]
    loss_total: float | None
    loss_kd: float | None
    loss_id: float | None
    loss_contr: float | None
    rho_mean: float | None = Field(description="over the protected layers that were harmed")
    rho_p95: float | None
    corruption: LoggedCorruption
    tokens_per_sec: float | None = Field(description="since the last line")
    gpu_mem_gb: float | None = Field(description="GiB, peak since the last line")
    step_wall_sec: float | None


class TrainControlLine(Line):
    """A line of `logs/train.jsonl` that says why training stopped."""

    phase: Literal["train_control"]
    event: Literal["paused", "completed"]
    reason: StopReason | None = None
    resume_state: str | None = None


class EvalLine(Line):
    """A line of `logs/eval.jsonl`, one per epsilon; `step` is `round(1000 * epsilon)`."""

    phase: Literal["eval"]
    epsilon: float = Field(ge=0)
    best_heuristic: str
    score_no_defense: float | None
    score_best_heuristic: float | None
    score_cachemedic: float | None
    tokens_per_sec: float | None
    gpu_mem_gb: float | None


class PlainLine(Line):
    """A log line of the phases that have no fields of their own."""

    phase: Literal["stability", "plots", "sweep"]


LogRecord = Annotated[TrainLine | TrainControlLine | EvalLine | PlainLine, Field(discriminator="phase")]

# ---------------------------------------------------------------------- heartbeats

_FAILED_SAYS_WHY: dict[str, JsonValue] = {"if": {"properties": {"status": {"const": "failed"}}}, "then": {"required": ["error"]}}


class Heartbeat(Open):
    """What every heartbeat has; `step` counts training steps, finished units, or finished phases of a sweep."""

    model_config = ConfigDict(extra="allow", protected_namespaces=(), json_schema_extra=_FAILED_SAYS_WHY)

    run_id: str
    timestamp_utc: Stamp
    status: Status
    reason: str = Field(min_length=1)
    step: int = Field(ge=0)
    total_steps: int = Field(ge=0)
    progress: float = Field(ge=0, le=1)
    steps_remaining: int = Field(ge=0)
    elapsed_wall_sec: float = Field(ge=0, description="earlier sessions included")
    steps_per_sec: float | None = Field(ge=0, description="step / elapsed_wall_sec")
    eta_sec: float | None = Field(ge=0, description="null while step = 0")
    resumed_from: str | None
    error: str | None = Field(None, description="text of the exception, when failed")

    @model_validator(mode="after")
    def _failed_says_why(self) -> Heartbeat:
        if self.status == "failed" and not self.error:
            raise ValueError("a failed heartbeat holds the text of its exception in `error`")
        return self


class TrainHeartbeat(Heartbeat):
    """`logs/train_heartbeat.json` and the lines of `logs/train_heartbeat.jsonl`."""

    phase: Literal["train"]
    tokens_per_sec: float | None
    gpu_mem_gb: float | None
    latest_repair_checkpoint: str | None
    latest_train_state: str | None
    loss_total: float | None = Field(None, description="once known")


class EvalUnit(Open):
    """The evaluation cell a heartbeat stands at."""

    unit_key: str


class StabilityUnit(Open):
    """The curve point or the row of the amplification map a heartbeat stands at."""

    kind: Literal["curve", "amplification"]
    delta_norm: float | None = None
    layer: int | None = None


class EvalHeartbeat(Heartbeat):
    """`logs/eval_heartbeat.json` and the lines of `logs/eval_heartbeat.jsonl`."""

    phase: Literal["eval"]
    current_unit: EvalUnit | None = None


class StabilityHeartbeat(Heartbeat):
    """`logs/stability_heartbeat.json` and the lines of `logs/stability_heartbeat.jsonl`."""

    phase: Literal["stability"]
    current_unit: StabilityUnit | None = None


class SweepUnit(Open):
    """The run and phase that a sweep is working on."""

    run: str
    phase: str


class SweepHeartbeat(Heartbeat):
    """`logs/sweep_heartbeat.json` and its timeline, in the folder of the sweep."""

    phase: Literal["sweep"]
    current_unit: SweepUnit | None = None


class PlotsHeartbeat(Heartbeat):
    """`logs/plots_heartbeat.json` and its timeline; `step` counts written files."""

    phase: Literal["plots"]


# ---------------------------------------------------------------------- pause


class TrainPauseAck(Closed):
    """`control/pause_ack.json`."""

    run_id: str
    status: Literal["paused"]
    reason: StopReason
    step: int = Field(ge=0)
    timestamp_utc: Stamp
    resume_state: str | None = Field(description="the training state of this step; null before the first")


class UnitPauseAck(Closed):
    """`control/pause_ack_eval.json` and `control/pause_ack_stability.json`."""

    phase: Literal["eval", "stability"]
    run_id: str
    status: Literal["paused"]
    reason: StopReason
    timestamp_utc: Stamp
    resume_state: str = Field(description="the progress file")
    completed_units: int = Field(ge=0)
    total_units: int = Field(ge=0)
    elapsed_wall_sec: float = Field(ge=0)


# ---------------------------------------------------------------------- sweep summary


class PhaseResult(Open):
    """What became of one phase of a run; `reason` says why it was skipped or how it ended."""

    status: Literal["pending", "running", "completed", "paused", "failed", "skipped"]
    reason: str | None = None
    error: str | None = None
    exit_code: int | None = None


class RunSummary(Open):
    """One run of a sweep."""

    name: str
    run_dir: str
    overrides: dict[str, Any]
    train: PhaseResult
    eval: PhaseResult
    stability: PhaseResult
    plots: PhaseResult


class SweepSummary(Open):
    """`<sweep_name>_summary.json`."""

    sweep_name: str
    base_config: str
    num_runs: int = Field(ge=1)
    runs: list[RunSummary]
    budget: dict[str, Any] | None
    status: Literal["running", "completed", "paused", "failed"]
    paused_run: str | None
