"""Acceptance 31 and 36: a tiny random Llama from P0 to P4 in three rungs, and everything it leaves behind."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import TypeAdapter

import scaler_wizard
from helpers.small_job import LENGTHS, small_job
from modelwright.checkpoints import CheckpointStore
from modelwright.files import read_json, read_jsonl
from modelwright.metrics import read_metrics
from modelwright.record import read_record
from scaler_wizard.cockpit import validate
from scaler_wizard.outcomes import RunResult
from scaler_wizard.runner import run_job
from scaler_wizard.telegram import Telegram


class Receiver(ThreadingHTTPServer):
    """A dashboard's side of the telemetry: keeps every event that was posted to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Posted)
        self.events: list[dict[str, Any]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/events"


class Posted(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        assert isinstance(self.server, Receiver)
        self.server.events += [json.loads(line) for line in body.splitlines()]
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the test's terminal."""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> RunResult:
    torch.set_num_threads(1)
    job = small_job(tmp_path_factory.mktemp("whole"))
    job["safety"].setdefault("telemetry", {}).update(destination="http", endpoint=receiver.address)
    return run_job(job)


def test_it_completes_at_the_target(result: RunResult) -> None:
    assert (result.status, result.exit_code, result.achieved_context) == ("completed", 0, LENGTHS[-1])
    assert "2048" in result.message
    record = read_record(result.run_dir)
    assert (record.status, record.exit_code, record.kind) == ("completed", 0, "scaler_wizard")
    assert [entry.phase for entry in record.entries] == ["P0", "P1", "P2", "P3", "P4"]
    assert {entry.status for entry in record.entries} == {"completed"}
    assert record.resume_command[-1] == "--resume"
    assert 0 < record.details["trainable_parameters"] < record.details["total_parameters"]


def test_every_artifact_is_there_and_valid(result: RunResult) -> None:
    run = result.run_dir
    assert validate(read_json(run / "cockpit_payload.json")).ok
    assert read_json(run / "cockpit_payload.json")["status"] == "completed"
    telegram = TypeAdapter(Telegram).validate_python(read_json(run / "telegram.json"))
    assert telegram["action"] == "continue" and isinstance(telegram["step"], str)
    config = yaml.safe_load((run / "config.resolved.yaml").read_text(encoding="utf-8"))
    assert config["scaling"]["context_schedule"] == list(LENGTHS)
    hardware = read_json(run / "hardware.json")
    assert hardware["memory_plan"]["fits"] and hardware["gpu_count"] == 0
    assert yaml.safe_load((run / "human_contract.yaml").read_text(encoding="utf-8"))["authorized_by"] == "A. Tester"
    measured = read_json(run / "memory.json")
    assert measured["predicted_bytes"] > 0 and measured["measured_bytes"] > 0
    (results,) = (run / "benchmarks" / "results").glob("*_model_balanced_scaling.json")
    found = read_json(results)
    assert set(found["final"]["perplexity"]) == {str(length) for length in LENGTHS}
    assert found["short_context"]["verdict"] in ("continue", "warn")
    for name in result.artifacts:
        assert (run / name).is_file()


def test_phases_and_rungs_are_promoted_with_sound_checkpoints(result: RunResult) -> None:
    metadata = read_json(result.run_dir / "run_metadata.json")
    assert metadata["phase"] == 4 and metadata["status"] == "completed"
    assert sorted(metadata["checkpoints"]) == [f"phase_{n}" for n in range(5)]
    store = CheckpointStore(result.run_dir / "checkpoints", writer=False)
    for phase, path in metadata["checkpoints"].items():
        assert store.verify(Path(path).name) == []
        assert store.get(Path(path).name).manifest_sha256 == metadata["manifests"][phase]
    assert [(rung["length"], rung["phase"], rung["promoted"]) for rung in metadata["rungs"]] == [
        (512, 1, True),
        (1024, 2, True),
        (2048, 3, True),
    ]
    rope = read_json(result.run_dir / "checkpoints" / "rung_1024" / "context.json")
    assert rope["rope_parameters"]["factor"] == 2.0 and rope["tokenizer_length"] == 1024
    assert "context_extension" not in read_json(result.run_dir / "checkpoints" / "phase_0" / "context.json")
    assert metadata["rope_parameters"]["factor"] == 4.0
    assert not list((result.run_dir / "checkpoints").rglob("*.bin"))


def test_logs_tell_the_story(result: RunResult) -> None:
    run = result.run_dir
    flight = read_jsonl(run / "logs" / "flight_log.jsonl").records
    assert [line["phase"] for line in flight] == ["P0", "P1", "P2", "P3", "P4"]
    assert set(flight[0]) >= {"runId", "phase", "status", "timestamp", "score"}
    starts = [e["length"] for e in read_jsonl(run / "events.jsonl").records if e["event"] == "context/rung_start"]
    assert starts == list(LENGTHS)
    metrics = read_metrics(run / "metrics.jsonl")
    assert not metrics.damage
    assert [step for step, _ in metrics.series("train/loss")] == list(range(1, 13))
    assert {e["length"] for e in metrics.matching("eval/perplexity", split="probe", phase="P3")} == set(LENGTHS)
    tokens = [value for _, value in metrics.series("train/tokens")]
    assert tokens[-1] == 4 * 512 + 4 * 1024 + 4 * 2048
    heartbeat = read_json(run / "heartbeat.json")
    assert (heartbeat["status"], heartbeat["step"], heartbeat["total_steps"]) == ("completed", 12, 12)


def test_training_changed_the_model(result: RunResult) -> None:
    losses = dict(read_metrics(result.run_dir / "metrics.jsonl").series("train/loss"))
    assert losses[4] < losses[1]


def test_load_sets_rope_and_adapters(result: RunResult) -> None:
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    run = result.run_dir
    model, tokenizer = scaler_wizard.load(run)
    assert tokenizer.model_max_length == LENGTHS[-1]
    assert model.config.max_position_embeddings == LENGTHS[-1]
    assert model.config.rope_parameters["rope_type"] == "yarn"
    base = read_json(run / "run.json")["config"]["model"]["base_model"]
    plain = AutoModelForCausalLM.from_pretrained(base, config=AutoConfig.from_pretrained(run / "model"), dtype=torch.float32)
    independent = PeftModel.from_pretrained(plain, str(run / "adapters")).eval()
    unscaled = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(run / "adapters")).eval()
    ids = torch.tensor([tokenizer("amber birch cedar " * 80)["input_ids"][:900]])
    with torch.no_grad():
        found, expected, without_rope = (m(input_ids=ids).logits for m in (model, independent, unscaled))
    assert torch.equal(found, expected)
    assert not torch.allclose(found, without_rope, atol=1e-3)


def test_a_finished_run_is_not_run_again(result: RunResult) -> None:
    job = json.loads((result.run_dir / "job.json").read_text(encoding="utf-8"))
    again = run_job(job)
    assert again.status == "completed" and "nothing to resume" in again.message
    assert read_record(result.run_dir).attempt == 1


def test_http_telemetry_gets_every_event_of_the_local_file(result: RunResult, receiver: Receiver) -> None:
    written = [(event["metric"], event.get("step")) for event in read_metrics(result.run_dir / "metrics.jsonl").events]
    assert len(written) > 20
    assert [(event["metric"], event.get("step")) for event in receiver.events] == written
