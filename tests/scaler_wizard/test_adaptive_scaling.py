from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler_wizard.adaptive_scaling import (
    HardwareProfile,
    ScalingTargets,
    calculate_optimal_lora_rank,
    explain,
    lora_arguments,
    suggest_lora_config,
)

GOLDEN = [
    ((1.1, 1, 8, 24, 1), (6, 18, 0.19, False)),
    ((1.1, 2, 8, 24, 1), (12, 36, 0.19, False)),
    ((1.1, 1, 8, 8, 1), (4, 8, 0.19, True)),
    ((7, 1, 4, 24, 1), (64, 192, 0.11, False)),
    ((7, 2, 4, 48, 2), (128, 448, 0.11, False)),
    ((7, 1, 16, 80, 1), (40, 140, 0.19, False)),
    ((0.135, 1, 1, 4, 1), (4, 8, 0.05, True)),
    ((13, 4, 1, 320, 8), (128, 448, 0.05, False)),
]


@pytest.mark.parametrize(("case", "expected"), GOLDEN)
def test_golden_vectors(case: tuple[float, ...], expected: tuple[int, int, float, bool]) -> None:
    params, capacity, context, vram, gpus = case
    found = suggest_lora_config(ScalingTargets(params, capacity, context), HardwareProfile(vram, int(gpus)))
    assert (found.rank, found.alpha, found.use_qlora) == (expected[0], expected[1], expected[3])
    assert found.dropout == pytest.approx(expected[2])


numbers = st.floats(min_value=0, max_value=1000, allow_nan=False)


@given(numbers, numbers, numbers, numbers, numbers, st.integers(min_value=0, max_value=64))
def test_rank_is_bounded_and_monotone_in_vram(params: float, capacity: float, context: float, vram: float, more: float, gpus: int) -> None:
    targets = ScalingTargets(params, capacity, context)
    small = suggest_lora_config(targets, HardwareProfile(vram, gpus))
    large = suggest_lora_config(targets, HardwareProfile(vram + more, gpus))
    assert 4 <= small.rank <= 128
    assert 4 <= large.rank <= 128
    assert large.rank >= small.rank
    assert small.alpha >= 2 * small.rank


def test_low_memory_raises_dropout_and_advises_qlora_and_an_override_wins() -> None:
    targets, hardware = ScalingTargets(7, 1, 8), HardwareProfile(80)
    low = suggest_lora_config(targets, hardware, prefer_low_memory=True)
    assert low.use_qlora
    assert low.dropout == pytest.approx(0.24)
    assert suggest_lora_config(targets, hardware, dropout_override=0.0).dropout == 0.0


def test_without_gpu_memory_means_available_ram() -> None:
    idle = HardwareProfile(0.0, 0, cpu_mem_gb=64, ram_free_gb=32)
    busy = HardwareProfile(0.0, 0, cpu_mem_gb=64, ram_free_gb=4)
    targets = ScalingTargets(7)
    assert idle.memory_gb == idle.free_gb == 32
    assert suggest_lora_config(targets, idle).rank == 56  # 112 x min(2, 0.5)
    assert suggest_lora_config(targets, busy).rank == 28  # 112 x 0.25
    assert any("available RAM" in line for line in explain(targets, idle))


def test_explanation_says_that_one_gpu_never_counts_more() -> None:
    assert any("never exceeds 1" in line for line in explain(ScalingTargets(7), HardwareProfile(80, 1)))
    assert not any("never exceeds 1" in line for line in explain(ScalingTargets(7), HardwareProfile(80, 2)))


@pytest.mark.parametrize(
    ("base", "target", "memory", "rank"), [(7, 7, 16, 8), (7, 14, 16, 12), (7, 7, 4, 4), (1000, 1000, 16, 10), (5000, 9000, 32, 48)]
)
def test_legacy_rule(base: float, target: float, memory: float, rank: int) -> None:
    assert calculate_optimal_lora_rank(base, target, {"available_memory": memory}) == rank


def test_legacy_rule_refuses_a_zero_base() -> None:
    with pytest.raises(ValueError, match="above 0"):
        calculate_optimal_lora_rank(0, 7, {"available_memory": 16})


def test_lora_arguments_reach_every_linear_layer() -> None:
    found = lora_arguments(6, 18, 0.19, use_rslora=True, rank_pattern={"q_proj": 8})
    assert found["r"] == 6
    assert found["lora_alpha"] == 18
    assert found["target_modules"] == "all-linear"
    assert found["use_rslora"] is True
    assert found["rank_pattern"] == {"q_proj": 8}
