from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from guild.errors import RefusedError
from guild.records.checkpoint_marks import (
    ResumePoint,
    checkpoint_folders,
    latest_resumable,
    rename_to_canonical,
    resumable_checkpoint,
    usable_checkpoint,
)
from helpers.guild_records import write_checkpoint, write_safetensors
from modelwright.checkpoints import CheckpointStore
from modelwright.errors import UsageError

MOMENT = datetime(2025, 11, 27, 14, 30, tzinfo=UTC)


def test_a_whole_checkpoint_has_nothing_against_it(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, "checkpoint-500")
    assert usable_checkpoint(path) == [] and resumable_checkpoint(path) == []


@pytest.mark.parametrize("cut", range(0, 170, 13))
def test_weights_of_any_wrong_length_are_noticed(tmp_path: Path, cut: int) -> None:
    path = write_checkpoint(tmp_path, "checkpoint-500")
    whole = (path / "model.safetensors").read_bytes()
    assert cut < len(whole)
    (path / "model.safetensors").write_bytes(whole[:cut])
    assert usable_checkpoint(path)
    (path / "model.safetensors").write_bytes(whole + bytes(cut + 1))
    assert usable_checkpoint(path)


def test_every_sign_of_a_save_that_was_cut_off_is_named(tmp_path: Path) -> None:
    def broken(number: int) -> Path:
        return write_checkpoint(tmp_path, f"checkpoint-{number}")

    for number, name in enumerate(("config.json", "model.safetensors", "trainer_state.json"), start=1):
        path = broken(number)
        (path / name).unlink()
        assert len(usable_checkpoint(path)) == 1, name
    path = broken(4)
    (path / "trainer_state.json").write_text('{"global_step": 4, "log_hist')
    assert "cut off" in usable_checkpoint(path)[0]
    path = broken(5)
    (path / "trainer_state.json").write_text('{"global_step": 4}')
    assert "global_step 4" in usable_checkpoint(path)[0]
    path = broken(6)
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(b"PK\x03\x04 half a zip file")
    assert "end mark" in usable_checkpoint(path)[0]


def test_a_sharded_checkpoint_needs_every_shard(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, "checkpoint-500")
    (path / "model.safetensors").unlink()
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}))
    write_safetensors(path / shards[0])
    assert [shards[1] in reason for reason in usable_checkpoint(path)] == [True]
    write_safetensors(path / shards[1])
    assert usable_checkpoint(path) == []


def test_a_checkpoint_of_the_kernel_is_known_by_its_manifest(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "weights.bin").write_bytes(b"x" * 100)
        (folder / "optimizer.pt").write_bytes(b"y")
        (folder / "trainer_state.json").write_text('{"global_step": 700}')

    path = CheckpointStore(tmp_path).save("checkpoint-700", write, step=700).path
    named = rename_to_canonical(path, 700, MOMENT)
    assert named.name == "checkpoint-700-20251127-1430"
    (named / ".ledger.json").write_text("{}")  # records beside the files are no damage
    assert usable_checkpoint(named, deep=True) == [] and latest_resumable(tmp_path).path == named
    (named / "weights.bin").write_bytes(b"z" * 100)
    assert usable_checkpoint(named) == [] and "SHA-256" in usable_checkpoint(named, deep=True)[0]
    (named / "weights.bin").write_bytes(b"x" * 99)
    assert "99 bytes" in usable_checkpoint(named)[0]


def test_names_that_are_no_checkpoints_are_refused_and_never_found(tmp_path: Path) -> None:
    for name in ("tmp-checkpoint-9", ".staging-checkpoint-9", "checkpoint-9-partial", "checkpoint-nine"):
        (tmp_path / name).mkdir()
        assert "found the name" in usable_checkpoint(tmp_path / name)[0]
    assert checkpoint_folders(tmp_path) == [] and latest_resumable(tmp_path).path is None
    assert checkpoint_folders(tmp_path / "nothing") == []


def test_item_21_resume_takes_step_100000_over_99999_under_either_kind_of_name(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "checkpoint-99999")
    canonical = write_checkpoint(tmp_path, "checkpoint-100000-20251127-1430")
    write_checkpoint(tmp_path, "checkpoint-9000-20251128-0000")
    found = latest_resumable(tmp_path)
    assert (found.path, found.step, found.skipped) == (canonical, 100000, ())
    plain = write_checkpoint(tmp_path, "checkpoint-100001")
    assert latest_resumable(tmp_path).path == plain


def test_resume_passes_over_what_is_not_whole_and_says_so(tmp_path: Path) -> None:
    good = write_checkpoint(tmp_path, "checkpoint-300")
    cut = write_checkpoint(tmp_path, "checkpoint-500", trainer_state=False)
    found = latest_resumable(tmp_path)
    assert (found.path, found.weights_only) == (good, False)
    assert len(found.skipped) == 1 and str(cut) in found.skipped[0]


def test_whole_weights_are_gone_on_from_also_without_their_optimizer(tmp_path: Path) -> None:
    """The rows of files that count as trained are in them, and in no older checkpoint."""
    write_checkpoint(tmp_path, "checkpoint-300")
    weights = write_checkpoint(tmp_path, "checkpoint-400", optimizer=False)
    assert latest_resumable(tmp_path) == ResumePoint(weights, 400, weights_only=True)
    assert "optimizer" in resumable_checkpoint(weights)[0]


def test_renaming_keeps_a_canonical_name_and_refuses_a_wrong_step_or_a_taken_name(tmp_path: Path) -> None:
    named = write_checkpoint(tmp_path, "checkpoint-500-20251127-1430")
    assert rename_to_canonical(named, 500, MOMENT) == named
    plain = write_checkpoint(tmp_path, "checkpoint-500")
    with pytest.raises(UsageError, match="501"):
        rename_to_canonical(plain, 501, MOMENT)
    with pytest.raises(RefusedError, match="there already"):
        rename_to_canonical(plain, 500, MOMENT)
    assert plain.is_dir()


def test_a_checkpoint_of_the_real_trainer_is_whole_and_without_its_last_file_it_is_not(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    from modelwright.tiny import tiny_model_path

    model = AutoModelForCausalLM.from_pretrained(tiny_model_path("modelwright/tiny-0.4m"))
    rows = [{"input_ids": [1, 2, 3, 4], "labels": [1, 2, 3, 4]}] * 4
    options = TrainingArguments(
        str(tmp_path), max_steps=2, save_steps=1, per_device_train_batch_size=1, report_to=[], use_cpu=True, disable_tqdm=True
    )
    Trainer(model=model, args=options, train_dataset=rows).train()
    model.save_pretrained(tmp_path / "checkpoint-3", max_shard_size="300KB")
    found = latest_resumable(tmp_path)
    assert (found.step, found.weights_only) == (2, False) and "cut off" in found.skipped[0]
    assert usable_checkpoint(tmp_path / "checkpoint-3", finished=True) == []
    shard = sorted((tmp_path / "checkpoint-3").glob("model-*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-4])
    assert "cut off" in usable_checkpoint(tmp_path / "checkpoint-3", finished=True)[0]
    (tmp_path / "checkpoint-2" / "trainer_state.json").unlink()
    assert latest_resumable(tmp_path).step == 1
