"""The job document: the plugin's job schema as pydantic models, and the defaults of every setting.

A document given with `--config` or to `runner.run_job` must hold the sections model, scaling, dataset, safety and contract
(the last because no run starts without consent); the other sections are optional. A field left out takes the value of a
lower layer, and the defaults written here are the lowest layer. Flags, `--set` and the document all address the same
dotted paths, so there is one schema for the three. templates/plugin_interface.yaml is `job_schema()` written out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from modelwright.config import shown
from modelwright.errors import Fault

TARGET_MIN, TARGET_MAX = 2048, 131072
TEMPLATE_IDS = ("balanced_scaling", "max_context", "max_parameters", "budget_context", "reasoning_boost", "creative_fusion")
REQUIRED_SECTIONS = ("model", "scaling", "dataset", "safety", "contract")
_TEMPLATE_SCHEMA = {
    "anyOf": [
        {"enum": ["auto", *TEMPLATE_IDS]},
        {"type": "string", "description": "id of a template in the user's own templates folder"},
    ]
}


class Section(BaseModel):
    """A part of the job document: unknown keys are faults, values are not coerced across kinds."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class ModelSection(Section):
    base_model: str = Field(min_length=1, description="local directory with config.json, or hub id")
    tokenizer: str | None = Field(default=None, description="local directory or hub id; the base model's own when left out")
    revision: str | None = None
    runtime: Literal["auto", "cpu", "single_gpu", "multi_gpu", "remote"] = "auto"
    resize_embeddings: bool = False


class ScalingSection(Section):
    strategy: str = "lora"
    adaptive_rank: bool = True
    lora_rank: int | None = Field(default=None, ge=1, le=512)
    lora_alpha: int | None = Field(default=None, ge=1)
    lora_dropout: float | None = Field(default=None, ge=0, lt=1)
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    capacity_multiplier: float = Field(default=1.0, gt=0)
    prefer_low_memory: bool = False
    train_embeddings: Literal["auto", "on", "off"] = "auto"
    target_context: int | None = Field(default=None, ge=TARGET_MIN, le=TARGET_MAX)
    context_schedule: list[Annotated[int, Field(gt=0)]] | None = None
    growth: Literal["double", "single_shot", "two_stage"] = "double"
    context_multiplier: int | None = Field(default=None, ge=1, le=1024)
    context_method: str = "auto"
    method_params: dict[str, Any] = Field(default_factory=dict)
    yarn_ramp: Literal["index", "paper"] = "index"
    template: Annotated[str, Field(json_schema_extra=_TEMPLATE_SCHEMA)] = "auto"
    use_case: Literal["default", "long_context", "reasoning", "creative"] = "default"


class DatasetSection(Section):
    source: Literal["huggingface_hub", "local_upload", "synthetic"] = "synthetic"
    identifier: str = Field(default="mixed", min_length=1)
    split: str | None = None
    options: dict[str, str] = Field(default_factory=dict, description="text_field of local and hub data; n, seed of synthetic")
    weak_supervision: bool = False


class DistillationSection(Section):
    use_distillation: bool = False
    teacher_model: str | None = None


class CircuitBreakerSection(Section):
    mode: Literal["classic", "robust"] = "classic"
    window_steps: int = Field(default=10, ge=5, le=100)
    max_perplexity_delta: float = Field(default=0.15, gt=0)
    min_accuracy: float = Field(default=0.5, ge=0, le=1)
    hard_stop: bool = True


class TelemetrySection(Section):
    emit_metrics: bool = True
    destination: Literal["local", "http", "websocket"] = "local"
    endpoint: str | None = Field(default=None, description="http(s):// address that receives events when destination is http")
    profile: Literal["standard", "high_resolution", "detailed", "exploratory"] = "standard"
    flush_every: int = Field(default=1, ge=1)


class SafetySection(Section):
    persona: Literal["conservative", "balanced", "experimental"] = "balanced"
    circuit_breaker: CircuitBreakerSection = Field(default_factory=CircuitBreakerSection)
    telemetry: TelemetrySection = Field(default_factory=TelemetrySection)


class RungOverride(Section):
    """What one rung does differently; the key in `training.rungs` is its length in tokens."""

    steps: int | None = Field(default=None, ge=0)
    learning_rate: float | None = Field(default=None, gt=0)
    native_fraction: float | None = Field(default=None, ge=0, le=1)
    micro_batch_size: int | None = Field(default=None, ge=1)
    gradient_accumulation: int | None = Field(default=None, ge=1)


