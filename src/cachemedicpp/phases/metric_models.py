"""What stands under `metrics/`: results and progress of evaluation and stability. (specs/medic.md, 5.3, 6.4-6.7, 8.5, 8.6)

The four keys of a metric record are fixed; inside `metrics` and `settings` further fields are allowed. A value may be null
when it is not finite (a perplexity without tokens). Fields of more than the original say so by having a default.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from cachemedicpp.phases.record_models import Closed, Open, Sha256, Stamp, Status

# ---------------------------------------------------------------------- evaluation


class CurvePoint(Open):
    """One cell of the grid, over all its examples. value: the task's metric. score: its share of the aggregate."""

    task: str
    corruption_type: str
    epsilon: float = Field(ge=0)
    defense: str
    value: float | None
    score: float | None
    standard_error: float | None = None
    examples: int | None = Field(None, ge=0)
    harm: float | None = Field(None, description="what the undefended model lost in this cell")
    no_harm: bool | None = Field(None, description="the undefended model is not measurably harmed here; no gate counts the cell")


class ScoreCurves(Open):
    """Mean score over tasks and types at each epsilon, curves of equal length."""

    eps: list[float]
    no_defense: list[float | None]
    best_heuristic: list[float | None]
    cachemedic: list[float | None]


class Overhead(Open):
    """Throughput of one defence over the whole grid, scored tokens per second."""

    tokens_per_sec: float | None
    wall_time_sec: float | None
    gpu_mem_gb: float | None


class TaskMetrics(Open):
    """`metrics` of `task_metrics.json`."""

    task_curves: list[CurvePoint]
    clean_metrics: dict[str, dict[str, float | dict[str, Any] | None]] = Field(description="task → defence → metric")
    score_vs_eps: ScoreCurves
    best_heuristic_name: str
    heuristic_auc: dict[str, float | None]
    robustness_auc: dict[str, float | None]
    clean_regression: dict[str, float | None] = Field(description="defence → mean clean score")
    overhead: dict[str, Overhead]
    relative_score: dict[str, Any] | None = Field(None, description="metric / clean undefended metric, mean over tasks")
    paired: list[dict[str, Any]] | None = Field(None, description="paired bootstrap intervals between defences")
    decode_overhead: list[dict[str, Any]] | None = Field(None, description="the separate benchmark of prefill and decode")


class TaskMetricsSettings(Open):
    """`settings` of `task_metrics.json`."""

    tasks: list[str | dict[str, Any]]
    eps: list[float]
    types: list[str]
    ood_protocol: str | None
    checkpoint_loaded: bool | str
    data_source: dict[str, Any] | str | None = Field(None, description="where every text came from, with split, lines and hash")
    runtime_dtype: str | None = None


class TaskMetricsFile(Closed):
    """`metrics/task_metrics.json`."""

    run_id: str
    config_hash: Sha256
    metrics: TaskMetrics
    settings: TaskMetricsSettings


class EvalRecord(Open):
    """A finished evaluation unit; `unit_key` is `stage|task|defense|type|eps`."""

    unit_key: str
    stage: Literal["clean", "corr"]
    task: str
    corruption_type: str | None
    epsilon: float = Field(ge=0)
    defense: str
    value: float | None
    score: float | None
    tokens: int = Field(ge=0)
    elapsed_sec: float = Field(ge=0)
    gpu_mem_gb: float | None


class ExampleRecord(Open):
    """A line of `metrics/eval_examples.jsonl`: one example in one unit, what paired intervals are made of."""

    run_id: str
    unit_key: str
    task: str
    defense: str
    example: int = Field(ge=0, description="number of the example within its task, equal in all units")
    value: float | None = Field(description="summed negative log-likelihood (nats), or 1 for a right answer and 0 for a wrong one")
    tokens: int = Field(ge=0)


class Progress(Open):
    """What both progress files hold."""

    run_id: str
    config_hash: Sha256
    status: Status
    reason: str
    created_utc: Stamp
    updated_utc: Stamp
    total_units: int = Field(ge=0)
    completed_units: int = Field(ge=0)
    elapsed_wall_sec: float = Field(ge=0)
    resumed_from: str | None


class EvalProgress(Progress):
    """`metrics/eval_progress.json`."""

    phase: Literal["eval"]
    records: list[EvalRecord]


# ---------------------------------------------------------------------- stability


