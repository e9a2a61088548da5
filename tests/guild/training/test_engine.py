"""The training executor on a real model: one file after another, interrupted in every way, bit for bit. (specs/guild.md 2.1.3, 2.1.4)"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from guild.training.engine import TrainerEngine
from guild.training.file_data import load_file
from guild.training.file_trainer import FileTrainer
from guild.training.interface import Halt, TrainerConfig, TrainingResult
from guild.training.model_session import open_session
from helpers.guild_training import Listener, at, losses, trainer_config, write_rows
from modelwright.errors import DiskFullError
from modelwright.files import read_json, write_json


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
    assert (again.total_steps, again.share, again.summary["rows"]) == (whole[0].total_steps, 1.0, whole[0].summary["rows"])


def test_a_file_that_was_replaced_after_it_was_trained_is_another_file(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "d.jsonl", 24)
    first, _ = train(trainer_config(tmp_path, data))
    write_rows(data, 24, first=7)
    again, listener = train(at(trainer_config(tmp_path, data), first.last_checkpoint_path))
    assert again.success and len(listener.steps) == again.total_steps


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The tokens of every window that a training step saw, in order and without padding."""
    seen: list[bytes] = []
    step = FileTrainer.training_step

    def noted(self: FileTrainer, model: object, inputs: dict[str, torch.Tensor], items: object = None) -> torch.Tensor:
        for ids in inputs["input_ids"]:
            tokens = ids.tolist()
            while tokens[-1] == self.data_collator.pad_id:
                tokens.pop()
            seen.append(repr(tokens).encode())
        return step(self, model, inputs, items)

    monkeypatch.setattr(FileTrainer, "training_step", noted)
    return seen


def windows_of(config: TrainerConfig) -> list[bytes]:
    """The tokens of every window that a file is cut into."""
    found = [repr(list(window["input_ids"])).encode() for window in load_file(config, open_session(config)).training]
    assert len(set(found)) == len(found) > 12
    return found


