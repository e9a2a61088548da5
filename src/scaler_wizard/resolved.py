"""What a job is once every question is answered: the frozen result of step 1.

`resolve.resolve` builds a `ResolvedJob` from flags, job document, template and hardware; the dry run, the pipeline and the
exporter only read it. Nothing here imports torch. Lengths are in tokens, times in seconds, memory in GiB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

SCHEMA_VERSION = "1.0"

Origin = Literal["cli", "job", "adaptive", "template", "default"]
ORIGINS: tuple[Origin, ...] = ("cli", "job", "adaptive", "template", "default")


@dataclass(frozen=True)
class ModelChoice:
    """The model to stretch. `base_model` is a local directory or a hub id, as the user gave it."""

    base_model: str
    tokenizer: str
    revision: str | None
    runtime: str  # auto | cpu | single_gpu
    resize_embeddings: bool
    fingerprint: str | None  # SHA-256 over config.json and the names and sizes of the weight files (local directories only)


@dataclass(frozen=True)
class ScalingChoice:
    """Adapters and context. `base_context` is L, `target_context` is L', `method` is a registry id (never `auto`)."""

    strategy: str  # lora | qlora | an entry-point name
    adaptive_rank: bool
    lora_rank: int
    lora_alpha: int
    lora_dropout: float
    use_qlora: bool
    use_rslora: bool
    use_dora: bool
    rank_pattern: Mapping[str, int]
    capacity_multiplier: float
    prefer_low_memory: bool
    train_embeddings: bool  # embeddings and norms trained beside LoRA
    base_context: int
    target_context: int
    context_schedule: tuple[int, ...]  # every rung length, base first, target last
    growth: str  # double | single_shot | two_stage | explicit
    context_method: str
    method_params: Mapping[str, Any]  # the user's extra parameters for the method
    yarn_ramp: str  # index | paper
    template: str
    use_case: str
    context_multiplier: int


@dataclass(frozen=True)
class DatasetChoice:
    """Training data. `reference` is the whole URI; `source` and `identifier` are its parts as the plugin schema names them."""

    reference: str
    source: str  # huggingface_hub | local_upload | synthetic
    identifier: str
    split: str | None
    weak_supervision: bool
    fingerprint: str | None  # SHA-256 of the local file(s) or of the synthetic recipe; None for hub data


@dataclass(frozen=True)
class DistillationChoice:
    """Whether the template wished for distillation, and why it is not done when it is not."""

    use_distillation: bool
    teacher_model: str | None
    skipped_because: str


@dataclass(frozen=True)
class BreakerChoice:
    """Settings of the circuit breaker (see `circuit_breaker.CBConfig`)."""

    mode: str  # classic | robust
    window_steps: int
    max_perplexity_delta: float
    min_accuracy: float
    hard_stop: bool


@dataclass(frozen=True)
class TelemetryChoice:
    """Where metric events go and how often. `log_every` is in optimizer steps and follows from `profile`."""

    emit_metrics: bool
    destination: str  # local | http | websocket
    endpoint: str | None
    profile: str  # standard | high_resolution | detailed | exploratory
    log_every: int
    flush_every: int


@dataclass(frozen=True)
class SafetyChoice:
    persona: str  # conservative | balanced | experimental
    circuit_breaker: BreakerChoice
    telemetry: TelemetryChoice


@dataclass(frozen=True)
class TrainingChoice:
    """Optimisation. Sequences per device and optimizer step = micro_batch_size x gradient_accumulation."""

    steps_per_rung: int
    learning_rate: float
    embedding_learning_rate: float | None  # learning rate of embeddings and norms; None = learning_rate
    lr_scheduler: str  # constant_with_warmup | linear | cosine
    warmup_steps: int
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    max_grad_norm: float
    micro_batch_size: int
    gradient_accumulation: int
    micro_batch_tokens: int | None  # tokens per forward pass; when set, micro_batch_size per rung follows from it
    batch_tokens: int | None  # tokens per optimizer step; when set, gradient_accumulation per rung follows from it
    max_train_tokens: int | None  # upper limit of trained tokens over all rungs
    native_fraction: float  # share of trained tokens that come at the base length
    gradient_checkpointing: str  # auto | on | off
    precision: str  # auto | fp32 | bf16
    loss_chunk: int  # positions whose logits are held at once
    save_every: int  # steps between resumable checkpoints inside a rung; 0 = only at the end of a rung
    pack: bool


@dataclass(frozen=True)
class EvaluationChoice:
    """Probes: how many samples per length, how often inside a rung, and when falling scores stop the expansion."""

    probe_samples: int
    eval_every: int  # optimizer steps between perplexity evaluations inside a rung; 0 = only at its end
    eval_tokens: int  # tokens per perplexity evaluation
    calibrate: bool
    floor_ratio: float  # should_halt threshold = floor_ratio x score of the base rung
    halt_window: int
    short_drop_warn: float  # points of short-context regression that raise `warn`
    short_drop_stop: float  # points that stop a conservative run


