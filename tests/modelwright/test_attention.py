from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from helpers.tiny_random import byte_tokenizer, random_gpt2, random_llama, random_qwen3
from modelwright.attention import Seen, observe, register_attention, sdpa, use_attention
from modelwright.errors import UsageError

MODELS = pytest.mark.parametrize("build", [random_llama, random_qwen3, random_gpt2], ids=["llama", "qwen3", "gpt2"])
NAME = "modelwright_test_observe"


def _padded() -> dict[str, torch.Tensor]:
    tokenizer = byte_tokenizer()
    tokenizer.padding_side = "left"
    return dict(tokenizer(["a short row", "a row that is somewhat longer"], return_tensors="pt", padding=True))


@MODELS
@torch.no_grad()
def test_sees_every_layer_and_is_bit_identical(build: Callable[[], PreTrainedModel]) -> None:
    model = build()
    seen: list[Seen] = []
    register_attention(NAME, observe(seen.append))
    inputs = _padded()
    expected = model(**inputs).logits
    with use_attention(model, NAME):
        found = model(**inputs).logits
    assert torch.equal(found, expected)
    assert [call.layer for call in seen] == [0, 1]
    batch, length = inputs["input_ids"].shape
    key_heads = getattr(model.config, "num_key_value_heads", 4)
    assert {call.query for call in seen} == {(batch, 4, length, 16)}
    assert {call.key for call in seen} == {call.value for call in seen} == {(batch, key_heads, length, 16)}
    assert all(call.masked for call in seen)  # the padding reached the function


@MODELS
@torch.no_grad()
def test_sees_the_whole_cache_at_each_decoding_step(build: Callable[[], PreTrainedModel]) -> None:
    model = build()
    seen: list[Seen] = []
    register_attention(NAME, observe(seen.append))
    ids = torch.arange(20)[None]
    expected = model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    with use_attention(model, NAME):
        found = model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert torch.equal(found, expected)
    lengths = [(call.query[2], call.key[2]) for call in seen if call.layer == 1]
    assert lengths == [(20, 20), (1, 21), (1, 22), (1, 23)]


@torch.no_grad()
def test_a_function_can_change_what_attention_sees() -> None:
    def blind(module: torch.nn.Module, query: Any, key: Any, value: Any, mask: Any, scaling: Any, **options: Any) -> Any:
        return sdpa(module, query, key, torch.zeros_like(value), mask, scaling, **options)

    register_attention("modelwright_test_blind", blind)
    model = random_llama()
    ids = torch.tensor([[1, 2, 3, 4]])
    before = model(ids).logits
    with use_attention(model, "modelwright_test_blind"):
        changed = model(ids).logits
        other = model(torch.tensor([[9, 8, 7, 4]])).logits
    assert not torch.allclose(before, changed)
    torch.testing.assert_close(changed[0, -1], other[0, -1])  # without values nothing but the last token counts
    assert torch.equal(model(ids).logits, before)


def test_keys_arrive_after_rotary_embedding() -> None:
    """The same token at two positions has two different keys in Llama, one value."""
    keys: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, query: Any, key: Any, value: Any, mask: Any, scaling: Any, **options: Any) -> Any:
        keys.append(key)
        return sdpa(module, query, key, value, mask, scaling, **options)

    register_attention("modelwright_test_keep", keep)
    model = random_llama(num_hidden_layers=1)
    with torch.no_grad(), use_attention(model, "modelwright_test_keep"):
        model(torch.tensor([[5, 5]]))
    assert not torch.allclose(keys[0][0, :, 0], keys[0][0, :, 1])
    torch.testing.assert_close(keys[0][0, :, 0].norm(), keys[0][0, :, 1].norm())


def test_restored_exactly_also_after_an_error() -> None:
    register_attention(NAME, observe(lambda _: None))
    model = random_llama()
    model.set_attn_implementation("eager")
    inside: list[str] = []

    def fail() -> None:
        with use_attention(model, NAME):
            inside.append(model.config._attn_implementation)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert inside == [NAME]
    assert model.config._attn_implementation == "eager"


@torch.no_grad()
def test_works_through_peft() -> None:
    peft = pytest.importorskip("peft")
    seen: list[Seen] = []
    register_attention(NAME, observe(seen.append))
    model = peft.get_peft_model(random_llama(), peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    with use_attention(model, NAME):
        model(input_ids=torch.tensor([[1, 2]]))
    model(input_ids=torch.tensor([[1, 2]]))
    assert len(seen) == 2


def test_wrong_names() -> None:
    with pytest.raises(UsageError, match="belongs to the library"):
        register_attention("sdpa", observe(lambda _: None))
    with pytest.raises(UsageError, match=r"allowed are .*sdpa"):
        register_attention("modelwright_test_x", observe(lambda _: None), mask="none")
    with pytest.raises(UsageError, match="not registered"), use_attention(random_llama(), "modelwright_nowhere"):
        pass