class CheckpointIdentity(Open):
    """A repair file; when its step or content changes, results no longer belong to it."""

    step: int = Field(ge=0)
    sha256: Sha256
    file: str | None = Field(None, description="relative to the run")


class Sensitivity(Open):
    """Mean logit drift (L2) of one variant from the clean unrepaired logits; `excess = value - value_at_zero`.

    Standard errors are over prompts; prompts made of the same line count as one.
    """

    value: float | None
    value_at_zero: float | None
    excess: float | None
    response: float | None = Field(None, description="mean drift from the variant's own undisturbed logits")
    standard_error: float | None = Field(None, description="of value")
    excess_standard_error: float | None = None
    response_standard_error: float | None = None
    per_prompt: list[float | None] | None = Field(None, description="value of every prompt, mean over the directions")


class SensitivityPoint(Open):
    """One point of the sensitivity curves at the perturbation norm `delta_norm`."""

    delta_norm: float = Field(ge=0)
    baseline: Sensitivity
    heuristics: Sensitivity
    cachemedic: Sensitivity
    cachemedic_no_contr: Sensitivity | None = Field(description="null without a counterpart")
    delta_pair_norm: float | None
    delta_pair_rel_norm: float | None
    delta_k_rel_norm: float | None
    delta_v_rel_norm: float | None


class AmplificationMap(Open):
    """Median logit drift per unit of perturbation, `[layers][heads]`."""

    layers: list[int]
    heads: list[int]
    baseline: list[list[float | None]]
    cachemedic: list[list[float | None]] = Field(description="repair in that layer only, from the clean unrepaired logits")
    cachemedic_response: list[list[float | None]] | None = Field(None, description="the same, from the repaired undisturbed logits")


class StabilityDetails(Open):
    """`stability.settings` of the stability metrics."""

    num_prompts: int = Field(ge=0)
    num_directions: int = Field(ge=1)
    topk_logits: int = Field(ge=1)
    time_mode: str
    N_recent: int = Field(ge=0)
    amplification_delta_norm: float
    best_heuristic_name: str
    checkpoint_loaded: bool | str
    cachemedic_no_contr_source: str = Field(description="self, a path, missing_pair or pair_checkpoint_missing")
    delta_injection_shared_across_variants: bool
    skipped_prompts: int | None = Field(None, ge=0, description="lines passed over, shorter than N_recent + 16 tokens")
    distinct_prompts: int | None = Field(None, ge=0, description="different lines among the prompts")
    window: list[int] | None = Field(None, description="[a, b) of the time mode window")
    best_heuristic_source: str | None = Field(None, description="task_metrics.json, or default where there was no evaluation")
    cachemedic_no_contr_checkpoint: CheckpointIdentity | None = None


class StabilityMetrics(Open):
    """`metrics` of `stability_metrics.json`; its keys are written with their dots."""

    model_config = ConfigDict(extra="allow", protected_namespaces=(), populate_by_name=True)

    logit_sensitivity: list[SensitivityPoint] = Field(alias="stability.logit_sensitivity")
    amplification_map: AmplificationMap = Field(alias="stability.amplification_map")
    details: StabilityDetails = Field(alias="stability.settings")


class StabilityMetricsSettings(Open):
    """`settings` of `stability_metrics.json`."""

    delta_norms: list[float]
    layers: list[int]
    heads: list[int]
    repair_checkpoint: CheckpointIdentity | None = Field(None, description="null for an untrained operator")
    data_source: dict[str, Any] | str | None = Field(None, description="where the prompts came from, with split, lines and hash")
    runtime_dtype: str | None = None
    inject: Literal["stored", "inline"] | None = None


class StabilityMetricsFile(Closed):
    """`metrics/stability_metrics.json`."""

    run_id: str
    config_hash: Sha256
    metrics: StabilityMetrics
    settings: StabilityMetricsSettings


class AmplificationRow(Open):
    """A finished layer of the amplification map."""

    layer: int = Field(ge=0)
    baseline: list[float | None]
    cachemedic: list[float | None]
    cachemedic_response: list[float | None] | None = None


class StabilityProgress(Progress):
    """`metrics/stability_progress.json`."""

    phase: Literal["stability"]
    curve_points: list[SensitivityPoint]
    amp_rows: list[AmplificationRow]
    settings: dict[str, Any]
