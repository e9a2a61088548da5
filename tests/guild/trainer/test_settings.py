"""Every field of a campaign's configuration reaches what it is for; none is read and forgotten. (specs/guild.md 2.1.5, 10.1 no. 1)"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from guild.campaigns.campaign import CampaignFolder, read_campaign
from guild.campaigns.checkpoints import find_checkpoint
from guild.campaigns.config_schema import EffectiveConfig
from guild.campaigns.effective_config import build_effective, untrainable_faults
from guild.campaigns.heroes import Liger
from guild.campaigns.pointer import require_active
from guild.campaigns.store import create_campaign, record_progress
from guild.loop.start import start
from guild.places import Places
from guild.queue.inbox import process_inbox
from guild.queue.marks import take
from guild.records.database import open_guild
from guild.trainer.settings import CheckpointsLostError, StartPoint, start_point, trainer_config
from guild.training.interface import TrainerConfig
from guild.training.optimizers.settings import OptimizerParameters
from helpers.guild_house import make_house, put
from helpers.guild_records import write_checkpoint
from modelwright.identity import current_identity
from modelwright.tiny import tiny_model_path

ELSEWHERE = {
    "campaign_name": "for people",
    "output_dir": "the campaign's folder says it",
    "starting_checkpoint": "start_point, tested below",
    "current_step": "the checkpoint says it",
    "skills_focus": "guild.curriculum and guild.evaluation",
    "model_family": "for people",
    "model_size_b": "for people, and the forecast of memory",
    "save_total_limit": "guild.retention",
    "full_eval_steps": "guild.trainer.process",
    "qlora_r": "qlora_enabled is refused",
    "qlora_alpha": "qlora_enabled is refused",
    "qlora_dropout": "qlora_enabled is refused",
    "qlora_target_modules": "qlora_enabled is refused",
}
"""Fields that the engine is not told, and who reads them."""
REFUSED: dict[str, Any] = {"qlora_enabled": True, "load_in_4bit": True, "preview_backend": "remote_3090", "chat_template": "llama3"}
CHANGED: dict[str, Any] = {
    "hero_id": "other", "campaign_id": "campaign-009", "model_path": "other", "base_model": "other", "model_architecture": "Other",
    "model_version": "2", "vocab_size": 7, "context_length": 2048, "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    "precision": "bf16", "device": "cuda:1", "profile": "regime3", "max_length": 200, "packing": False, "batch_size": 3,
    "gradient_accumulation": 5, "learning_rate": 1e-4, "lr_scheduler": "linear", "warmup_steps": 77, "schedule_steps": 123,
    "max_grad_norm": 0.5, "optimizer": "muon", "optimizer_settings": OptimizerParameters.model_validate({"adamw": {"eps": 1e-6}}),
    "gradient_checkpointing": True, "liger_kernel": Liger(enabled=True), "seed": 7, "validation_split": 0.2, "max_val": 9,
    "save_steps": 17, "eval_steps": 18, "status_every": 19, "preview_every": 20, "micro_eval_every": 21,
}  # fmt: skip
"""Another value for each field that the engine is told."""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A function from a configuration to what the engine is told."""
    places: Places = make_house(tmp_path_factory.mktemp("house"))
    put(places, "rows.jsonl", 10)
    with open_guild(places) as db:
        process_inbox(db, places, allow_default=True)
        taken = take(db, places, current_identity())
    assert taken is not None
    folder = require_active(places)

    def tell(value: EffectiveConfig) -> TrainerConfig:
        return trainer_config(places, value, folder, taken, Path("run"), prompt_date="2026-01-31", schema="chat_sft_v1", generator=None)

    return build_effective(places).value, tell


def test_each_field_is_told_refused_or_read_elsewhere() -> None:
    fields = set(EffectiveConfig.model_fields)
    groups = (set(ELSEWHERE), set(REFUSED), set(CHANGED))
    assert set.union(*groups) == fields
    assert sum(map(len, groups)) == len(fields)


@pytest.mark.parametrize("field", sorted(CHANGED))
def test_a_changed_field_reaches_the_engine(told, field: str) -> None:  # type: ignore[no-untyped-def]
    value, tell = told
    assert getattr(value, field) != CHANGED[field]
    assert tell(value.model_copy(update={field: CHANGED[field]})) != tell(value)


