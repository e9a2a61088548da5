"""How much one request may hold: the tier of the machine's memory, cut to what the model supports. (spec 3.2)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelwright.errors import ConfigError, Fault, LoadError


@dataclass(frozen=True)
class Tier:
    """gigabytes: nominal memory. max_context: tokens. concurrency: answers at the same time that the pool is told of."""

    gigabytes: int
    max_context: int
    concurrency: int

    @property
    def name(self) -> str:
        return f"{self.gigabytes}GB"


TIERS = (Tier(8, 20_000, 1), Tier(16, 50_000, 2), Tier(32, 120_000, 4), Tier(64, 200_000, 8))
NOMINAL_SHARE = 0.9
"""A machine sold with 16 GB shows its programs a little less: firmware, graphics and the kernel keep some."""


@dataclass(frozen=True)
class Capacity:
    """ram_gb: what this process may use, GiB, None where unknown. notes: sentences for the log."""

    ram_gb: float | None
    tier: Tier
    max_context: int
    notes: tuple[str, ...] = ()


def tier_of(ram_gb: float | None) -> Tier:
    """The largest tier that the memory reaches; the smallest one below them all and where the memory is unknown."""
    reached = [tier for tier in TIERS if ram_gb is not None and ram_gb >= NOMINAL_SHARE * tier.gigabytes]
    return reached[-1] if reached else TIERS[0]


def capacity_of(asked: int | None, config: Mapping[str, Any], model: str, ram_gb: float | None) -> Capacity:
    """The context to ask the engine for.

    Args:
        asked: `--max-context`, tokens, or None for the tier's.
        config: the model's `config.json`.
        ram_gb: memory of this machine or control group, GiB.

    Raises:
        ConfigError: more was asked for than the model supports.
    """
    tier = tier_of(ram_gb)
    supported = supported_context(config)
    if asked is not None:
        if supported is not None and asked > supported:
            allowed = f"1 to {supported}, what config.json of {model} supports"
            raise ConfigError([Fault("--max-context", str(asked), allowed, "Leave it out for the largest context this machine allows")])
        return Capacity(ram_gb, tier, asked)
    if supported is not None and supported < tier.max_context:
        note = f"max context is {supported} tokens, the most {model} supports; the {tier.name} memory tier would allow {tier.max_context}."
        return Capacity(ram_gb, tier, supported, (note,))
    return Capacity(ram_gb, tier, tier.max_context)


def supported_context(config: Mapping[str, Any]) -> int | None:
    """Positions the model was made for, or None where its config does not say."""
    from modelwright.model_shape import ModelShape

    try:
        return ModelShape.from_config(config).context
    except LoadError:
        return None
