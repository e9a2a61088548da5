from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.errors import ConfigError
from modelwright.hardware import Cpu, HardwareInventory
from scaler_wizard.adaptive_scaling import HardwareProfile
from scaler_wizard.profile_recommender import (
    NothingFitsError,
    adjust,
    candidate_order,
    load_templates,
    packaged_templates,
    parse_templates,
    profile_of,
    recommend,
    snapshot,
)

TEMPLATES = packaged_templates()


def gpu(free: float) -> HardwareProfile:
    return HardwareProfile(total_vram_gb=max(free, 24), gpu_count=1, vram_free_gb=free)


def test_the_six_templates_of_the_seed() -> None:
    rows = {
        name: (t.lora_rank, t.lora_alpha, t.context_multiplier, t.use_distillation, t.telemetry_profile, t.min_vram_gb)
        for name, t in TEMPLATES.items()
    }
    assert rows == {
        "balanced_scaling": (16, 48, 4, True, "standard", 12),
        "max_context": (12, 32, 16, False, "high_resolution", 20),
        "max_parameters": (32, 96, 2, True, "standard", 18),
        "budget_context": (8, 24, 2, False, "standard", 8),
        "reasoning_boost": (28, 84, 3, True, "detailed", 16),
        "creative_fusion": (20, 60, 6, True, "exploratory", 24),
    }


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (9, "budget_context"),
        (13, "balanced_scaling"),
        (17, "balanced_scaling"),
        (19, "balanced_scaling"),
        (21, "max_context"),
        (30, "max_context"),
    ],
)
def test_long_context_by_free_memory(free: float, expected: str) -> None:
    choice = recommend("long_context", gpu(free), TEMPLATES)
    assert choice.template.id == expected
    assert not choice.adjusted
    assert expected in choice.rationale


@given(st.floats(min_value=1, max_value=400), st.sampled_from(["default", "long_context", "reasoning", "creative"]))
def test_a_template_that_needs_more_than_is_free_is_never_returned(free: float, use_case: str) -> None:
    assert recommend(use_case, gpu(free), TEMPLATES).template.min_vram_gb <= free


def test_below_every_minimum_the_budget_template_is_halved() -> None:
    choice = recommend("long_context", gpu(4), TEMPLATES)
    template = choice.template
    assert choice.adjusted
    assert (template.id, template.lora_rank, template.lora_alpha, template.context_multiplier) == ("budget_context", 4, 12, 2)
    assert "4.0 GB VRAM" in choice.rationale


def test_nothing_fits_says_the_shortfall_and_exits_4() -> None:
    with pytest.raises(NothingFitsError, match=r"free 0\.5 GB more") as caught:
        recommend("default", gpu(0.5), TEMPLATES)
    assert caught.value.exit_code == 4


def test_candidate_orders() -> None:
    assert candidate_order("reasoning") == ("max_parameters", "reasoning_boost", "balanced_scaling")
    assert candidate_order("creative") == ("creative_fusion", "balanced_scaling")
    assert candidate_order("default") == ("balanced_scaling", "budget_context")
    assert candidate_order("reasoning", "large") == ("max_parameters", "reasoning_boost", "balanced_scaling")
    assert candidate_order("default", "large") == ("max_parameters", "balanced_scaling", "budget_context")


def test_alpha_shrinks_with_the_rank() -> None:
    halved = adjust(TEMPLATES["max_context"], 5)
    assert (halved.lora_rank, halved.lora_alpha, halved.context_multiplier) == (6, 16, 8)
    assert adjust(TEMPLATES["max_context"], 20) is TEMPLATES["max_context"]


def test_without_gpu_available_ram_decides() -> None:
    inventory = HardwareInventory(
        gpu_name=None, vram_total=0, vram_free=0, gpu_count=0, ram_total=64, ram_free=14.5,
        cpu=Cpu(model="x", logical=2, usable=2), disk_free_gb=1,
    )  # fmt: skip
    profile = profile_of(inventory)
    assert (profile.gpu_count, profile.free_gb, profile.memory_gb) == (0, 14.5, 14.5)
    choice = recommend("default", profile, TEMPLATES)
    assert choice.template.id == "balanced_scaling"
    assert "available RAM" in choice.rationale


def test_a_user_folder_adds_templates(tmp_path: Path) -> None:
    body = "description: x\n  lora_rank: 2\n  lora_alpha: 4\n  context_multiplier: 2\n  use_distillation: false\n"
    (tmp_path / "mine.yaml").write_text(f"tiny:\n  {body}  telemetry_profile: standard\n  min_vram_gb: 0.5\n")
    known = load_templates(tmp_path)
    assert list(known)[-1] == "tiny"
    assert known["tiny"].lora_rank == 2


def test_every_fault_of_a_templates_file_is_reported() -> None:
    text = "a:\n  lora_rank: many\n  lora_alpha: 0\n  surprise: 1\n  use_distillation: 1\n  telemetry_profile: loud\n"
    with pytest.raises(ConfigError) as caught:
        parse_templates(text, "mine.yaml")
    paths = {fault.path for fault in caught.value.faults}
    assert {f"mine.yaml: a.{key}" for key in ("lora_rank", "lora_alpha", "surprise", "use_distillation", "telemetry_profile")} <= paths
    assert {f"mine.yaml: a.{key}" for key in ("description", "context_multiplier", "min_vram_gb")} <= paths


def test_snapshot_is_json_of_hardware_and_templates() -> None:
    document = json.loads(snapshot(gpu(9), TEMPLATES))
    assert document["hardware"]["vram_free"] == 9
    assert set(document["profiles"]) == set(TEMPLATES)
