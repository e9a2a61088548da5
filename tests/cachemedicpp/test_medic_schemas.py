"""Every file of the room has a schema: real documents pass it and come back unchanged, damaged ones do not."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from cachemedicpp.config.settings import DEFAULT_PRESETS, load_run_config, resolved_document
from cachemedicpp.schemas import OWNER, SCHEMAS
from cachemedicpp.training.checkpoint_keys import GPU_STATE_KEYS, REPAIR_KEYS, STATE_KEYS, check_keys
from modelwright.clock import ManualClock, stamp
from modelwright.errors import DamagedFileError
from modelwright.files import JsonlAppender, read_json, read_jsonl, write_json
from modelwright.schema_registry import DIALECT, FOLDER, json_schema

NOW = stamp(ManualClock().now(), millis=True)
HASH = "0123456789abcdef" * 4
BY_NAME = {artifact.name: artifact for artifact in SCHEMAS}
ENVIRONMENT = {"python": "3.11.2", "torch": "2.13.0", "transformers": "5.23.0", "cuda": None, "gpu_name": None}
GIT = {"commit": None, "dirty": None}
BEAT = {
    "run_id": "r", "timestamp_utc": NOW, "status": "running", "reason": "heartbeat", "step": 50, "total_steps": 100, "progress": 0.5,
    "steps_remaining": 50, "elapsed_wall_sec": 25.0, "steps_per_sec": 2.0, "eta_sec": 25.0, "resumed_from": None,
}  # fmt: skip
LINE = {"run_id": "r", "timestamp_utc": NOW, "step": 50}
SENSITIVITY = {
    "value": 2.0, "value_at_zero": 0.5, "excess": 1.5, "response": 1.9, "standard_error": 0.2, "excess_standard_error": 0.1,
    "response_standard_error": None, "per_prompt": [1.5, 2.5],
}  # fmt: skip
CHECKPOINT = {"step": 4, "sha256": HASH, "file": None}
POINT = {
    "delta_norm": 1.0, **dict.fromkeys(("baseline", "heuristics", "cachemedic"), SENSITIVITY),
    "cachemedic_no_contr": None, "delta_pair_norm": 1.0, "delta_pair_rel_norm": 0.1, "delta_k_rel_norm": 0.1, "delta_v_rel_norm": 0.1,
}  # fmt: skip
PROGRESS = {
    "run_id": "r", "config_hash": HASH, "status": "running", "reason": "progress", "created_utc": NOW, "updated_utc": NOW,
    "total_units": 8, "completed_units": 1, "elapsed_wall_sec": 2.5, "resumed_from": None,
}  # fmt: skip
RECORD = {
    "unit_key": "corr|wikitext2_ppl|cachemedic|gaussian|0.08", "stage": "corr", "task": "wikitext2_ppl", "corruption_type": "gaussian",
    "epsilon": 0.08, "defense": "cachemedic", "value": None, "score": 0.0, "tokens": 0, "elapsed_sec": 0.1, "gpu_mem_gb": None,
}  # fmt: skip
DONE = {"status": "completed", "reason": "completed", "exit_code": 0}
SKIPPED = {"status": "skipped", "reason": "train_failed"}

DOCUMENTS: list[tuple[str, dict[str, Any]]] = [
    ("medic-run-config", resolved_document(load_run_config(DEFAULT_PRESETS[0]))),
    (
        "medic-sweep-config",
        {
            "sweep_name": "s", "base_config": "../mve.yaml", "out_root": None, "runs": [{"name": "a", "overrides": {"seed": 1}}],
            "budget": None,
        },
    ),
    (
        "medic-run-record",
        {
            "run_id": "r", "created_utc": NOW, "command": ["python", "-m", "cachemedicpp.train"], "config_path": "c.yaml",
            "config_hash": HASH, "git": GIT, "env": {**ENVIRONMENT, "runtime_dtype": "float32", "peft": "0.21"},
        },
    ),
    ("medic-environment", {**ENVIRONMENT, "runtime_dtype": None, "platform": "Linux"}),
    ("medic-git", {"commit": "a" * 40, "dirty": True}),
    (
        "medic-log-record",
        {
            **LINE, "phase": "train", "loss_total": 1.0, "loss_kd": 1.0, "loss_id": 0.0, "loss_contr": 0.0, "rho_mean": None,
            "rho_p95": None, "corruption": {"type": "none", "epsilon": 0.0, "head_count_mean": 0.0, "time_count_mean": 0.0},
            "tokens_per_sec": 10.0, "gpu_mem_gb": None, "step_wall_sec": 0.1,
        },
    ),
    ("medic-log-record", {**LINE, "phase": "train_control", "event": "paused", "reason": "pause_request", "resume_state": "s.pt"}),
    ("medic-log-record", {**LINE, "phase": "train_control", "event": "completed", "reason": None, "resume_state": None}),
    (
        "medic-log-record",
        {
            **LINE, "phase": "eval", "epsilon": 0.05, "best_heuristic": "smoothing", "score_no_defense": 0.1, "score_best_heuristic": 0.1,
            "score_cachemedic": 0.2, "tokens_per_sec": 9.0, "gpu_mem_gb": None,
        },
    ),
    ("medic-log-record", {**LINE, "phase": "sweep", "run": "a", "event": "started"}),
    ("medic-log-record", {**LINE, "phase": "plots", "event": "completed", "inputs": {"config_resolved.yaml": HASH}, "outputs": {}}),
    (
        "medic-train-heartbeat",
        {
            **BEAT, "phase": "train", "tokens_per_sec": None, "gpu_mem_gb": None, "latest_repair_checkpoint": None,
            "latest_train_state": "train_state_latest.pt", "loss_total": 0.5, "error": None,
        },
    ),
    ("medic-eval-heartbeat", {**BEAT, "phase": "eval", "current_unit": {"unit_key": "clean|a|b|none|0"}, "error": None}),
    (
        "medic-stability-heartbeat",
        {**BEAT, "phase": "stability", "error": None, "current_unit": {"kind": "curve", "delta_norm": 1.0, "layer": None}},
    ),
    ("medic-plots-heartbeat", {**BEAT, "phase": "plots", "error": None}),
    ("medic-sweep-heartbeat", {**BEAT, "phase": "sweep", "error": None, "current_unit": {"run": "a", "phase": "train"}}),
    (
        "medic-train-pause-ack",
        {"run_id": "r", "status": "paused", "reason": "keyboard_interrupt", "step": 3, "timestamp_utc": NOW, "resume_state": None},
    ),
    (
        "medic-unit-pause-ack",
        {
            "phase": "eval", "run_id": "r", "status": "paused", "reason": "pause_request", "timestamp_utc": NOW,
            "resume_state": "metrics/eval_progress.json", "completed_units": 1, "total_units": 8, "elapsed_wall_sec": 1.5,
        },
    ),
    (
        "medic-task-metrics",
        {
            "run_id": "r", "config_hash": HASH,
            "metrics": {
                "task_curves": [{
                    "task": "sst2_prompted", "corruption_type": "gaussian", "epsilon": 0.08, "defense": "cachemedic", "value": 0.7,
                    "score": 0.7, "standard_error": 0.03, "examples": 250, "harm": 0.1, "no_harm": False,
                }],
                "clean_metrics": {"sst2_prompted": {"no_defense": 0.7, "cachemedic": {"value": 0.7, "standard_error": 0.03}}},
                "score_vs_eps": {"eps": [0.0, 0.08], "no_defense": [0.7, 0.6], "best_heuristic": [0.7, 0.6], "cachemedic": [0.7, 0.65]},
                "best_heuristic_name": "smoothing", "heuristic_auc": {"smoothing": 0.05}, "robustness_auc": {"cachemedic": 0.05},
                "clean_regression": {"cachemedic": 0.7},
                "overhead": {"cachemedic": {"tokens_per_sec": 10.0, "wall_time_sec": 1.0, "gpu_mem_gb": None}},
                "relative_score": {}, "paired": [], "decode_overhead": None,
            },
            "settings": {
                "tasks": ["sst2_prompted"], "eps": [0.0, 0.08], "types": ["gaussian"], "ood_protocol": None, "checkpoint_loaded": True,
                "data_source": {"sst2": "offline"}, "runtime_dtype": "float32",
            },
        },
    ),
    ("medic-eval-progress", {**PROGRESS, "phase": "eval", "records": [RECORD]}),
    (
        "medic-eval-example",
        {
            "run_id": "r", "unit_key": RECORD["unit_key"], "task": "sst2_prompted", "defense": "cachemedic", "example": 0, "value": 1.0,
            "tokens": 2,
        },
    ),
    (
        "medic-stability-metrics",
        {
            "run_id": "r", "config_hash": HASH,
            "metrics": {
                "stability.logit_sensitivity": [POINT],
                "stability.amplification_map": {
                    "layers": [1], "heads": [0, 1], "baseline": [[1.0, 2.0]], "cachemedic": [[1.0, None]],
                    "cachemedic_response": [[0.9, None]],
                },
                "stability.settings": {
                    "num_prompts": 8, "num_directions": 2, "topk_logits": 256, "time_mode": "old_only", "N_recent": 16,
                    "amplification_delta_norm": 1.0, "best_heuristic_name": "smoothing", "checkpoint_loaded": True,
                    "cachemedic_no_contr_source": "missing_pair", "delta_injection_shared_across_variants": True, "skipped_prompts": 0,
                    "distinct_prompts": 8, "window": None, "best_heuristic_source": "default", "cachemedic_no_contr_checkpoint": CHECKPOINT,
                },
            },
            "settings": {
                "delta_norms": [0.0, 1.0], "layers": [1], "heads": [0, 1], "repair_checkpoint": CHECKPOINT, "data_source": None,
                "runtime_dtype": "float32", "inject": "stored",
            },
        },
    ),
    (
        "medic-stability-progress",
        {
            **PROGRESS, "phase": "stability", "curve_points": [POINT],
            "amp_rows": [{"layer": 1, "baseline": [1.0], "cachemedic": [0.9], "cachemedic_response": [0.8]}],
            "settings": {"best_heuristic_name": "smoothing"},
        },
    ),
    (
        "medic-sweep-summary",
        {
            "sweep_name": "s", "base_config": "mve.yaml", "num_runs": 1, "budget": None, "status": "completed", "paused_run": None,
            "runs": [{
                "name": "a", "run_dir": "out/s/a", "overrides": {"seed": 1}, "train": DONE | {"error": None},
                "eval": SKIPPED | {"error": None, "exit_code": None}, "stability": SKIPPED | {"error": None, "exit_code": None},
                "plots": SKIPPED | {"error": None, "exit_code": None},
            }],
        },
    ),
]  # fmt: skip


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json_schema(BY_NAME[name]))


def test_every_schema_is_valid_exercised_committed_and_registered() -> None:
    assert {name for name, _ in DOCUMENTS} == set(BY_NAME)
    for artifact in SCHEMAS:
        assert artifact.owner == OWNER and artifact.name.startswith("medic-")
        schema = json_schema(artifact)
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["$schema"] == DIALECT and read_json(FOLDER / f"{artifact.name}.json") == schema
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["modelwright.schemas"]["cachemedicpp"] == "cachemedicpp.schemas:SCHEMAS"


@pytest.mark.parametrize(("name", "document"), DOCUMENTS, ids=[f"{name}-{number}" for number, (name, _) in enumerate(DOCUMENTS)])
def test_a_document_passes_and_comes_back_unchanged(name: str, document: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "document.json", document)
    with JsonlAppender(tmp_path / "lines.jsonl") as lines:
        lines.append(document)
    (line,) = read_jsonl(tmp_path / "lines.jsonl").records
    for read in (read_json(tmp_path / "document.json"), line):
        validator(name).validate(read)
        adapter = TypeAdapter(BY_NAME[name].model)
        assert adapter.dump_python(adapter.validate_python(read), mode="json", by_alias=True) == document


@pytest.mark.parametrize(("name", "document"), DOCUMENTS, ids=[f"{name}-{number}" for number, (name, _) in enumerate(DOCUMENTS)])
def test_a_missing_required_field_is_refused_by_model_and_schema(name: str, document: dict[str, Any]) -> None:
    schema = json_schema(BY_NAME[name])
    required = set(schema.get("required", []))
    if "oneOf" in schema:
        line = {"train": "TrainLine", "train_control": "TrainControlLine", "eval": "EvalLine"}.get(document["phase"], "PlainLine")
        required = set(schema["$defs"][line]["required"])
    assert required
    for field in required:
        damaged = {key: value for key, value in copy.deepcopy(document).items() if key != field}
        assert not validator(name).is_valid(damaged), field
        with pytest.raises(ValidationError):
            TypeAdapter(BY_NAME[name].model).validate_python(damaged)


@pytest.mark.parametrize(
    "name", ["medic-run-record", "medic-task-metrics", "medic-stability-metrics", "medic-sweep-config", "medic-run-config"]
)
def test_closed_documents_take_no_further_key(name: str) -> None:
    document = next(document for kind, document in DOCUMENTS if kind == name)
    assert not validator(name).is_valid({**document, "stranger": 1})


@pytest.mark.parametrize("phase", ["train", "eval", "stability", "plots", "sweep"])
def test_a_failed_heartbeat_says_why(phase: str) -> None:
    name = f"medic-{phase}-heartbeat"
    document = dict(next(document for kind, document in DOCUMENTS if kind == name)) | {"status": "failed", "reason": "ValueError"}
    del document["error"]
    assert not validator(name).is_valid(document)
    assert validator(name).is_valid({**document, "error": "a shape is wrong"})
    with pytest.raises(ValidationError, match="error"):
        TypeAdapter(BY_NAME[name].model).validate_python(document)


def test_times_have_milliseconds_and_phases_are_known() -> None:
    log = next(document for kind, document in DOCUMENTS if kind == "medic-log-record")
    assert validator("medic-log-record").is_valid(log)
    assert not validator("medic-log-record").is_valid({**log, "timestamp_utc": "2026-01-01T00:00:00Z"})
    assert not validator("medic-log-record").is_valid({**log, "phase": "rest"})


def test_a_run_configuration_as_written_passes_its_schema() -> None:
    """The schema asks for what the specification requires; derived values may be left out of the file."""
    document = yaml.safe_load(DEFAULT_PRESETS[1].read_text(encoding="utf-8"))
    del document["stability"]["layers"]
    validator("medic-run-config").validate(document)


def test_checkpoints_have_exactly_their_keys() -> None:
    repair = dict.fromkeys(REPAIR_KEYS)
    assert check_keys(repair, "repair_step_1.pt", "repair") == repair
    check_keys(dict.fromkeys(STATE_KEYS | GPU_STATE_KEYS), "train_state_latest.pt", "state")
    with pytest.raises(DamagedFileError, match="missing keys: corruption_state; unknown keys: extra"):
        check_keys(dict.fromkeys((STATE_KEYS - {"corruption_state"}) | {"extra"}), "train_state_latest.pt", "state")
    with pytest.raises(DamagedFileError, match="list"):
        check_keys([1], "repair_step_1.pt", "repair")
