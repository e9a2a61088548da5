"""Every field of a campaign's configuration reaches what it is for; none is read and forgotten. (specs/guild.md 2.1.5, 10.1 no. 1)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guild.campaigns.config_schema import EffectiveConfig
from guild.campaigns.effective_config import build_effective, untrainable_faults
from guild.campaigns.heroes import Liger
from guild.campaigns.pointer import require_active
from guild.places import Places
from guild.queue.inbox import process_inbox
from guild.queue.marks import take
from guild.records.database import open_guild
from guild.trainer.settings import trainer_config
from guild.training.interface import TrainerConfig
from guild.training.optimizers.settings import OptimizerParameters
from helpers.guild_house import make_house, put
from modelwright.identity import current_identity

ELSEWHERE = {
    "campaign_name": "for people",
    "output_dir": "the campaign's folder says it",
    "starting_checkpoint": "start_point, tested in test_daemon and test_engine",
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
