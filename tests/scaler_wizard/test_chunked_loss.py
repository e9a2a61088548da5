"""Chunked cross-entropy against the plain formula: loss, gradients, memory, and every way to carry an output head."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from scaler_wizard.chunked_loss import (
    UnsupportedHeadError,
    causal_lm_loss,
    chunked_cross_entropy,
    default_chunk_tokens,
    head_of,
    shift_labels,
    why_not_chunked,
)

SHARED = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def plain(hidden: Tensor, weight: Tensor, labels: Tensor, softcap: float | None = None, bias: Tensor | None = None) -> Tensor:
    """The formula written down directly, all logits at once."""
    logits = nn.functional.linear(hidden, weight, bias)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())


def case(b: int, t: int, h: int, v: int, ignored: float, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    """hidden [B, T, H], weight [V, H], bias [V] and labels [B, T] with a share of -100, at least one kept."""
    maker = torch.Generator().manual_seed(seed)
    hidden = torch.randn(b, t, h, generator=maker, dtype=dtype).requires_grad_()
    weight = (torch.randn(v, h, generator=maker, dtype=dtype) / h**0.5).requires_grad_()
    bias = torch.randn(v, generator=maker, dtype=dtype).requires_grad_()
    labels = torch.randint(0, v, (b, t), generator=maker)
    labels[torch.rand(b, t, generator=maker) < ignored] = -100
    labels[0, 0] = 1
    return [hidden, weight, bias, labels]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 3),
    st.integers(1, 20),
    st.integers(2, 60),
    st.integers(1, 70),
    st.sampled_from([0.0, 0.5, 0.95]),
    st.sampled_from([None, 2.0]),
    st.booleans(),
)
def test_loss_and_gradients_are_the_plain_ones(
    b: int, t: int, v: int, chunk: int, ignored: float, softcap: float | None, with_bias: bool
) -> None:
    hidden, weight, bias, labels = case(b, t, 16, v, ignored, seed=t * v)
    used = bias if with_bias else None
    inputs = [hidden, weight, bias] if with_bias else [hidden, weight]
    expected = plain(hidden, weight, labels, softcap, used)
    ours = chunked_cross_entropy(hidden, weight, labels, chunk_tokens=chunk, softcap=softcap, bias=used)
    assert float((ours - expected).detach().abs()) < 1e-6 * max(1.0, float(expected.detach()))
    for mine, theirs in zip(torch.autograd.grad(3 * ours, inputs), torch.autograd.grad(3 * expected, inputs), strict=True):
        assert float((mine - theirs).abs().max()) < 2e-6


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_gradcheck_in_double_precision(softcap: float | None) -> None:
    hidden, weight, bias, labels = case(2, 5, 4, 7, 0.3, torch.float64)
    assert torch.autograd.gradcheck(
        lambda h, w, b: chunked_cross_entropy(h, w, labels, chunk_tokens=3, softcap=softcap, bias=b),
        (hidden, weight, bias),
    )


def test_num_items_divides_the_sum_as_an_int_or_a_tensor() -> None:
    hidden, weight, _, labels = case(2, 9, 8, 20, 0.4)
    count = int((labels != -100).sum())
    mean = chunked_cross_entropy(hidden, weight, labels)
    for items in (4 * count, torch.tensor(4 * count)):
        assert torch.allclose(4 * chunked_cross_entropy(hidden, weight, labels, num_items=items), mean)


def test_no_label_at_all_is_nan_as_in_torch_and_zero_with_num_items() -> None:
    hidden, weight, _, labels = case(1, 4, 8, 20, 0.0)
    labels.fill_(-100)
    assert torch.isnan(chunked_cross_entropy(hidden, weight, labels))
    loss = chunked_cross_entropy(hidden, weight, labels, num_items=5)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert float(hidden.grad.abs().sum() + weight.grad.abs().sum()) == 0.0


def test_bfloat16_stays_near_float32_and_returns_gradients_of_its_own_type() -> None:
    hidden, weight, _, labels = case(2, 16, 32, 50, 0.2)
    reference = chunked_cross_entropy(hidden, weight, labels, chunk_tokens=5)
    expected = torch.autograd.grad(reference, [hidden, weight])
    halves = [tensor.detach().bfloat16().requires_grad_() for tensor in (hidden, weight)]
    loss = chunked_cross_entropy(*halves, labels, chunk_tokens=5)
    loss.backward()
    assert loss.dtype == torch.float32
    assert abs(float(loss) - float(reference)) < 0.02
    for tensor, wanted in zip(halves, expected, strict=True):
        assert tensor.grad.dtype == torch.bfloat16
        assert float((tensor.grad.float() - wanted).norm() / wanted.norm()) < 0.02


def test_a_frozen_weight_gets_no_gradient() -> None:
    hidden, weight, _, labels = case(1, 8, 8, 20, 0.0)
    loss = chunked_cross_entropy(hidden, weight.detach(), labels)
    loss.backward()
    assert weight.grad is None
    assert hidden.grad is not None


def test_wrong_shapes_and_chunks_are_refused() -> None:
    hidden, weight, _, labels = case(1, 8, 8, 20, 0.0)
    with pytest.raises(ValueError, match=r"\(1, 8\) positions cannot be scored against labels \(1, 7\)"):
        chunked_cross_entropy(hidden, weight, labels[:, :7])
    with pytest.raises(ValueError, match="chunk_tokens is 0"):
        chunked_cross_entropy(hidden, weight, labels, chunk_tokens=0)


def test_the_default_chunk_is_sized_by_the_bytes_of_its_logits() -> None:
    assert default_chunk_tokens(32_768) == 128
    assert default_chunk_tokens(32_768, "cuda") == 2048
    assert default_chunk_tokens(10**9) == 64


def largest_tensor(step: Callable[[], Any]) -> int:
    """Bytes of the largest single CPU allocation while `step` runs, from the profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    return max(event.cpu_memory_usage for event in profile.events())


