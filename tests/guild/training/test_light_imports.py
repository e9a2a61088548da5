"""What the other rooms of the guild import must not load a training library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import guild.training
from modelwright.files import read_json

LIGHT = (
    "profiles",
    "processors",
    "chat_template",
    "preparation",
    "encoding",
    "packing",
    "collator",
    "masking_limits",
    "masking_validators",
    "schedules",
    "optimizers.settings",
    "optimizers.groups",
)


def test_profiles_templates_limits_and_settings_import_without_torch() -> None:
    modules = ", ".join(f"guild.training.{name}" for name in LIGHT)
    code = f"import {modules}, sys; print(*sorted({{'torch', 'transformers', 'numpy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(("name", "stage"), [("ds_zero2_offload", 2), ("ds_zero3_offload", 3)])
def test_deepspeed_configurations_leave_the_campaigns_numbers_to_the_campaign(name: str, stage: int) -> None:
    root = Path(guild.training.__file__).parents[3]
    config = read_json(root / "configs" / "guild" / f"{name}.json")
    assert config["zero_optimization"]["stage"] == stage
    assert config["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    for number in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"):
        assert config[number] == "auto"
    assert set(config["optimizer"]["params"].values()) == {"auto"}