@dataclass(frozen=True)
class GateChoice:
    mode: str  # contract | prompt | cockpit
    timeout_s: float
    max_growth: float  # a rung longer than max_growth x the one before needs a human


@dataclass(frozen=True)
class ExportChoice:
    merge: bool


@dataclass(frozen=True)
class AlertChoice:
    enable_voice: bool
    enable_visual: bool
    enable_telegram: bool
    canonical_sentence: str | None
    language: str
    persona: str


@dataclass(frozen=True)
class RungPlan:
    """One rung of the ladder, with everything that may differ from rung to rung."""

    index: int
    length: int
    scale: float  # length / base_context, >= 1
    phase: int  # 1 base, 2 first expansion, 3 every later rung
    steps: int
    learning_rate: float
    native_fraction: float
    micro_batch_size: int
    gradient_accumulation: int
    probes: tuple[str, ...]  # names the schedule and --probes ask for, e.g. retrieval_qa
    run_probes: tuple[str, ...]  # what this version runs for them, e.g. passkey
    notes: str
    beyond_growth: bool  # longer than gate.max_growth x the rung before


@dataclass(frozen=True)
class Paths:
    """Host paths; never part of the config digest."""

    output_dir: Path
    contract: Path
    authorized_keys: Path


@dataclass(frozen=True)
class ResolvedJob:
    """Everything a run needs to know, with the origin of every value.

    `origins` maps dotted paths to cli, job, adaptive, template or default. `warnings` become errors under --strict;
    `notes` are remarks that never do. `contract` is the contract section of a job document, when it has one.
    `model_config` is the model's config.json as a plain dict (read, never changed).
    """

    model: ModelChoice
    scaling: ScalingChoice
    dataset: DatasetChoice
    distillation: DistillationChoice
    safety: SafetyChoice
    training: TrainingChoice
    evaluation: EvaluationChoice
    gate: GateChoice
    export: ExportChoice
    alerts: AlertChoice
    probes: tuple[str, ...]
    seed: int
    rungs: tuple[RungPlan, ...]
    paths: Paths
    origins: Mapping[str, str]
    versions: Mapping[str, str]
    config_sha256: str
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    rank_factors: tuple[str, ...] = ()  # one line per factor of the adaptive rank
    recommendation: str = ""  # why the recommender chose this template, when it did
    base_params: int = 0  # parameters of the base model
    model_config: Mapping[str, Any] = field(default_factory=dict)
    contract: Mapping[str, Any] | None = None
    dry_run: bool = False
    resume: bool = False
    offline: bool = False
    strict: bool = False
    json_output: bool = False
    log_level: str = "info"

    @property
    def output_dir(self) -> Path:
        return self.paths.output_dir

    @property
    def persona(self) -> str:
        return self.safety.persona

    def document(self) -> dict[str, Any]:
        """The content of `config.resolved.yaml` as plain data: sections, origins, versions, digest, warnings, paths."""
        return {
            **settings_of(self),
            "rungs": [plain(asdict(rung)) for rung in self.rungs],
            "origins": dict(sorted(self.origins.items())),
            "versions": dict(self.versions),
            "config_sha256": self.config_sha256,
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "paths": plain(asdict(self.paths)),
        }


@dataclass(frozen=True)
class ResolvedDocument:
    """The fields of `config.resolved.yaml`, for the schema registry; `ResolvedJob.document` makes it."""

    schema_version: str
    model: ModelChoice
    scaling: ScalingChoice
    dataset: DatasetChoice
    distillation: DistillationChoice
    safety: SafetyChoice
    training: TrainingChoice
    evaluation: EvaluationChoice
    gate: GateChoice
    export: ExportChoice
    alerts: AlertChoice
    probes: tuple[str, ...]
    seed: int
    rungs: tuple[RungPlan, ...]
    origins: Mapping[str, Origin]
    versions: Mapping[str, str]
    config_sha256: str
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    paths: Paths


SECTIONS = ("model", "scaling", "dataset", "distillation", "safety", "training", "evaluation", "gate", "export", "alerts")


def settings_of(job: ResolvedJob) -> dict[str, Any]:
    """The settings of a job without origins, versions, paths and remarks: what a human decides about."""
    settings: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    for name in SECTIONS:
        settings[name] = plain(asdict(getattr(job, name)))
    settings["probes"] = list(job.probes)
    settings["seed"] = job.seed
    return settings


def plain(value: Any) -> Any:
    """`value` with tuples as lists, mappings as dicts and paths as strings, ready for JSON and YAML."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value
