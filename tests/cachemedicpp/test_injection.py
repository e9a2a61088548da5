"""Stored and inline injection on real attention layouts (specs/medic.md, 2.7)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, MistralConfig, MistralForCausalLM, PreTrainedModel, StaticCache

from cachemedicpp import seeds
from cachemedicpp.faults.corruption import Corruption, DonorCache, DrawCounter, corrupt
from cachemedicpp.faults.events import CORRUPTION_TYPES, DONOR_PROMPT, Axes, Event, OperatorParams
from cachemedicpp.faults.injection import donor_cache, fork_cache, inject_stored, inline_hook, layer_state, starts_of
from helpers.tiny_random import byte_tokenizer, random_gpt2, random_llama, random_qwen3
from modelwright.attention import register_attention, sdpa, use_attention
from modelwright.errors import LoadError, UsageError

LAYOUTS = {"llama": random_llama, "qwen3": random_qwen3, "gpt2": random_gpt2}
EVERY_LAYOUT = pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS.keys())
PARAMS = OperatorParams(dropout_p=0.3, bitflip_p=0.1, quant_bits=3, overwrite_window=(4, 20))
EVENT = Event("gaussian", 0.3)


def settings_of(model: PreTrainedModel, *protected: int, **changes: object) -> Corruption:
    donor = donor_cache(model, byte_tokenizer(), DONOR_PROMPT, protected)
    return Corruption(7, protected, **{"axes": Axes(), "params": PARAMS, "donor": donor, **changes})  # type: ignore[arg-type]


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(5))


def prefill(model: PreTrainedModel, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> DynamicCache:
    positions = None if mask is None else (mask.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        return model(input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=True).past_key_values


def scored(model: PreTrainedModel, cache: object, tail: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=tail, past_key_values=cache, use_cache=True).logits


@EVERY_LAYOUT
def test_stored_injection_changes_the_protected_layer_of_the_cache_once(make: Callable[..., PreTrainedModel]) -> None:
    model, tokens = make(), ids(2, 24)
    corruption, where = settings_of(model, 1), DrawCounter(seeds.EVAL, 0, (3, 4))
    clean, cache = prefill(model, tokens), prefill(model, tokens)
    result = inject_stored(cache, corruption, EVENT, where)
    assert list(result) == [1]
    for clean_part, stored_part in zip(layer_state(clean, 0), layer_state(cache, 0), strict=True):
        assert torch.equal(clean_part, stored_part)
    expected = corrupt(corruption, EVENT, where, 1, *layer_state(clean, 1))
    assert torch.equal(layer_state(cache, 1)[0], expected.key) and torch.equal(layer_state(cache, 1)[1], expected.value)
    tail = ids(2, 6)
    harm = (scored(model, cache, tail) - scored(model, clean, tail)).abs().amax(dim=(0, 2))
    assert (harm > 1e-3).all()  # read again at every step
    assert torch.equal(layer_state(cache, 1)[0][:, :, :24], expected.key) and layer_state(cache, 1)[0].shape[2] == 30


@EVERY_LAYOUT
def test_one_block_and_token_by_token_read_the_same_damage(make: Callable[..., PreTrainedModel]) -> None:
    model, tokens, tail = make(), ids(1, 24), ids(1, 5)
    cache = prefill(model, tokens)
    inject_stored(cache, settings_of(model, 0, 1), EVENT, DrawCounter(seeds.EVAL, 0, (3,)))
    other = fork_cache(cache)
    block = scored(model, cache, tail)
    steps = torch.cat([scored(model, other, tail[:, i : i + 1]) for i in range(5)], dim=1)
    assert torch.allclose(block, steps, atol=1e-4)


@EVERY_LAYOUT
def test_a_left_padded_batch_is_damaged_like_its_single_runs(make: Callable[..., PreTrainedModel]) -> None:
    model, lengths = make(), (24, 15, 9)
    axes = Axes(head_mode="bernoulli", p_head=0.5, time_mode="old_only", N_recent=3)
    tokens = ids(3, 24)
    mask = (torch.arange(24) >= torch.tensor([24 - length for length in lengths])[:, None]).long()
    for kind in CORRUPTION_TYPES:
        corruption = settings_of(model, 1, axes=axes)
        cache = prefill(model, tokens, mask)
        inject_stored(cache, corruption, Event(kind, 0.16), DrawCounter(seeds.EVAL, 2, (5, 6, 7)), starts_of(mask))
        for row, length in enumerate(lengths):
            single = prefill(model, tokens[row : row + 1, 24 - length :])
            inject_stored(single, corruption, Event(kind, 0.16), DrawCounter(seeds.EVAL, 2, (5 + row,)))
            for part, alone in zip(layer_state(cache, 1), layer_state(single, 1), strict=True):
                close = torch.isclose(part[row, :, 24 - length :], alone[0], atol=1e-4)
                # a value on the edge of a quantisation step may fall either way after a prefill in another batch
                assert float(close.float().mean()) > (0.99 if kind == "quant_noise" else 0.99999)


def test_a_fork_leaves_the_prefill_clean() -> None:
    model, tokens, tail = random_llama(), ids(1, 20), ids(1, 3)
    clean = prefill(model, tokens)
    expected = scored(model, fork_cache(clean), tail)
    damaged = fork_cache(clean)
    inject_stored(damaged, settings_of(model, 0, 1), EVENT, DrawCounter(seeds.EVAL, 0, (0,)))
    assert not torch.equal(scored(model, damaged, tail), expected)
    assert clean.get_seq_length() == 20 and torch.equal(scored(model, fork_cache(clean), tail), expected)


def test_sliding_window_layers_count_from_what_they_still_hold() -> None:
    config = MistralConfig(
        vocab_size=260,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        sliding_window=12,
    )
    model = MistralForCausalLM(config).eval()
    mask = torch.ones(2, 20, dtype=torch.long)
    mask[1, :13] = 0
    tokens = ids(2, 20)
    corruption, event = Corruption(7, (0,), Axes(time_mode="window", window=(0, 2))), Event("gaussian", 0.3)
    clean, cache = prefill(model, tokens, mask), prefill(model, tokens, mask)
    inject_stored(cache, corruption, event, DrawCounter(seeds.EVAL, 0, (0, 1)), starts_of(mask))
    assert layer_state(cache, 0)[0].shape[2] == 11  # tokens 9 to 19; row 1 starts at token 13
    struck = (layer_state(cache, 0)[0] != layer_state(clean, 0)[0]).any(dim=-1).any(dim=1)
    assert [row.nonzero().flatten().tolist() for row in struck] == [[0, 1], [4, 5]]


@EVERY_LAYOUT
def test_inline_hook_inside_an_attention_function(make: Callable[..., PreTrainedModel]) -> None:
    model, tokens = make(), ids(2, 24)
    corruption, heard = settings_of(model, 1), []
    hook = inline_hook(corruption, EVENT, DrawCounter(seeds.EVAL, 0, (3, 4)), lambda layer, result: heard.append((layer, result.heads)))

    def attention(module, query, key, value, mask, scaling, **options):
        key, value = hook(module.layer_idx, key, value, None)
        return sdpa(module, query, key, value, mask, scaling, **options)

    register_attention("test_inline_corruption", attention)
    clean = prefill(model, tokens)
    with torch.no_grad():
        expected = model(input_ids=tokens).logits
        with use_attention(model, "test_inline_corruption"):
            out = model(input_ids=tokens, use_cache=True)
    assert (out.logits - expected).abs().max() > 1e-3
    heads = clean.layers[0].keys.shape[1]
    assert heard == [(1, (heads, heads))]
    for layer in (0, 1):
        assert torch.allclose(layer_state(out.past_key_values, layer)[0], layer_state(clean, layer)[0], atol=1e-5)


def test_inline_hook_hands_unprotected_and_clean_layers_through() -> None:
    key, value = torch.randn(1, 2, 8, 4), torch.randn(1, 2, 8, 4)
    hook = inline_hook(Corruption(7, (1,)), Event("gaussian", 0.0), DrawCounter(seeds.EVAL, 0, (0,)))
    for layer in (0, 1):
        assert hook(layer, key, value, None)[0] is key


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_starts_of_a_left_padded_mask(starts: list[int]) -> None:
    mask = (torch.arange(9) >= torch.tensor(starts)[:, None]).long()
    assert starts_of(mask).tolist() == starts


def test_padding_elsewhere_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Row 1 .* pad on the left"):
        starts_of(torch.tensor([[0, 1, 1], [1, 1, 0]]))


@EVERY_LAYOUT
def test_donor_cache_is_the_clean_pass_of_the_prompt(make: Callable[..., PreTrainedModel]) -> None:
    model, tokenizer = make(), byte_tokenizer()
    donor = donor_cache(model, tokenizer, DONOR_PROMPT, (0, 1))
    tokens = tokenizer(DONOR_PROMPT, add_special_tokens=False, return_tensors="pt")["input_ids"]
    assert donor.tokens == tokens.shape[1] == len(DONOR_PROMPT)
    cache = prefill(model, tokens)
    for layer in (0, 1):
        for held, expected in zip(donor.layers[layer], layer_state(cache, layer), strict=True):
            assert torch.equal(held, expected[0])
    assert donor.as_dict()["donor_first_index"] == 0


def test_a_donor_prompt_of_one_token_becomes_two_eos_tokens() -> None:
    model, tokenizer = random_llama(), byte_tokenizer()
    donor = donor_cache(model, tokenizer, "x", (0,))
    eos = torch.full((1, 2), tokenizer.eos_token_id)
    assert donor.tokens == 2 and torch.equal(donor.layers[0][0], layer_state(prefill(model, eos), 0)[0][0])


def test_donor_faults_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = random_llama(), byte_tokenizer()
    with pytest.raises(UsageError, match=r"layer 9 is not among them"):
        donor_cache(model, tokenizer, DONOR_PROMPT, (9,))
    with pytest.raises(UsageError, match="training mode"):
        donor_cache(random_llama().train(), tokenizer, DONOR_PROMPT, (0,))
    monkeypatch.setattr(tokenizer, "_special_tokens_map", {**tokenizer._special_tokens_map, "eos_token": None})
    with pytest.raises(LoadError, match="no EOS token"):
        donor_cache(model, tokenizer, "x", (0,))


def test_a_cache_that_does_not_hold_plain_tensors_is_refused_before_anything_changed() -> None:
    model = random_llama()
    cache = StaticCache(config=model.config, max_cache_len=40)
    with torch.no_grad():
        model(input_ids=ids(1, 10), past_key_values=cache, use_cache=True)
    with pytest.raises(UsageError, match="does not hold its tokens as plain keys and values"):
        inject_stored(cache, Corruption(7, (0,)), EVENT, DrawCounter(seeds.EVAL, 0, (0,)))
    dynamic = prefill(model, ids(1, 10))
    before = layer_state(dynamic, 0)[0]
    with pytest.raises(UsageError, match="layer 5"):
        inject_stored(dynamic, Corruption(7, (0, 5)), EVENT, DrawCounter(seeds.EVAL, 0, (0,)))
    assert layer_state(dynamic, 0)[0] is before
    without = Corruption(7, (0,), donor=DonorCache("", 2, {}))
    with pytest.raises(UsageError, match="without layer 0"):
        inject_stored(dynamic, without, Event("contiguous_overwrite", 0.1), DrawCounter(seeds.EVAL, 0, (0,)))
