"""`training_status.json` as 4.9 lists it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guild.training.interface import Begun, Measured, Progress
from guild.training.preview import Preview
from guild.training.status import TrainingStatus
from modelwright.files import read_json

SPECIFIED = set(re.findall(r"\w+", """
status current_step total_steps epoch loss learning_rate timestamp model_name max_output_tokens context_window error_message error_type
batch_step batch_total_steps batch_number batch_queue_size current_file
current_system_prompt current_prompt golden_answer model_answer answer_matches recent_examples total_evals total_correct accuracy_percent
train_loss_history accuracy_history steps_per_second eta_seconds
fixed_eval_em fixed_eval_ce fixed_eval_ece fixed_eval_trend accuracy_last_20 accuracy_last_50 accuracy_trend validation_loss val_train_gap
streaming_ce loss_variance token_entropy loss_trend
pattern_heatmap pattern_loss_trend pattern_layer_correlation length_bin_staleness layer_activity_summary layer_stability_summary lora_stats
lora_summary think_tag_count think_tag_percent logit_penalty_stats penalty_heatmap protocol_stats active_alerts alert_summary
tokens_per_sec tokens_per_sec_avg tokens_per_sec_baseline throughput_trend throughput_vram_samples queue_velocity
"""))  # fmt: skip
LENGTHS = {f"{which}_{whose}_output_length" for which in ("max", "current") for whose in ("golden", "model")}
ASKED = Preview("system", "question", "four words of gold", "an answer", False, 20, 9, 5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "training_status.json"


def status_of(path: Path) -> TrainingStatus:
    return TrainingStatus(path, "tiny", 256, 4, every_s=0.0)


def progress(step: int, loss: float = 1.0) -> Progress:
    return Progress(step, step, 100, loss, 0.5, 1e-3, 512, 0.25)


def document(path: Path) -> dict[str, Any]:
    return dict(read_json(path))


def test_every_field_of_the_specification_is_there_and_no_status_outside_its_words(path: Path) -> None:
    status = status_of(path)
    status.file("a.jsonl", 1, 0)
    status.begun(Begun(0, 0, 100, {}, 2.5))
    status.progress(progress(1))
    status.previewed(ASKED)
    status.measured(Measured(1, asked=8, exact=6))
    for word in ("idle", "training", "completed", "crashed"):
        status.settle(word)  # type: ignore[arg-type]
        found = document(path)
        assert found["status"] == word and SPECIFIED | LENGTHS | {"schema_version"} == set(found)
    assert (found["max_output_tokens"], found["context_window"], found["fixed_eval_em"]) == (96, 256, 0.75)
    source = (Path(__file__).parents[3] / "src/guild/trainer").glob("*.py")
    words = {word for file in source for word in re.findall(r"status\.settle\(\s*\"(\w+)\"", file.read_text())}
    assert words == {"idle"}


def test_answers_are_counted_on_from_file_to_file_and_show_a_trend(path: Path) -> None:
    for number in range(4):  # a file each, by a trainer of its own
        status = status_of(path)
        status.file(f"{number}.jsonl", number, 0)
        status.begun(Begun(10 * number, 0, 100, {}, None))
        for step in range(10 * number + 1, 10 * number + 11):
            status.progress(progress(step))
            status.previewed(replace(ASKED, matches=number >= 2, answer_tokens=step))
    status.settle("completed")
    found = document(path)
    assert (found["total_evals"], found["total_correct"], found["accuracy_percent"]) == (40, 20, 50.0)
    assert (found["accuracy_last_20"], found["accuracy_last_50"], found["accuracy_trend"]) == (1.0, 0.5, 1.0)
    assert [entry["step"] for entry in found["accuracy_history"]] == list(range(1, 41))
    assert [entry["step"] for entry in found["train_loss_history"]] == list(range(1, 41))
    assert len(found["recent_examples"]) == 5
    lengths = {name: found[name] for name in sorted(LENGTHS)}
    assert list(lengths.values()) == [5, 40, 5, 40]


def test_too_few_answers_make_no_trend_and_none_makes_no_accuracy(path: Path) -> None:
    status = status_of(path)
    status.begun(Begun(0, 0, 100, {}, None))
    assert all(document(path)[name] is None for name in ("accuracy_trend", "accuracy_last_20", "total_evals"))
    assert document(path)["accuracy_history"] == []
    status.previewed(ASKED)
    assert document(path)["accuracy_trend"] is None and document(path)["accuracy_last_20"] == 0.0


def test_losses_of_steps_that_died_unsaved_leave_the_history(path: Path) -> None:
    status = status_of(path)
    status.begun(Begun(0, 0, 100, {}, None))
    for step in range(1, 9):
        status.progress(progress(step, loss=9.0))
    again = status_of(path)
    again.begun(Begun(5, 5, 100, {}, None))
    again.progress(progress(6, loss=1.0))
    history = document(path)["train_loss_history"]
    assert [(entry["step"], entry["loss"]) for entry in history] == [(1, 9.0), (2, 9.0), (3, 9.0), (4, 9.0), (5, 9.0), (6, 1.0)]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"train_loss_history": [1, {"loss": "x"}], "accuracy_history": 3}'])
def test_a_document_that_cannot_be_read_is_replaced(path: Path, damage: bytes) -> None:
    path.write_bytes(damage)
    status = status_of(path)
    status.begun(Begun(0, 0, 100, {}, None))
    status.progress(progress(1))
    assert len(document(path)["train_loss_history"]) == 1
