"""Small random models of several architectures, built without a tokenizer or a download."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

ORIGINAL = 64
SHARED = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": ORIGINAL,
}
EXTRA = {
    "llama": {"num_key_value_heads": 2},
    "qwen3": {
        "num_key_value_heads": 2,
        "head_dim": 32,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    },
    "mistral": {"num_key_value_heads": 2, "sliding_window": None},
    "gpt_neox": {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5}},
    "stablelm": {"num_key_value_heads": 4, "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}},
    "phi3": {
        "num_key_value_heads": 2,
        "original_max_position_embeddings": ORIGINAL,
        "pad_token_id": 0,
        "eos_token_id": 1,
    },
}
ARCHITECTURES = tuple(EXTRA)


def tiny_config(model_type: str, **changes: Any) -> Any:
    """A transformers configuration of `model_type`: 2 layers, width 64, window 64 tokens."""
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[model_type](**{**SHARED, **EXTRA.get(model_type, {}), **changes})


def tiny_model(config: Any, seed: int = 0) -> Any:
    """A model with random weights for that configuration, in evaluation mode. The same seed gives the same weights."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture
def make_config() -> Callable[..., Any]:
    return tiny_config


@pytest.fixture
def make_model() -> Callable[..., Any]:
    return tiny_model


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)
