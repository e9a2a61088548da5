"""The memory tiers of spec 3.2, and how a model cuts them."""

from __future__ import annotations

import pytest

from macprovider.capacity import capacity_of, tier_of
from modelwright.errors import ConfigError

LLAMA = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}


@pytest.mark.parametrize(
    ("ram", "name", "context", "concurrency"),
    [
        (None, "8GB", 20_000, 1),
        (4.0, "8GB", 20_000, 1),
        (7.7, "8GB", 20_000, 1),
        (14.0, "8GB", 20_000, 1),
        (15.6, "16GB", 50_000, 2),
        (24.0, "16GB", 50_000, 2),
        (31.2, "32GB", 120_000, 4),
        (48.0, "32GB", 120_000, 4),
        (62.7, "64GB", 200_000, 8),
        (512.0, "64GB", 200_000, 8),
    ],
)
def test_tiers(ram: float | None, name: str, context: int, concurrency: int) -> None:
    tier = tier_of(ram)
    assert (tier.name, tier.max_context, tier.concurrency) == (name, context, concurrency)


def test_the_tier_gives_the_context_unless_the_model_supports_less() -> None:
    wide = capacity_of(None, {**LLAMA, "max_position_embeddings": 131_072}, "m", 16.0)
    assert wide.max_context == 50_000 and wide.notes == ()
    small = capacity_of(None, {**LLAMA, "max_position_embeddings": 512}, "m", 16.0)
    assert small.max_context == 512 and "512 tokens, the most m supports" in small.notes[0]
    unknown = capacity_of(None, {"model_type": "mystery"}, "m", 16.0)
    assert unknown.max_context == 50_000


def test_an_override_wins_over_the_tier_but_not_over_the_model() -> None:
    config = {**LLAMA, "max_position_embeddings": 131_072}
    assert capacity_of(100_000, config, "m", 8.0).max_context == 100_000
    with pytest.raises(ConfigError, match=r"--max-context: found 200000; allowed: 1 to 131072"):
        capacity_of(200_000, config, "m", 64.0)
