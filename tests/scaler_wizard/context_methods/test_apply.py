"""Switching a live model: equal to loading it patched, undone bit for bit, through adapters, with dynamic state."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scaler_wizard.context_methods import available, get_method
from scaler_wizard.context_methods.apply import ContextStateError, reset_dynamic_state, rotary_modules
from scaler_wizard.context_methods.settings import RECORD, UnsupportedContextError

METHODS = [(method_id, {}) for method_id in available()] + [("yarn", {"ramp": "paper"}), ("yarn", {"truncate": False})]


def logits_of(model: Any, length: int, seed: int = 1) -> Any:
    """Logits [1, length, V] on fixed random tokens."""
    import torch

    tokens = torch.randint(0, 96, (1, length), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model(input_ids=tokens).logits


def supported(method_id: str, config: Any) -> bool:
    return get_method(method_id).supports(config).ok


@pytest.mark.parametrize(("method_id", "opts"), METHODS)
def test_in_place_equals_loading_the_patched_configuration_bit_for_bit(
    method_id: str, opts: dict[str, Any], architecture: str, make_config: Any, make_model: Any, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    method, config = get_method(method_id), make_config(architecture)
    if not supported(method_id, config):
        assert architecture == "phi3"
        return
    live = make_model(config)
    method.apply(live, method.parameters(config, 512, **opts))
    patched = {**make_config(architecture).to_dict(), **method.parameters(make_config(architecture), 512, **opts)}
    fresh = make_model(type(config).from_dict(patched))
    live.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    for length in (48, 512):
        expected = logits_of(fresh, length)
        assert torch.equal(logits_of(live, length), expected)
        assert torch.equal(logits_of(loaded, length), expected)


@pytest.mark.parametrize(("method_id", "opts"), METHODS)
def test_revert_restores_logits_and_configuration_bit_for_bit(
    method_id: str, opts: dict[str, Any], architecture: str, make_config: Any, make_model: Any
) -> None:
    import torch

    method, model = get_method(method_id), make_model(make_config(architecture))
    if not supported(method_id, model.config):
        assert architecture == "phi3"
        return
    config_before, logits_before = copy.deepcopy(model.config.to_dict()), logits_of(model, 60)
    attributes_before = [set(vars(module)) for _, module in rotary_modules(model)]
    applied = method.apply(model, method.parameters(model.config, 512, **opts))
    logits_of(model, 300)
    method.revert(model, applied)
    assert model.config.to_dict() == config_before
    assert not hasattr(model.config, RECORD)
    assert [set(vars(module)) for _, module in rotary_modules(model)] == attributes_before
    assert torch.equal(logits_of(model, 60), logits_before)


def test_apply_changes_what_the_model_computes(make_config: Any, make_model: Any) -> None:
    model = make_model(make_config("llama"))
    before = logits_of(model, 200)
    for method_id in available():
        method = get_method(method_id)
        applied = method.apply(model, method.parameters(model.config, 256))
        assert float((logits_of(model, 200) - before).abs().max()) > 1e-4
        method.revert(model, applied)


def test_rungs_compose_from_the_original_and_unwind_in_reverse(make_config: Any, make_model: Any) -> None:
    import torch

    yarn, model = get_method("yarn"), make_model(make_config("llama"))
    start = logits_of(model, 60)
    first = yarn.apply(model, yarn.parameters(model.config, 128))
    at_first = logits_of(model, 120)
    second = yarn.apply(model, yarn.parameters(model.config, 256))
    assert model.config.rope_parameters["factor"] == 4.0
    assert model.config.max_position_embeddings == 256
    with pytest.raises(ContextStateError, match=r"yarn to 128 tokens.*applied last first"):
        yarn.revert(model, first)
    yarn.revert(model, second)
    assert torch.equal(logits_of(model, 120), at_first)
    yarn.revert(model, first)
    assert torch.equal(logits_of(model, 60), start)


@pytest.mark.parametrize("method_id", available())
def test_through_a_peft_model(method_id: str, make_config: Any, make_model: Any) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    method, config = get_method(method_id), make_config("llama")
    params = method.parameters(config, 256)
    adapter = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)

    def wrapped(configuration: Any) -> Any:
        torch.manual_seed(5)
        return get_peft_model(make_model(configuration), adapter).eval()

    live = wrapped(make_config("llama"))
    before = logits_of(live, 60)
    applied = method.apply(live, params)
    fresh = wrapped(type(config).from_dict({**config.to_dict(), **params}))
    assert torch.equal(logits_of(live, 256), logits_of(fresh, 256))
    method.revert(live, applied)
    assert torch.equal(logits_of(live, 60), before)


def test_frequencies_are_float32_even_in_a_bfloat16_model(make_config: Any, make_model: Any) -> None:
    import torch

    yarn, model = get_method("yarn"), make_model(make_config("llama")).to(torch.bfloat16)
    (_, module), *_ = rotary_modules(model)
    assert module.inv_freq.dtype == torch.bfloat16
    applied = yarn.apply(model, yarn.parameters(model.config, 256))
    assert module.inv_freq.dtype == torch.float32
    assert "inv_freq" not in module.state_dict()
    yarn.revert(model, applied)
    assert module.inv_freq.dtype == torch.bfloat16


def test_paper_ramp_holds_at_every_length_and_honours_the_attention_factor(make_config: Any, make_model: Any) -> None:
    import torch

    yarn, model = get_method("yarn"), make_model(make_config("llama"))
    yarn.apply(model, yarn.parameters(model.config, 512, ramp="paper"))
    (_, module), *_ = rotary_modules(model)
    expected = module.inv_freq.clone()
    for length in (10, 64, 65, 512, 10):
        logits_of(model, length)
        assert torch.equal(module.inv_freq, expected)
    cos, _ = module(torch.zeros(1), torch.zeros(1, 1, dtype=torch.long))
    assert float(cos.max()) == pytest.approx(1.207944, rel=1e-6)


def test_dynamic_state_leaks_between_sequences_until_it_is_reset(make_config: Any, make_model: Any) -> None:
    import torch

    dynamic, model = get_method("dynamic_ntk"), make_model(make_config("llama"))
    applied = dynamic.apply(model, dynamic.parameters(model.config, 512))
    clean = logits_of(model, 100)
    logits_of(model, 512)
    assert not torch.equal(logits_of(model, 100), clean)
    assert reset_dynamic_state(model) == 1
    assert torch.equal(logits_of(model, 100), clean)
    logits_of(model, 512)
    dynamic.revert(model, applied)
    assert reset_dynamic_state(model) == 0


def test_cached_decoding_equals_a_full_pass_for_fixed_methods(make_config: Any, make_model: Any) -> None:
    import torch

    tokens = torch.randint(0, 96, (1, 200), generator=torch.Generator().manual_seed(3))
    for method_id, opts in METHODS:
        if method_id == "dynamic_ntk":
            continue
        model = make_model(make_config("llama"))
        method = get_method(method_id)
        method.apply(model, method.parameters(model.config, 256, **opts))
        with torch.no_grad():
            whole = model(input_ids=tokens).logits[:, -1]
            cache = model(input_ids=tokens[:, :50], use_cache=True).past_key_values
            model(input_ids=tokens[:, 50:199], past_key_values=cache, use_cache=True)
            stepped = model(input_ids=tokens[:, 199:], past_key_values=cache, use_cache=True).logits[:, -1]
        assert float((whole - stepped).abs().max()) < 1e-5


def test_a_failed_application_leaves_the_model_as_it_was(make_config: Any, make_model: Any) -> None:
    import torch

    yarn, model = get_method("yarn"), make_model(make_config("llama"))
    before, config_before = logits_of(model, 60), copy.deepcopy(model.config.to_dict())
    lying = replace(yarn, reference=lambda stretch, seq_len: ([1.0] * 8, 1.0))
    with pytest.raises(ContextStateError, match=r"frequencies off by .*the model was not changed"):
        lying.apply(model, yarn.parameters(model.config, 256))
    assert model.config.to_dict() == config_before
    assert torch.equal(logits_of(model, 60), before)


def test_parameters_of_another_base_or_method_are_refused(make_config: Any, make_model: Any) -> None:
    yarn, model = get_method("yarn"), make_model(make_config("llama"))
    other = make_config("llama", rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    with pytest.raises(ContextStateError, match=r"theta 500000.0 and 64 tokens.*theta 10000.0"):
        yarn.apply(model, yarn.parameters(other, 256))
    with pytest.raises(ContextStateError, match=r"and 128 tokens.*and 64 tokens"):
        yarn.apply(model, yarn.parameters(make_config("llama", max_position_embeddings=128), 256))
    with pytest.raises(ContextStateError, match=r"computed by 'ntk'"):
        yarn.apply(model, get_method("ntk").parameters(model.config, 256))


def test_a_model_without_rotary_modules_is_refused(make_config: Any, make_model: Any) -> None:
    yarn, model = get_method("yarn"), make_model(make_config("llama"))
    model.model.rotary_emb = None
    with pytest.raises(UnsupportedContextError, match=r"no rotary module"):
        yarn.apply(model, yarn.parameters(model.config, 256))