def test_no_tensor_of_the_size_of_all_logits_is_ever_made() -> None:
    hidden, weight, _, labels = case(1, 2048, 16, 1024, 0.0)
    all_logits = 2048 * 1024 * 4
    assert largest_tensor(lambda: plain(hidden, weight, labels).backward()) >= all_logits
    chunked = largest_tensor(lambda: chunked_cross_entropy(hidden, weight, labels, chunk_tokens=128).backward())
    assert chunked <= all_logits / 8


# ------------------------------------------------------------------ whole models


def model_of(model_type: str, **changes: Any) -> Any:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    torch.manual_seed(0)
    config = CONFIG_MAPPING[model_type](**{**SHARED, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, **changes})
    model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    if head.bias is not None:
        nn.init.normal_(head.bias)
    return model


def batch() -> dict[str, Tensor]:
    tokens = torch.randint(3, 101, (2, 24), generator=torch.Generator().manual_seed(1))
    labels = tokens.clone()
    labels[0, :10] = -100
    mask = torch.ones_like(tokens)
    mask[1, 20:] = 0
    labels[1, 20:] = -100
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: tensor.grad.clone() for name, tensor in model.named_parameters() if tensor.grad is not None}


def assert_same_training(model: nn.Module, **options: Any) -> None:
    """Loss and every gradient of the chunked path equal those of the model's own loss."""
    inputs = batch()
    assert why_not_chunked(model) == ""
    expected = model(**inputs).loss
    wanted = gradients(model, expected)
    ours = causal_lm_loss(model, inputs, **{"chunk_tokens": 7, **options})
    found = gradients(model, ours)
    assert abs(float((ours - expected).detach())) < 1e-6 * max(1.0, float(expected.detach()))
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert float((found[name] - tensor).abs().max()) < 1e-6, name


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"tie_word_embeddings": False}),
        ("qwen3", {"head_dim": 8, "num_key_value_heads": 2}),
        ("mistral", {"num_key_value_heads": 2}),
        ("phi", {}),
        ("gpt_neox", {}),
        (
            "gpt2",
            {
                "n_embd": 32,
                "n_layer": 2,
                "n_head": 4,
                "n_positions": 64,
                "resid_pdrop": 0,
                "embd_pdrop": 0,
                "attn_pdrop": 0,
            },
        ),
        ("gemma2", {"head_dim": 8, "num_key_value_heads": 2, "final_logit_softcapping": 0.5}),
        ("granite", {"logits_scaling": 4.0, "num_key_value_heads": 2}),
        ("cohere", {"logit_scale": 0.25, "num_key_value_heads": 2}),
    ],
)
def test_architectures_train_the_same(model_type: str, changes: dict[str, Any]) -> None:
    if model_type == "gpt2":
        changes = {**changes, "hidden_size": 32}
    assert_same_training(model_of(model_type, **changes))


