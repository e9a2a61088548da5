"""Running out of memory in a rung: once is met with a smaller micro-batch, twice ends the run with exit code 4.

And a pause in the middle of an evaluation, which leaves the loop the same way as one between two steps.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import modelwright
from helpers.small_job import small_job, write_model, write_text
from modelwright.control import ask
from modelwright.files import read_json, read_jsonl
from modelwright.metrics import read_metrics
from modelwright.record import read_record
from scaler_wizard.evaluation import Evaluator
from scaler_wizard.outcomes import ran_out_of_memory
from scaler_wizard.resolve import resolve_document
from scaler_wizard.runner import accept_contract, open_run, run_job
from scaler_wizard.session import Session
from scaler_wizard.strategies.lora import LoraStrategy

CHILD = Path(__file__).parents[1] / "helpers" / "limited_child.py"
LIMIT_MIB = 925  # measured: 16 windows need more than 1,150, 8 windows less than 700


def job_of(root: Path, steps: int, micro: int, **sections: Any) -> dict[str, Any]:
    """`steps` steps of `micro` windows at 512 tokens, one step of one window at 2048."""
    rungs = {"512": {"steps": steps, "micro_batch_size": micro, "gradient_accumulation": 1}, "2048": {"steps": 1}}
    return small_job(
        root,
        scaling={"growth": "single_shot", "train_embeddings": "off"},
        training={"rungs": rungs, "batch_tokens": None},
        evaluation={"eval_every": 0, "eval_tokens": 512},
        gate={"max_growth": 4.0},
        **sections,
    )


def shortages(run: Path) -> list[dict[str, Any]]:
    return [event for event in read_jsonl(run / "events.jsonl").records if event["event"] == "hardware/out_of_memory"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA counts all private memory on Linux only")
@pytest.mark.timeout(600)
def test_a_real_allocation_that_fails_is_met_with_half_the_micro_batch(tmp_path: Path) -> None:
    """A process whose memory holds eight windows of this model and not sixteen."""
    write_model(tmp_path / "model", intermediate_size=6144)
    write_text(tmp_path / "data.jsonl")
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job_of(tmp_path, 1, 16)), encoding="utf-8")
    source = str(Path(modelwright.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    child = subprocess.run(
        [sys.executable, str(CHILD), str(path), str(LIMIT_MIB)], env=environment, capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stdout[-2000:] + child.stderr[-2000:]
    (short,) = shortages(tmp_path / "run")
    assert (short["length"], short["micro_batch"]) == (512, 8) and "allocate" in short["reason"]
    record = read_record(tmp_path / "run")
    assert record.status == "completed" and record.details["halved_rungs"] == [512]


def failing_lora(monkeypatch: pytest.MonkeyPatch, fails: Any) -> list[int]:
    """LoRA models raise the accelerator's exception at each training forward for which `fails(number, windows)` holds;
    returns the windows of every training forward.
    """
    torch.set_num_threads(1)
    seen: list[int] = []
    prepare = LoraStrategy.prepare

    def watched(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if not module.training:
            return
        seen.append(int(kwargs["input_ids"].shape[0]))
        if fails(len(seen), seen[-1]):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore words")

    def prepared(self: LoraStrategy, model: Any, plan: Any) -> Any:
        model.register_forward_pre_hook(watched, with_kwargs=True)
        return prepare(self, model, plan)

    monkeypatch.setattr(LoraStrategy, "prepare", prepared)
    return seen


@pytest.mark.timeout(600)
def test_the_retry_goes_on_at_the_last_checkpoint_and_counts_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fourth step fails after a checkpoint at the second: steps 3 and 4 are trained with one window at a time, twice."""
    seen = failing_lora(monkeypatch, lambda number, windows: number == 4)
    result = run_job(job_of(tmp_path, 4, 2))
    run = tmp_path / "run"
    assert (result.status, result.exit_code) == ("completed", 0), result.message
    assert seen == [2, 2, 2, 2, *[1] * 4, 1]
    (short,) = shortages(run)
    assert (short["micro_batch"], short["reason"]) == (1, "CUDA out of memory. Tried to allocate 2.00 GiB.")
    metrics = read_metrics(run / "metrics.jsonl")
    assert [step for step, _ in metrics.series("train/loss")] == [1, 2, 3, 4, 5]
    tokens = [value for _, value in metrics.series("train/tokens")]
    assert tokens == [1024, 2048, 3072, 4096, 4096 + 2048]
    assert read_json(run / "checkpoints" / "rung_512" / "manifest.json")["metadata"]["tokens"] == 4096


