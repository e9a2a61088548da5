"""The artifacts of CacheMedic that have a pydantic model, for the kernel's schema registry. Imports no torch."""

from __future__ import annotations

from cachemedicpp.config.sections import RunConfig
from cachemedicpp.config.sweeps import SweepConfig
from cachemedicpp.phases import metric_models as metrics
from cachemedicpp.phases import record_models as records
from modelwright.schema_registry import ArtifactSchema

OWNER = "cachemedicpp"

SCHEMAS: tuple[ArtifactSchema, ...] = (
    ArtifactSchema(
        "medic-run-config", 1, RunConfig, OWNER, "the file given with --config; config_resolved.yaml; sweep_resolved_config.yaml"
    ),
    ArtifactSchema("medic-sweep-config", 1, SweepConfig, OWNER, "the file given with --sweep_config"),
    ArtifactSchema("medic-run-record", 1, records.MedicRunRecord, OWNER, "run_record.json"),
    ArtifactSchema("medic-environment", 1, records.EnvironmentFile, OWNER, "env.json"),
    ArtifactSchema("medic-git", 1, records.GitState, OWNER, "git.json"),
    ArtifactSchema(
        "medic-log-record",
        1,
        records.LogRecord,
        OWNER,
        "lines of logs/train.jsonl, logs/eval.jsonl, logs/stability.jsonl and logs/plots.jsonl",
    ),
    ArtifactSchema("medic-train-heartbeat", 1, records.TrainHeartbeat, OWNER, "logs/train_heartbeat.json and .jsonl"),
    ArtifactSchema("medic-eval-heartbeat", 1, records.EvalHeartbeat, OWNER, "logs/eval_heartbeat.json and .jsonl"),
    ArtifactSchema("medic-stability-heartbeat", 1, records.StabilityHeartbeat, OWNER, "logs/stability_heartbeat.json and .jsonl"),
    ArtifactSchema("medic-plots-heartbeat", 1, records.PlotsHeartbeat, OWNER, "logs/plots_heartbeat.json and .jsonl"),
    ArtifactSchema("medic-sweep-heartbeat", 1, records.SweepHeartbeat, OWNER, "<sweep_name>/logs/sweep_heartbeat.json and .jsonl"),
    ArtifactSchema("medic-train-pause-ack", 1, records.TrainPauseAck, OWNER, "control/pause_ack.json"),
    ArtifactSchema(
        "medic-unit-pause-ack", 1, records.UnitPauseAck, OWNER, "control/pause_ack_eval.json and control/pause_ack_stability.json"
    ),
    ArtifactSchema("medic-task-metrics", 1, metrics.TaskMetricsFile, OWNER, "metrics/task_metrics.json"),
    ArtifactSchema("medic-eval-progress", 1, metrics.EvalProgress, OWNER, "metrics/eval_progress.json"),
    ArtifactSchema("medic-eval-example", 1, metrics.ExampleRecord, OWNER, "lines of metrics/eval_examples.jsonl"),
    ArtifactSchema("medic-stability-metrics", 1, metrics.StabilityMetricsFile, OWNER, "metrics/stability_metrics.json"),
    ArtifactSchema("medic-stability-progress", 1, metrics.StabilityProgress, OWNER, "metrics/stability_progress.json"),
    ArtifactSchema("medic-sweep-summary", 1, records.SweepSummary, OWNER, "<sweep_name>_summary.json"),
)