@pytest.mark.parametrize(
    ("before", "stop", "after"),
    [((1, 2), 3, (1, 4)), ((1, 4), 1, (1, 2)), ((1, 2), 2, (3, 1)), ((2, 2), 2, (1, 1))],
    ids=["more accumulated", "fewer accumulated", "another micro-batch", "both"],
)
def test_every_window_is_trained_once_when_the_batch_changes_in_between(
    tmp_path: Path, data: Path, trained: list[bytes], before: tuple[int, int], stop: int, after: tuple[int, int]
) -> None:
    """A position counts windows: today's batch size and accumulation do not move it."""
    first = trainer_config(tmp_path, data, batch_size=before[0], gradient_accumulation=before[1])
    wanted = windows_of(first)
    stopped, listener = train(first, Listener(once(stop, "stop")))
    size, count = before[0] * before[1], len(wanted)
    assert stopped.share == listener.checkpoints[0].share == stop * size / count < 1
    hyper = replace(first.hyperparams, batch_size=after[0], gradient_accumulation=after[1])
    finished, second = train(at(replace(first, hyperparams=hyper), stopped.last_checkpoint_path))
    assert finished.success and finished.share == 1.0
    assert sorted(trained) == sorted(wanted)
    steps = -(-(count - stop * size) // (after[0] * after[1]))
    assert (finished.total_steps, finished.global_step, second.begins[0].done) == (stop + steps, stop + steps, stop)


def of_first_format(checkpoint: Path, *, partial: dict[str, int], digests: dict[str, str], finished: list[str]) -> None:
    """Make a checkpoint say of files what the first format said."""
    state = read_json(checkpoint / "trainer_state.json")
    own = {"schema_version": 1, "optimizer": "adamw", "partial": partial, "digests": digests, "finished": finished}
    write_json(checkpoint / "trainer_state.json", {"global_step": state["global_step"], "guild": own})


def test_a_checkpoint_of_the_first_format_is_gone_on_from_by_the_batch_on_record(tmp_path: Path, data: Path, trained: list[bytes]) -> None:
    config = trainer_config(tmp_path, data, job="7@2026-01-31T08:00:00.000Z")
    wanted = windows_of(config)
    stopped, _ = train(config, Listener(once(3, "stop")))
    folder = stopped.last_checkpoint_path
    assert folder is not None
    digest = read_json(folder / "trainer_state.json")["guild"]["files"][config.environment.job_id]["windows_sha256"]
    of_first_format(folder, partial={"7": 3}, digests={"7": digest}, finished=[])

    now = replace(at(config, folder), hyperparams=replace(config.hyperparams, gradient_accumulation=4))
    refused, _ = train(now)
    assert not refused.success and "3 of its steps are trained by an earlier version" in refused.error_message
    finished, _ = train(replace(now, environment=replace(now.environment, former_per_step=2)))
    assert finished.success, finished.error_message
    assert sorted(trained) == sorted(wanted)


def test_what_checkpoints_of_elsewhere_say_of_files_is_not_believed(tmp_path: Path) -> None:
    """Another house, or this one begun anew, counts its jobs from 1 too: neither trained whole without a step, nor refused."""
    data = write_rows(tmp_path / "data.jsonl", 16)
    ours, theirs = "1@2026-02-02T00:00:00.000Z", "1@2026-01-01T00:00:00.000Z"
    done, _ = train(trainer_config(tmp_path, data, job=theirs))
    fresh, listener = train(at(trainer_config(tmp_path, data, job=ours), done.last_checkpoint_path))
    assert fresh.success and len(listener.steps) == fresh.total_steps

    half, _ = train(trainer_config(tmp_path / "half", data, job=theirs), Listener(once(2, "stop")))
    other = write_rows(tmp_path / "other.jsonl", 16, first=3)
    fresh, listener = train(at(trainer_config(tmp_path / "half", other, job=ours), half.last_checkpoint_path))
    assert fresh.success and len(listener.steps) == fresh.total_steps
    assert fresh.last_checkpoint_path is not None
    said = read_json(fresh.last_checkpoint_path / "trainer_state.json")["guild"]["files"]
    assert [(key, part["windows"] == part["total"]) for key, part in said.items()] == [(theirs, False), (ours, True)]

    assert half.last_checkpoint_path is not None
    for said_before in (
        {"partial": {}, "digests": {}, "finished": ["1"]},
        {"partial": {"1": 2}, "digests": {"1": "0" * 64}, "finished": []},
    ):
        of_first_format(half.last_checkpoint_path, **said_before)  # type: ignore[arg-type]
        fresh, listener = train(at(trainer_config(tmp_path / "half", data, job=ours), half.last_checkpoint_path))
        assert fresh.success and len(listener.steps) == fresh.total_steps


def test_whole_weights_without_an_optimizer_go_on_at_their_step_and_say_so(tmp_path: Path, data: Path) -> None:
    config = trainer_config(tmp_path, data, warmup_steps=8)
    stopped, first = train(config, Listener(once(4, "stop")))
    assert stopped.last_checkpoint_path is not None and first.begins[0].warning == ""
    (stopped.last_checkpoint_path / "optimizer.pt").unlink()
    finished, second = train(at(config, stopped.last_checkpoint_path))
    assert finished.success and second.steps[0].step == 5
    assert "goes on at step 4 and the optimizer begins anew" in second.begins[0].warning and "weights only" in second.begins[0].warning
    assert second.steps[0].learning_rate > first.steps[-1].learning_rate  # its warm-up goes on
    assert finished.total_steps == 4 + len(second.steps)


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
    part = state["guild"]["files"]["77"]
    assert (state["global_step"], part["windows"], part["steps"]) == (3, 6, 3) and part["total"] > 6
    assert state["log_history"][0]["loss"] > 0 and state["training_file"] == data.name and state["epoch"] == 6 / part["total"]


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