@pytest.mark.timeout(600)
def test_running_out_twice_is_exit_code_4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = failing_lora(monkeypatch, lambda number, windows: True)
    result = run_job(job_of(tmp_path, 2, 2))
    assert (result.status, result.exit_code, result.achieved_context) == ("failed", 4, None)
    assert seen == [2, 1]
    assert "512 tokens even with a micro-batch of 1" in result.message and "Tried to allocate 2.00 GiB" in result.message
    assert read_json(tmp_path / "run" / "cockpit_payload.json")["status"] == "failed"
    assert not (tmp_path / "run" / "checkpoints" / "rung_512").exists()


@pytest.mark.timeout(600)
def test_no_memory_outside_training_is_exit_code_4_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probes and perplexities have no micro-batch to halve; a real allocation that cannot be met fails in one of them."""
    measured = Evaluator.measure

    def measure(self: Evaluator, name: str, *rest: Any) -> Any:
        if name == "rung_512":
            torch.empty(2**60, dtype=torch.uint8)
        return measured(self, name, *rest)

    monkeypatch.setattr(Evaluator, "measure", measure)
    result = run_job(job_of(tmp_path, 1, 1))
    assert (result.status, result.exit_code) == ("failed", 4)
    assert "Memory ran out while probing at 512 tokens" in result.message
    assert read_json(tmp_path / "run" / "cockpit_payload.json")["status"] == "failed"


@pytest.mark.parametrize(("micro", "expected"), [(8, (4, 4)), (6, (3, 4)), (3, (1, 6)), (9, (3, 6)), (1, (1, 2))])
def test_the_smaller_micro_batch_keeps_the_windows_of_a_step(tmp_path: Path, micro: int, expected: tuple[int, int]) -> None:
    job = resolve_document(small_job(tmp_path))
    accepted = accept_contract(job)
    with open_run(job, None, {}) as run:
        session = Session(job, run, accepted.contract, quiet=True)
        smaller = session.halve(replace(job.rungs[0], micro_batch_size=micro, gradient_accumulation=2))
        session.close()
    assert (smaller.micro_batch_size, smaller.gradient_accumulation) == expected


def test_what_counts_as_no_memory() -> None:
    with pytest.raises(RuntimeError) as cpu:
        torch.empty(2**60, dtype=torch.uint8)
    assert ran_out_of_memory(cpu.value)
    assert ran_out_of_memory(torch.OutOfMemoryError("x")) and ran_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as shapes:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not ran_out_of_memory(shapes.value)


def doing(run: Path) -> str:
    path = run / "heartbeat.json"
    return str(read_json(path)["message"]) if path.exists() else ""


@pytest.mark.timeout(600)
def test_a_pause_inside_an_evaluation_saves_the_step(tmp_path: Path) -> None:
    """Held-out text for hundreds of windows: the request comes while they are read."""
    job = job_of(tmp_path, 3, 1)
    write_text(tmp_path / "data.jsonl", documents=900)
    job["evaluation"].update(eval_every=1, eval_tokens=150_000)
    run = tmp_path / "run"
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(run_job(job)))
    thread.start()
    deadline = time.monotonic() + 400
    while thread.is_alive() and "evaluating at 512" not in doing(run):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ask(run, "pause", actor="test")
    thread.join()
    (result,) = results
    assert (result.status, result.exit_code) == ("paused", 9)
    assert [event for event in read_jsonl(run / "events.jsonl").records if event["event"] == "evaluation/interrupted"]
    (saved,) = (run / "checkpoints").glob("checkpoint-*")
    assert saved.name == "checkpoint-1"
