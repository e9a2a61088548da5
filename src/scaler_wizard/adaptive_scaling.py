"""Adaptive rank: which LoRA rank, alpha and dropout suit a model, a goal and a machine.

The rule is the seed's, kept exactly (specs/scaler.md section 3.1), with the golden vectors as tests. It is a heuristic
without measured evidence for its constants, and says so when it explains itself. Memory is in GiB, parameters in billions.
Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RANK_MIN, RANK_MAX = 4, 128
QLORA_BELOW_GB = 20.0
LEGACY_REFERENCE_GB = 16.0


@dataclass(frozen=True)
class HardwareProfile:
    """A machine as the rules see it; one type for the rank rule and for the profile recommender.

    On a machine without GPU (`gpu_count` 0) memory means available RAM: see `memory_gb` and `free_gb`.
    """

    total_vram_gb: float
    gpu_count: int = 1
    cpu_mem_gb: float = 32.0
    gpu_name: str = "Unknown"
    vram_free_gb: float | None = None  # None: all of it
    ram_free_gb: float | None = None  # None: all of it

    @property
    def memory_gb(self) -> float:
        """Memory the model will live in: total VRAM, or available RAM without a GPU."""
        return self.total_vram_gb if self.gpu_count > 0 else self.available_ram_gb

    @property
    def free_gb(self) -> float:
        """Memory that is free now: free VRAM, or available RAM without a GPU."""
        if self.gpu_count <= 0:
            return self.available_ram_gb
        return self.total_vram_gb if self.vram_free_gb is None else self.vram_free_gb

    @property
    def available_ram_gb(self) -> float:
        return self.cpu_mem_gb if self.ram_free_gb is None else self.ram_free_gb

    def as_dict(self) -> dict[str, Any]:
        """The six fields of `hardware.json` that the seed names."""
        return {
            "gpu_name": self.gpu_name,
            "vram_total": self.total_vram_gb,
            "vram_free": self.total_vram_gb if self.vram_free_gb is None else self.vram_free_gb,
            "gpu_count": self.gpu_count,
            "ram_total": self.cpu_mem_gb,
            "ram_free": self.available_ram_gb,
        }


@dataclass(frozen=True)
class ScalingTargets:
    """What is asked of a model: its size, how much more capacity, how much more context."""

    base_params_b: float
    target_multiplier: float = 1.0
    context_multiplier: float = 1.0


@dataclass(frozen=True)
class LoRAConfigSuggestion:
    rank: int
    alpha: int
    dropout: float
    use_qlora: bool


def suggest_lora_config(
    targets: ScalingTargets,
    hardware: HardwareProfile,
    prefer_low_memory: bool = False,
    dropout_override: float | None = None,
) -> LoRAConfigSuggestion:
    """LoRA rank, alpha, dropout and whether 4-bit weights are advised (specs/scaler.md section 3.1)."""
    factors = _factors(targets, hardware)
    vram_factor = factors["vram"]
    rank = int(_clamp(int(factors["rank"]), RANK_MIN, RANK_MAX))
    alpha = max(2 * rank, int(rank * (1.5 + vram_factor)))
    if dropout_override is not None:
        dropout = dropout_override
    else:
        dropout = min(0.25, (0.10 if prefer_low_memory else 0.05) + 0.02 * (factors["context"] - 1))
    use_qlora = prefer_low_memory or hardware.memory_gb < QLORA_BELOW_GB
    return LoRAConfigSuggestion(rank, alpha, dropout, use_qlora)


def _factors(targets: ScalingTargets, hardware: HardwareProfile) -> dict[str, float]:
    capacity = _clamp(targets.target_multiplier, 1.0, 4.0)
    context = _clamp(targets.context_multiplier, 1.0, 8.0)
    params = max(0.5, targets.base_params_b)
    raw = int(16 * params)
    vram = _clamp(hardware.memory_gb / 16.0, 0.25, 2.0)
    gpus = _clamp(hardware.gpu_count, 0.5, 4.0)
    rank = raw * capacity / (1 + 0.25 * (context - 1)) * min(vram, gpus)
    return {
        "capacity": capacity,
        "context": context,
        "params": params,
        "raw": float(raw),
        "vram": vram,
        "gpus": gpus,
        "rank": rank,
    }


def explain(targets: ScalingTargets, hardware: HardwareProfile) -> tuple[str, ...]:
    """The rule applied to a case, one line per factor, for the log and the dry run."""
    f = _factors(targets, hardware)
    memory = "VRAM" if hardware.gpu_count > 0 else "available RAM (no GPU)"
    lines = [
        f"parameters {targets.base_params_b:.3g} B: starting rank int(16 x {f['params']:.3g}) = {f['raw']:.0f}",
        f"capacity x{targets.target_multiplier:.3g}: factor {f['capacity']:.3g} (limits 1 to 4)",
        f"context x{targets.context_multiplier:.3g}: divided by {1 + 0.25 * (f['context'] - 1):.3g} (limits 1 to 8)",
        f"{memory} {hardware.memory_gb:.1f} GiB: factor {f['vram']:.3g}; {hardware.gpu_count} GPU: factor {f['gpus']:.3g}; "
        f"the smaller counts, {min(f['vram'], f['gpus']):.3g}",
        f"product {f['rank']:.2f}, kept within {RANK_MIN} to {RANK_MAX}",
    ]
    if hardware.gpu_count == 1:
        lines.append("with one GPU the memory factor never exceeds 1, so more than 16 GiB does not raise the rank")
    return tuple(lines)


def lora_arguments(
    rank: int,
    alpha: int,
    dropout: float,
    *,
    use_rslora: bool = False,
    use_dora: bool = False,
    rank_pattern: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Keyword arguments of `peft.LoraConfig` for a causal language model with adapters on every linear layer."""
    return {
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": "all-linear",
        "task_type": "CAUSAL_LM",
        "use_rslora": use_rslora,
        "use_dora": use_dora,
        "rank_pattern": dict(rank_pattern or {}),
    }


def calculate_optimal_lora_rank(base: float, target: float, hardware: Mapping[str, float]) -> int:
    """The seed's older rule, kept for compatibility; `base` and `target` are parameters in billions.

    It is practically constant (8 below 900 B parameters). Raises ValueError when `base` is not positive.
    """
    if base <= 0:
        raise ValueError(f"base parameters must be above 0 billion, found {base}")
    rank = _clamp(int(0.01 * base), 8, 32)
    memory = hardware.get("available_memory", LEGACY_REFERENCE_GB)
    rank *= min(1.5, target / base) * min(1.0, memory / LEGACY_REFERENCE_GB)
    return max(RANK_MIN, int(rank))


def _clamp(value: float, low: float, high: float) -> float:
    return max(low, min(high, value))
