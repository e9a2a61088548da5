"""Parameter counts against models that transformers builds on the meta device."""

from __future__ import annotations

from typing import Any

import pytest

from modelwright.errors import LoadError
from modelwright.model_shape import ModelShape

LLAMA = {
    "model_type": "llama", "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2,
    "intermediate_size": 200, "vocab_size": 500, "max_position_embeddings": 256, "tie_word_embeddings": False,
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "n_embd": 96, "n_layer": 3, "n_head": 6, "n_positions": 256, "vocab_size": 500}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama tied": {**LLAMA, "tie_word_embeddings": True},
    "llama with biases": {**LLAMA, "attention_bias": True, "mlp_bias": True},
    "llama with wide heads": {**LLAMA, "head_dim": 32},
    "mistral": {**LLAMA, "model_type": "mistral"},
    "qwen2": {**LLAMA, "model_type": "qwen2"},
    "qwen3": {**LLAMA, "model_type": "qwen3", "head_dim": 16},
    "mixtral": {**LLAMA, "model_type": "mixtral", "num_local_experts": 4},
    "smollm3": {**LLAMA, "model_type": "smollm3", "pad_token_id": 0},
    "gemma": {**LLAMA, "model_type": "gemma", "head_dim": 16, "tie_word_embeddings": True},
    "gpt2": GPT2,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_counts_are_those_of_the_real_model(name: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = dict(CONFIGS[name])
    settings = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(config["model_type"], **settings))
    shape = ModelShape.from_config(config)
    assert shape.exact
    assert shape.parameters() == sum(parameter.numel() for parameter in model.parameters())
    norms = sum(parameter.numel() for key, parameter in model.named_parameters() if "norm" in key or "ln_" in key)
    assert shape.norm_parameters() == norms


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2"])
def test_adapter_counts_are_those_of_peft(name: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    config = dict(CONFIGS[name])
    settings = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(config["model_type"], **settings))
    lora = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, lora, low_cpu_mem_usage=True)
    assert ModelShape.from_config(config).lora_parameters(4) == adapted.get_nb_trainable_parameters()[0]


def test_published_sizes() -> None:
    """Parameter counts that the model cards state."""
    tiny_llama = {**LLAMA, "hidden_size": 2048, "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4}
    tiny_llama |= {"intermediate_size": 5632, "vocab_size": 32000, "max_position_embeddings": 2048}
    assert ModelShape.from_config(tiny_llama).parameters() == 1_100_048_384
    assert (
        ModelShape.from_config({**GPT2, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}).parameters()
        == 124_439_808
    )


def test_an_unknown_family_is_marked_as_approximate() -> None:
    assert not ModelShape.from_config({**LLAMA, "model_type": "brandnew"}).exact


def test_a_text_config_inside_is_followed() -> None:
    assert ModelShape.from_config({"model_type": "vision", "text_config": LLAMA}) == ModelShape.from_config(LLAMA)


@pytest.mark.parametrize("broken", [{"hidden_size": None}, {"num_hidden_layers": 0}, {"vocab_size": "many"}, {"vocab_size": True}])
def test_a_config_without_sizes_is_no_model(broken: dict[str, Any]) -> None:
    with pytest.raises(LoadError, match=r"config\.json"):
        ModelShape.from_config({**LLAMA, **broken})
