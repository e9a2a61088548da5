"""The training executor on a real model: one file after another, interrupted in every way, bit for bit. (specs/guild.md 2.1.3, 2.1.4)"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from guild.training.engine import TrainerEngine
from guild.training.interface import Halt, TrainerConfig, TrainingResult
from helpers.guild_training import Listener, at, losses, trainer_config, write_rows
from modelwright.errors import DiskFullError
from modelwright.files import read_json


def train(config: TrainerConfig, listener: Listener | None = None) -> tuple[TrainingResult, Listener]:
    """One file in an engine of its own, as after a restart."""
    listener = listener or Listener()
    return TrainerEngine(listener).run_job(config), listener


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder).state_dict())


def same(one: Path, other: Path) -> bool:
    left, right = weights(one), weights(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def once(step: int, halt: Halt):  # type: ignore[no-untyped-def]
    """Ask to halt after one step."""
    return lambda progress: halt if progress.step == step else None


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "train_numbers_level1_48_20260131_000000.jsonl")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[TrainingResult, Listener]:
    """The file trained without a break."""
    result, listener = train(trainer_config(tmp_path_factory.mktemp("whole"), data))
    assert result.success, result.error_message
    return result, listener


def test_a_file_is_trained_and_its_loss_falls(whole: tuple[TrainingResult, Listener]) -> None:
    result, listener = whole
    assert (result.outcome, result.done_steps) == ("completed", result.total_steps)
    assert [progress.step for progress in listener.steps] == list(range(1, result.total_steps + 1))
    assert listener.steps[-1].loss < 0.6 * listener.steps[0].loss
    assert listener.begins[0].val_loss is not None and listener.checkpoints[-1].val_loss is not None
    assert listener.checkpoints[-1].val_loss < listener.begins[0].val_loss
    assert [saved.complete for saved in listener.checkpoints] == [True]


def test_a_checkpoint_is_a_model_that_anything_loads(whole: tuple[TrainingResult, Listener]) -> None:
    folder = whole[0].last_checkpoint_path
    assert folder is not None and folder.name.startswith(f"checkpoint-{whole[0].global_step}-")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], add_generation_prompt=True, return_tensors="pt")
    ids = prompt["input_ids"] if not isinstance(prompt, torch.Tensor) else prompt
    assert model.generate(ids, max_new_tokens=2, do_sample=False).shape[1] > ids.shape[1]


@pytest.mark.parametrize("step", [1, 3])
def test_a_stopped_file_goes_on_bit_for_bit(tmp_path: Path, data: Path, whole: tuple[TrainingResult, Listener], step: int) -> None:
    config = trainer_config(tmp_path, data)
    stopped, first = train(config, Listener(once(step, "stop")))
    assert (stopped.success, stopped.outcome, stopped.done_steps) == (False, "stopped", step)
    finished, second = train(at(config, stopped.last_checkpoint_path))
    assert finished.success and finished.global_step == whole[0].global_step
    assert losses(first) + losses(second) == losses(whole[1])
    assert same(finished.last_checkpoint_path, whole[0].last_checkpoint_path)  # type: ignore[arg-type]


def test_item_5_a_pause_saves_and_resume_trains_the_rest(tmp_path: Path, data: Path, whole: tuple[TrainingResult, Listener]) -> None:
    result, listener = train(trainer_config(tmp_path, data), Listener(once(2, "pause"), answer="resume"))
    assert result.success
    assert [(saved.step, saved.complete) for saved in listener.checkpoints] == [(2, False), (result.total_steps, True)]
    assert losses(listener) == losses(whole[1])
    assert same(result.last_checkpoint_path, whole[0].last_checkpoint_path)  # type: ignore[arg-type]


def test_item_6_stop_is_heard_while_paused(tmp_path: Path, data: Path) -> None:
    result, listener = train(trainer_config(tmp_path, data), Listener(once(2, "pause"), answer="stop"))
    assert (result.success, result.outcome, result.done_steps, len(listener.steps)) == (False, "stopped", 2, 2)


def test_a_skipped_file_and_another_are_each_trained_once(tmp_path: Path, data: Path) -> None:
    """Skipped after two steps, another file in between, then the rest of the first: every step once, the counter never restarts."""
    other = write_rows(tmp_path / "other.jsonl", 24, first=100)
    engine_listener = Listener(once(2, "skip"))
    engine = TrainerEngine(engine_listener)
    first = trainer_config(tmp_path, data, job="1")
    skipped = engine.run_job(first)
    assert (skipped.success, skipped.outcome) == (False, "skipped")
    between = engine.run_job(at(trainer_config(tmp_path, other, job="2"), skipped.last_checkpoint_path))
    assert between.success and between.global_step == 2 + between.total_steps
    rest = engine.run_job(at(first, between.last_checkpoint_path))
    assert rest.success and rest.global_step == between.global_step + skipped.total_steps - 2
    assert [progress.step for progress in engine_listener.steps] == list(range(1, rest.global_step + 1))
    assert [progress.done for progress in engine_listener.steps] == [
        1, 2, *range(1, between.total_steps + 1), *range(3, skipped.total_steps + 1)
    ]  # fmt: skip


def test_a_file_that_the_checkpoint_holds_is_not_trained_again(data: Path, whole: tuple[TrainingResult, Listener], tmp_path: Path) -> None:
    """The word that it was done can get lost behind the checkpoint; the checkpoint says it."""
    again, listener = train(at(trainer_config(tmp_path, data), whole[0].last_checkpoint_path))
    assert again.success and again.global_step == whole[0].global_step and listener.steps == []


def test_a_file_that_changed_half_way_is_refused(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "d.jsonl")
    config = trainer_config(tmp_path, data)
    stopped, _ = train(config, Listener(once(2, "stop")))
    write_rows(data, first=7)
    refused, _ = train(at(config, stopped.last_checkpoint_path))
    assert not refused.success and "2 of its steps are trained" in refused.error_message


def test_a_loss_that_is_not_finite_ends_the_file_before_the_step(tmp_path: Path, data: Path) -> None:
    config = trainer_config(tmp_path, data, learning_rate=1e30, warmup_steps=0, max_grad_norm=0.0)
    result, listener = train(config)
    assert (result.success, result.outcome, result.error_type) == (False, "failed", "non_finite_loss")
    assert result.global_step == len(listener.steps) and listener.checkpoints == []


def test_a_full_disk_is_told_and_nothing_counts_that_was_not_saved(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from guild.training import engine as module

    def full(*_: object) -> Path:
        raise DiskFullError("Cannot save: no space left.")

    with monkeypatch.context() as patched:
        patched.setattr(module, "save_session", full)
        stopped, listener = train(trainer_config(tmp_path, data))
    assert (stopped.success, stopped.outcome, stopped.error_type) == (False, "stopped", "disk")
    assert listener.full == ["Cannot save: no space left."] and listener.checkpoints == []
    again, second = train(trainer_config(tmp_path, data))
    assert again.success and second.steps[0].done == 1


def test_a_file_whose_masks_are_wrong_is_not_trained(tmp_path: Path) -> None:
    """Answers far longer than prompts: the masked share is below its limit."""
    data = tmp_path / "d.jsonl"
    data.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "' + "b c d " * 60 + '"}]}\n' * 4)
    result, listener = train(trainer_config(tmp_path, data))
    assert not result.success and result.error_type == "MaskingValidationError" and listener.steps == []


def test_unknown_names_are_told_and_nothing_falls_back(tmp_path: Path, data: Path) -> None:
    for config, word in (
        (replace(trainer_config(tmp_path, data), profile="nope"), "profile"),
        (trainer_config(tmp_path, data, optimizer={"type": "adamx"}), "optimizer"),
        (trainer_config(tmp_path, data, lr_scheduler="sinus"), "lr_scheduler"),
    ):
        result, _ = train(config)
        assert not result.success and result.error_message.startswith(f"{word}: found")


def test_what_a_checkpoint_says_of_files(tmp_path: Path, data: Path) -> None:
    stopped, _ = train(trainer_config(tmp_path, data, job="77"), Listener(once(3, "stop")))
    assert stopped.last_checkpoint_path is not None
    state = read_json(stopped.last_checkpoint_path / "trainer_state.json")
    assert (state["global_step"], state["guild"]["partial"], state["guild"]["finished"]) == (3, {"77": 3}, [])


def test_one_engine_goes_on_with_the_model_it_holds(tmp_path: Path, data: Path, whole: tuple[TrainingResult, Listener]) -> None:
    """Two files in one engine equal two engines."""
    second = write_rows(tmp_path / "second.jsonl", 24, first=50)
    one = TrainerEngine(Listener())
    config = trainer_config(tmp_path / "one", data)
    first = one.run_job(config)
    kept = one.run_job(at(trainer_config(tmp_path / "one", second, job="2"), first.last_checkpoint_path))
    fresh, _ = train(at(trainer_config(tmp_path / "two", second, job="2"), whole[0].last_checkpoint_path))
    assert kept.success and fresh.success and kept.global_step == fresh.global_step
    assert same(kept.last_checkpoint_path, fresh.last_checkpoint_path)  # type: ignore[arg-type]


def test_a_preview_asks_a_held_out_row_and_changes_nothing(tmp_path: Path, data: Path, whole: tuple[TrainingResult, Listener]) -> None:
    config = trainer_config(tmp_path, data)
    often = replace(config.monitoring, preview_every=2, eval_steps=3, micro_eval_every=5)
    result, listener = train(replace(config, monitoring=often))
    assert result.success and len(listener.previews) == (result.total_steps - 1) // 2
    first = listener.previews[0]
    assert first.system_prompt.startswith("Today is 2026-01-31.") and "which number follows" in first.prompt
    assert first.matches == (first.answer.split() == first.golden.split())
    measured = [(one.step, one.val_loss is None, one.asked) for one in listener.measurements]
    assert (3, False, 0) in measured and (5, True, 2) in measured
    assert losses(listener) == losses(whole[1])


def test_another_campaigns_checkpoint_gives_weights_and_step(tmp_path: Path, data: Path, whole: tuple[TrainingResult, Listener]) -> None:
    config = trainer_config(tmp_path, data, job="2")
    parent = replace(config, model=replace(config.model, checkpoint=whole[0].last_checkpoint_path, fresh_optimizer=True))
    result, listener = train(parent)
    assert result.success and listener.steps[0].step == whole[0].global_step + 1
    assert listener.begins[0].reports["optimizer"]["note"] == "the optimizer begins anew"
    assert listener.steps[0].learning_rate < whole[1].steps[-1].learning_rate  # its warm-up begins again


def test_another_optimizer_begins_anew_and_says_so(tmp_path: Path, data: Path, whole: tuple[TrainingResult, Listener]) -> None:
    config = at(trainer_config(tmp_path, data, job="2", optimizer={"type": "muon"}), whole[0].last_checkpoint_path)
    result, listener = train(config)
    assert result.success, result.error_message
    assert listener.begins[0].reports["optimizer"]["type"] == "muon" and listener.begins[0].reports["optimizer"]["note"]