class TrainingSection(Section):
    steps_per_rung: int = Field(default=400, ge=1)
    learning_rate: float = Field(default=2e-5, gt=0)
    embedding_learning_rate: float | None = Field(default=None, gt=0)
    lr_scheduler: Literal["constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    warmup_steps: int = Field(default=20, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.95, ge=0, lt=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    micro_batch_size: int = Field(default=1, ge=1)
    gradient_accumulation: int = Field(default=1, ge=1)
    micro_batch_tokens: int | None = Field(default=None, ge=1, description="tokens per forward pass; sets micro_batch_size per rung")
    batch_tokens: int | None = Field(default=None, ge=1, description="tokens per optimizer step; sets gradient_accumulation per rung")
    max_train_tokens: int | None = Field(default=None, ge=1)
    native_fraction: float = Field(default=0.2, ge=0, le=1)
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    loss_chunk: int = Field(default=1024, ge=16)
    save_every: int = Field(default=50, ge=0)
    pack: bool = True
    rungs: dict[int, RungOverride] = Field(default_factory=dict)


class EvaluationSection(Section):
    probe_samples: int = Field(default=20, ge=1, le=1000)
    eval_every: int = Field(default=25, ge=0)
    eval_tokens: int = Field(default=16384, ge=256)
    calibrate: bool = False
    floor_ratio: float = Field(default=0.9, gt=0, le=1)
    halt_window: int = Field(default=3, ge=1)
    short_drop_warn: float = Field(default=2.0, ge=0)
    short_drop_stop: float = Field(default=5.0, ge=0)


class GateSection(Section):
    mode: Literal["contract", "prompt", "cockpit"] = "contract"
    timeout_s: float = Field(default=120.0, ge=0)
    max_growth: float = Field(default=2.0, ge=1)


class ExportSection(Section):
    merge: bool = False


class AlertsSection(Section):
    enable_voice: bool = True
    enable_visual: bool = True
    enable_telegram: bool = True
    canonical_sentence: str | None = Field(default=None, max_length=120)


class VoiceSection(Section):
    language: Literal["en-US", "pt-BR", "es-ES", "fr-FR", "de-DE", "zh-CN"] = "en-US"
    persona: str = "calm"


class ContractSection(Section):
    """Consent as the plugin passes it; `contract.verify` judges the values, this model only knows the names."""

    version: str | None = None
    authorized_by: str | None = None
    signoff: str | None = None
    approved_at: Any = None
    expires_at: Any = None
    rollback_plan: str | None = None
    session_id: str | None = None
    scope: dict[str, Any] | str | None = None
    config_sha256: str | None = None
    signature: dict[str, Any] | None = None


class Settings(Section):
    """Every setting of a job; the same fields for flags, `--set` and job documents."""

    model: ModelSection
    scaling: ScalingSection = Field(default_factory=ScalingSection)
    dataset: DatasetSection = Field(default_factory=DatasetSection)
    distillation: DistillationSection = Field(default_factory=DistillationSection)
    safety: SafetySection = Field(default_factory=SafetySection)
    training: TrainingSection = Field(default_factory=TrainingSection)
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)
    gate: GateSection = Field(default_factory=GateSection)
    export: ExportSection = Field(default_factory=ExportSection)
    alerts: AlertsSection = Field(default_factory=AlertsSection)
    voice: VoiceSection = Field(default_factory=VoiceSection)
    probes: list[str] = Field(default_factory=list)
    seed: int = Field(default=42, ge=0, lt=2**32)
    output_dir: str | None = None


class JobDocument(Settings):
    """A complete job as the plugin sends it: five sections are required."""

    scaling: ScalingSection
    dataset: DatasetSection
    safety: SafetySection
    contract: ContractSection


def missing_sections(document: Mapping[str, Any]) -> list[Fault]:
    """One fault per required section that a job document lacks, or that is no mapping."""
    consent = "a run cannot start without consent; see `python -m scaler_wizard.contract template`"
    faults = []
    for name in REQUIRED_SECTIONS:
        value = document.get(name)
        if value is None:
            todo = consent if name == "contract" else f"add {name}"
            faults.append(Fault(name, "nothing", "this section is required in a job document", todo))
        elif not isinstance(value, Mapping):
            faults.append(wrong_section(name, shown(value)))
    return faults


def wrong_section(path: str, found: str) -> Fault:
    """The fault of a section that is no mapping; `found` says what stands there instead."""
    section = ContractSection if path == "contract" else section_of(path)
    names = list(section.model_fields) if section is not None else []
    more = f" and {len(names) - 4} more" if len(names) > 5 else ""
    known = ", ".join(names[:4] if more else names)
    name = path.rsplit(".", 1)[-1]
    todo = f"write `{name}:` on a line of its own and its settings indented below it, one `name: value` per line"
    return Fault(path, found, f"a mapping of settings ({known}{more})", todo)


def section_of(path: str) -> type[BaseModel] | None:
    """The model of the section at a dotted path, or None when the path names a single value or nothing."""
    current: Any = Settings
    for part in path.split("."):
        info = getattr(current, "model_fields", {}).get(part)
        if info is None:
            return None
        current = info.annotation
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None


def job_schema() -> dict[str, Any]:
    """JSON Schema of `JobDocument`, as exported to templates/plugin_interface.yaml."""
    schema = JobDocument.model_json_schema()
    schema["title"] = "Scaler Wizard job"
    schema["x-requirements"] = {"transformers": ">=5.0", "peft": ">=0.20", "flash-attn": "optional"}
    return schema


def plugin_interface() -> str:
    """The text of templates/plugin_interface.yaml."""
    import yaml

    head = "# The job schema of the plugin, generated by `python -m scaler_wizard.job`; edit job.py instead.\n"
    return head + yaml.safe_dump(job_schema(), sort_keys=False, allow_unicode=True, width=120)


if __name__ == "__main__":
    from pathlib import Path

    Path(__file__).with_name("templates").joinpath("plugin_interface.yaml").write_text(plugin_interface(), encoding="utf-8")
