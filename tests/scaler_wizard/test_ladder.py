"""What ends or precedes a rung: scores under their floor, and the calibration pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from helpers.small_job import small_job
from helpers.tiny_random import byte_tokenizer
from modelwright.checkpoints import CheckpointStore
from modelwright.files import read_json, read_jsonl
from modelwright.metrics import read_metrics
from modelwright.record import read_record
from scaler_wizard.cockpit import validate
from scaler_wizard.evaluation import synthetic_text
from scaler_wizard.runner import run_job

TWO_RUNGS = {"growth": "single_shot", "train_embeddings": "off"}
QUICK = {"eval_every": 0, "eval_tokens": 512}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.timeout(600)
def test_scores_under_the_floor_end_the_climb_at_the_last_good_rung(tmp_path: Path) -> None:
    """A learning rate that ruins the second rung: its score falls, the first one is kept and exported, exit code 0."""
    rungs = {"512": {"steps": 2, "learning_rate": 1e-3}, "2048": {"steps": 2, "learning_rate": 1.0}}
    job = small_job(
        tmp_path,
        scaling={"growth": "single_shot", "train_embeddings": "on"},
        training={"rungs": rungs},
        evaluation={**QUICK, "halt_window": 1, "floor_ratio": 0.9},
        gate={"max_growth": 4.0},
        alerts={"canonical_sentence": "All is well."},
    )
    result = run_job(job)
    run = tmp_path / "run"
    assert (result.status, result.exit_code, result.achieved_context, result.target_context) == ("completed", 0, 512, 2048)
    shortfall = "stopped below 2048 tokens: sliding_ppl fell under 0.9 x its base score"
    assert shortfall in result.message
    assert (read_record(run).status, read_record(run).exit_code) == ("completed", 0)
    payload = read_json(run / "cockpit_payload.json")
    assert validate(payload).ok and payload["status"] == "completed" and shortfall in payload["statusMessage"]
    telegram = read_json(run / "telegram.json")
    assert (telegram["action"], telegram["reason"], telegram["triggers"]) == ("warn", shortfall, ["score_floor"])
    (halted,) = [event for event in read_jsonl(run / "events.jsonl").records if event["event"] == "context/halted"]
    assert (halted["length"], halted["probes"]) == (2048, ["sliding_ppl"])

    metadata = read_json(run / "run_metadata.json")
    assert [rung["length"] for rung in metadata["rungs"] if rung["promoted"]] == [512]
    store = CheckpointStore(run / "checkpoints", writer=False)
    names = {found.name for found in store.list()}
    assert "rung_512" in names and not names & {"rung_2048", "phase_2", "phase_3"}
    kept, last = store.get("rung_512").path, store.get("phase_4").path
    for folder in (last, run / "adapters"):
        assert (folder / "adapter_model.safetensors").read_bytes() == (kept / "adapter_model.safetensors").read_bytes()
    config = read_json(run / "model" / "config.json")
    assert config["max_position_embeddings"] == 512 and "context_extension" not in config
    (results,) = (run / "benchmarks" / "results").glob("*.json")
    found = read_json(results)
    assert found["achieved_context"] == 512 and found["shortfall"] == shortfall
    assert payload["qualityMetrics"]["perplexity"] == pytest.approx(found["final"]["perplexity"]["512"])


@pytest.mark.timeout(600)
def test_calibration_measures_generated_text_at_every_rung(tmp_path: Path) -> None:
    """The figure depends on the model and not on the dataset: before anything is trained two datasets give one number."""
    values = []
    for name in ("one", "two"):
        job = small_job(
            tmp_path,
            name,
            scaling=TWO_RUNGS,
            training={"steps_per_rung": 1},
            evaluation={**QUICK, "calibrate": True},
            gate={"max_growth": 4.0},
        )
        if name == "two":
            data = tmp_path / "other.jsonl"
            data.write_text("".join(json.dumps({"text": f"{n} " * 900}) + "\n" for n in range(12)), encoding="utf-8")
            job["dataset"] = {"source": "local_upload", "identifier": str(data)}
        assert run_job(job).status == "completed"
        found = list(read_metrics(tmp_path / name / "metrics.jsonl").matching("context/calibration_perplexity"))
        assert [event["length"] for event in found] == [512, 2048]
        values.append([event["value"] for event in found])
    assert values[0][0] == values[1][0] and values[0][0] != values[0][1]


def test_generated_text_fills_the_length_whatever_the_seed() -> None:
    tokenizer = byte_tokenizer()
    texts = [synthetic_text(tokenizer, 4096, seed) for seed in (1, 2)]
    assert texts[0] != texts[1] and all(len(tokenizer(text)["input_ids"]) >= 4096 for text in texts)


@pytest.mark.timeout(600)
def test_a_calibration_that_is_not_finite_stops_before_the_rung_trains(tmp_path: Path) -> None:
    """An attention factor beyond float32 makes every logit of the expanded model NaN; the base rung stays."""
    job = small_job(
        tmp_path,
        scaling={**TWO_RUNGS, "method_params": {"attention_factor": 1e30}},
        training={"steps_per_rung": 1},
        evaluation={**QUICK, "calibrate": True},
        gate={"max_growth": 4.0},
    )
    result = run_job(job)
    run = tmp_path / "run"
    assert (result.status, result.exit_code, result.achieved_context) == ("stopped", 6, 512)
    assert "calibration pass at 2048 tokens failed" in result.message
    telegram = read_json(run / "telegram.json")
    assert (telegram["action"], telegram["triggers"]) == ("stop", ["nonfinite"])
    assert [step for step, _ in read_metrics(run / "metrics.jsonl").series("train/loss")] == [1]
    assert not (run / "checkpoints" / "rung_2048").exists()
