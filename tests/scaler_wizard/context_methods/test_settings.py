"""Reading RoPE from configurations of every age, and refusing what cannot be stretched."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelwright.errors import ConfigError
from scaler_wizard.context_methods import available, get_method
from scaler_wizard.context_methods.settings import UnsupportedContextError, read_settings

OLD_LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "intermediate_size": 64,
    "vocab_size": 64,
    "max_position_embeddings": 2048,
}


def test_an_old_file_without_any_rope_value_means_the_defaults() -> None:
    settings = read_settings(OLD_LLAMA)
    assert (settings.theta, settings.dimensions, settings.original_context) == (10_000.0, 16, 2048)
    assert not settings.already_scaled


def test_legacy_keys_and_current_ones_read_alike() -> None:
    legacy = read_settings({**OLD_LLAMA, "rope_theta": 5e5, "rope_scaling": {"type": "dynamic", "factor": 2.0}})
    current = read_settings({**OLD_LLAMA, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 5e5, "factor": 2.0}})
    assert legacy == current
    assert (legacy.theta, legacy.rope_type, legacy.already_scaled) == (5e5, "dynamic", True)


def test_a_configuration_and_its_dictionary_read_alike_and_stay_unchanged(make_config: Any, architecture: str) -> None:
    config = make_config(architecture)
    before = json.dumps(config.to_dict(), sort_keys=True)
    assert read_settings(config) == read_settings(json.loads(before))
    assert json.dumps(config.to_dict(), sort_keys=True) == before


@pytest.mark.parametrize(("model_type", "dimensions"), [("gpt_neox", 8), ("stablelm", 4), ("qwen3", 32), ("llama", 16)])
def test_partial_rotary_factor_and_head_dim_count(make_config: Any, model_type: str, dimensions: int) -> None:
    assert read_settings(make_config(model_type)).dimensions == dimensions


def test_a_legacy_gpt_neox_file_keeps_its_rotary_share() -> None:
    document = {
        **OLD_LLAMA,
        "model_type": "gpt_neox",
        "rotary_pct": 0.25,
        "rotary_emb_base": 20_000,
        "num_attention_heads": 2,
    }
    settings = read_settings(document)
    assert (settings.theta, settings.dimensions) == (20_000.0, 8)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
        {"rope_type": "linear", "factor": 4.0, "original_max_position_embeddings": 512},
        {
            "rope_type": "llama3",
            "factor": 4.0,
            "original_max_position_embeddings": 512,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
    ],
)
def test_a_scaled_base_composes_from_the_original_context(rope: dict[str, Any]) -> None:
    config = {**OLD_LLAMA, "rope_parameters": {"rope_theta": 10_000.0, **rope}}
    assert read_settings(config).original_context == 512
    assert get_method("yarn").parameters(config, 4096)["rope_parameters"]["factor"] == 8.0


def test_a_base_scaled_linearly_must_say_from_where() -> None:
    config = {**OLD_LLAMA, "rope_scaling": {"type": "linear", "factor": 4.0}}
    with pytest.raises(UnsupportedContextError, match=r"already scaled by linear x4.0.*pass original_context"):
        read_settings(config)
    patch = get_method("linear").parameters(config, 8192, original_context=1024)
    assert patch["rope_parameters"] == {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 8.0}


def test_our_own_record_remembers_what_ntk_would_hide() -> None:
    once = get_method("ntk").parameters(OLD_LLAMA, 4096)
    again = get_method("ntk").parameters({**OLD_LLAMA, **json.loads(json.dumps(once))}, 8192)
    assert again == get_method("ntk").parameters(OLD_LLAMA, 8192)


def test_values_changed_beside_our_record_are_refused() -> None:
    patched = {**OLD_LLAMA, **get_method("ntk").parameters(OLD_LLAMA, 4096)}
    patched["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6}
    with pytest.raises(ConfigError, match=r"delete context_extension from config.json"):
        read_settings(patched)


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "bloom", "mpt", "gptj"])
@pytest.mark.parametrize("method_id", available())
def test_models_without_a_swappable_rope_are_refused_from_the_configuration_alone(model_type: str, method_id: str) -> None:
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[model_type]()
    support = get_method(method_id).supports(config)
    assert not support.ok
    assert model_type in support.reason
    with pytest.raises(UnsupportedContextError, match=model_type) as caught:
        get_method(method_id).parameters(config, 4096)
    assert caught.value.exit_code == 2


def test_alibi_falcon_nested_gemma_and_multimodal_models_are_refused_by_name() -> None:
    from transformers import CONFIG_MAPPING

    for model_type, changes, message in [
        ("falcon", {"alibi": True}, "ALiBi"),
        ("gemma3_text", {}, "RoPE per layer type.*full_attention, sliding_attention"),
        ("gemma3", {}, "multimodal"),
    ]:
        with pytest.raises(UnsupportedContextError, match=message):
            read_settings(CONFIG_MAPPING[model_type](**changes))


def test_an_architecture_transformers_does_not_know_is_refused() -> None:
    with pytest.raises(UnsupportedContextError, match=r"'nonesuch'"):
        read_settings({**OLD_LLAMA, "model_type": "nonesuch"})


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "linear", "factor": 0.5}, r"factor: found 0.5; allowed: a number of at least 1"),
        ({"rope_type": "linear", "factor": float("nan")}, r"factor: found nan"),
        ({"rope_type": "linear"}, r"factor: found nothing; allowed: a value, because rope_type is 'linear'"),
        ({"rope_type": "yarm", "factor": 2.0}, r"rope_type: found 'yarm'; allowed: one of default, linear"),
        ({"rope_type": "default", "rope_theta": 0}, r"rope_theta: found 0"),
        (
            {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 512.5},
            r"found 512.5; allowed: a whole",
        ),
        ({"rope_type": "default", "mrope_section": [4, 2, 2]}, r"mrope_section: found a multimodal RoPE"),
    ],
)
def test_rope_values_transformers_would_only_warn_about_are_faults(rope: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_settings({**OLD_LLAMA, "rope_parameters": {"rope_theta": 1e4, **rope}})


def test_every_fault_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings({**OLD_LLAMA, "rope_scaling": {"type": "llama3", "factor": 0.1, "rope_theta": -1}})
    assert len(caught.value.faults) == 5