def lora(model: nn.Module, **changes: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=4, init_lora_weights=False, **{"target_modules": ["q_proj", "v_proj"], **changes}))


@pytest.mark.parametrize(
    ("tied", "changes", "head_trains"),
    [
        (True, {}, False),
        (True, {"modules_to_save": ["embed_tokens", "norm"], "ensure_weight_tying": True}, True),
        (True, {"modules_to_save": ["embed_tokens"]}, False),
        (False, {"modules_to_save": ["embed_tokens", "lm_head"]}, True),
    ],
)
def test_adapters_and_fully_trained_modules_train_the_same(tied: bool, changes: dict[str, Any], head_trains: bool) -> None:
    model = lora(model_of("llama", tie_word_embeddings=tied), **changes)
    assert head_of(model).weight.requires_grad == head_trains
    assert_same_training(model)


def test_a_tied_embedding_trained_with_lora_takes_steps_like_the_plain_loss() -> None:
    inputs = batch()
    first = lora(model_of("llama", tie_word_embeddings=True), modules_to_save=["embed_tokens", "norm"], ensure_weight_tying=True)
    second = copy.deepcopy(first)
    for model, loss_of in (
        (first, lambda m: m(**inputs).loss),
        (second, lambda m: causal_lm_loss(m, inputs, chunk_tokens=5)),
    ):
        optimizer = torch.optim.SGD([tensor for tensor in model.parameters() if tensor.requires_grad], lr=0.5)
        for _ in range(5):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
    weights = dict(second.named_parameters())
    for name, tensor in first.named_parameters():
        assert float((tensor - weights[name]).abs().max()) < 1e-5, name
    assert head_of(second).weight is second.get_base_model().get_input_embeddings().modules_to_save["default"].weight


def test_disabled_adapters_use_the_original_head() -> None:
    inputs, model = batch(), lora(model_of("llama", tie_word_embeddings=False), modules_to_save=["lm_head"])
    with torch.no_grad():
        head_of(model).weight.mul_(2.0)
        with model.disable_adapter():
            assert torch.allclose(causal_lm_loss(model, inputs), model(**inputs).loss)
        assert torch.allclose(causal_lm_loss(model, inputs), model(**inputs).loss)


def test_num_items_and_aligned_labels_as_the_trainer_gives_them() -> None:
    inputs, model = batch(), model_of("llama")
    expected = model(**inputs, num_items_in_batch=torch.tensor(123)).loss
    assert torch.allclose(causal_lm_loss(model, inputs, torch.tensor(123)), expected)
    aligned = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    assert torch.allclose(causal_lm_loss(model, {**aligned, "shift_labels": shift_labels(inputs["labels"])}, 123), expected)


def test_with_activation_checkpointing() -> None:
    model = model_of("llama")
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    assert_same_training(model)


def test_heads_that_are_not_a_plain_linear_are_refused_by_name() -> None:
    model = lora(model_of("llama"), target_modules=["q_proj", "lm_head"])
    with pytest.raises(UnsupportedHeadError, match=r"LlamaForCausalLM is a Linear.*leave the head out|not a plain linear"):
        causal_lm_loss(model, batch())
    assert "not a plain linear layer" in why_not_chunked(model)


def test_virtual_tokens_and_router_losses_are_refused() -> None:
    from peft import PrefixTuningConfig, get_peft_model

    prefixed = get_peft_model(model_of("llama"), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    assert "virtual tokens" in why_not_chunked(prefixed)
    mixture = model_of("mixtral", num_local_experts=2, num_key_value_heads=2, output_router_logits=True)
    assert "router loss" in why_not_chunked(mixture)


def test_a_head_with_arithmetic_of_its_own_is_found_by_comparison() -> None:
    from transformers import LlamaForCausalLM

    class Shouting(LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 3.0
            return output

    model = Shouting(model_of("llama").config).train()
    assert "changes its logits after the output head" in why_not_chunked(model)
    assert model.training


def test_the_hook_is_gone_even_after_a_failure() -> None:
    model = model_of("llama")
    with pytest.raises(ValueError, match="cannot be scored"):
        causal_lm_loss(model, {**batch(), "labels": batch()["labels"][:, :5]})
    assert not model.lm_head._forward_pre_hooks
    assert model(**batch()).logits.shape == (2, 24, 101)