@pytest.mark.parametrize("field", sorted(REFUSED))
def test_what_the_engine_cannot_do_is_refused(told, field: str) -> None:  # type: ignore[no-untyped-def]
    value, _ = told
    assert untrainable_faults(value) == []
    assert untrainable_faults(value.model_copy(update={field: REFUSED[field]}))


# --- what training goes on from


@pytest.fixture
def begun(tmp_path: Path) -> tuple[Places, CampaignFolder]:
    """A campaign that has come to step 900."""
    places = make_house(tmp_path)
    folder = require_active(places)
    record_progress(places, folder, current_step=900, total_examples=1000)
    return places, require_active(places)


def start_of(places: Places, folder: CampaignFolder) -> StartPoint:
    return start_point(folder, build_effective(places, folder).value)


def test_the_newest_whole_checkpoint_counts_with_or_without_its_optimizer(begun: tuple[Places, CampaignFolder]) -> None:
    """An older one with an optimizer would lack the rows of files that count as trained."""
    places, folder = begun
    write_checkpoint(folder.checkpoints, "checkpoint-800")
    newest = write_checkpoint(folder.checkpoints, "checkpoint-900", optimizer=False)
    damaged = write_checkpoint(folder.checkpoints, "checkpoint-1000")
    (damaged / "model.safetensors").write_bytes(b"x")
    found = start_of(places, folder)
    assert (found.checkpoint, found.own) == (newest, True)
    assert len(found.passed_over) == 1 and str(damaged) in found.passed_over[0]


def test_a_campaign_whose_checkpoints_are_gone_never_begins_again_in_silence(begun: tuple[Places, CampaignFolder]) -> None:
    places, folder = begun
    with pytest.raises(CheckpointsLostError) as gone:
        start_of(places, folder)
    words = "tiny/campaign-001 is at step 900", "holds no checkpoint", "Put one back", "open another campaign"
    assert all(word in str(gone.value) for word in words)
    damaged = write_checkpoint(folder.checkpoints, "checkpoint-900", trainer_state=False)
    with pytest.raises(CheckpointsLostError, match="cut off") as named:
        start_of(places, folder)
    assert str(damaged) in str(named.value)
    with pytest.raises(CheckpointsLostError):
        start(places)
    assert not places.daemon_pid.exists()
    write_checkpoint(folder.checkpoints, "checkpoint-850", optimizer=False)
    assert start_of(places, folder).own


def test_damage_counts_also_before_the_first_file_is_done_and_a_fresh_campaign_begins_at_its_start(tmp_path: Path) -> None:
    places = make_house(tmp_path)
    folder = require_active(places)
    assert start_of(places, folder) == StartPoint(None, False)
    write_checkpoint(folder.checkpoints, "checkpoint-5", trainer_state=False)
    with pytest.raises(CheckpointsLostError, match="move the damaged folders away"):
        start_of(places, folder)


def test_a_campaign_that_was_opened_from_a_checkpoint_does_not_fall_back_to_it(tmp_path: Path) -> None:
    places = make_house(tmp_path)
    parent = tmp_path / "elsewhere" / "checkpoint-500"
    shutil.copytree(tiny_model_path("modelwright/tiny-0.4m"), parent)
    folder = create_campaign(places, "tiny", "Child", checkpoint=find_checkpoint(places, parent))
    found = start_of(places, folder)
    assert (found.checkpoint, found.own) == (parent, False)
    record_progress(places, folder, current_step=600, total_examples=10)
    with pytest.raises(CheckpointsLostError, match=r"begin again at step 500 from .*checkpoint-500"):
        start_of(places, read_campaign(folder.path))


def test_a_snapshot_that_the_house_holds_for_the_campaign_is_something_left(begun: tuple[Places, CampaignFolder]) -> None:
    places, folder = begun
    snapshot = places.snapshots / "2026-01-31"
    shutil.copytree(tiny_model_path("modelwright/tiny-0.4m"), snapshot)
    assert start_of(places, folder).checkpoint == snapshot
