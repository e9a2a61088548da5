"""The quantised cache: against the kernel's own arithmetic, token by token, and through the engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.engine_listener import ask, engine_settings
from helpers.tiny_random import random_gpt2, random_llama, random_qwen3, save_model
from macprovider.engines.base import EngineError, KvBits
from macprovider.engines.embedded.attention import attend_quantised
from macprovider.engines.embedded.cache import Sizes
from macprovider.engines.embedded.engine import TransformersEngine
from macprovider.engines.embedded.layout import formats
from macprovider.engines.embedded.quantised import QuantisedCache
from modelwright.kv.quantisers import dequantise, quantise
from modelwright.tiny import tiny_model_path

HEADS, D, LAYERS = 2, 16, 2


def sizes(slots: int = 4) -> Sizes:
    return Sizes(LAYERS, HEADS, D, torch.float32, torch.device("cpu"), slots, 400)


def stream(tokens: int, seed: int) -> Tensor:
    """Keys and values of all layers, `[LAYERS, 2, 1, HEADS, tokens, D]`, with channels of different size."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(LAYERS, 2, 1, HEADS, tokens, D, generator=generator) * torch.linspace(0.1, 4, D)


def reads(x: Tensor, bits: KvBits) -> tuple[Tensor, Tensor]:
    """What a cache of these keys and values `[2, 1, HEADS, T, D]` must hold."""
    old = max(0, x.shape[3] - 32) // 32 * 32
    done = []
    for part, form in zip(x, formats(bits, D), strict=True):
        lossy = dequantise(quantise(part[:, :, :old], form), form, part.dtype) if old else part[:, :, :0]
        done.append(torch.cat((lossy, part[:, :, old:]), dim=2))
    return done[0], done[1]


def feed_prompt(cache: QuantisedCache, row: int, x: Tensor, pieces: list[int]) -> None:
    at = 0
    for piece in pieces:
        cache.reserve(row + 1, at + piece)
        cache.begin_prompt(row, at, piece)
        for layer, part in zip(cache.layers, x[..., at : at + piece, :], strict=True):
            layer.update(part[0], part[1])
        at += piece
        cache.stored([row], [at])


def feed_token(cache: QuantisedCache, lengths: list[int], rows: list[Tensor]) -> None:
    cache.reserve(len(rows), max(lengths) + 1)
    cache.begin_answers(lengths)
    for index, layer in enumerate(cache.layers):
        keys, values = (torch.cat([x[index, side, :, :, n : n + 1] for x, n in zip(rows, lengths, strict=True)]) for side in range(2))
        layer.update(keys, values)


def held(cache: QuantisedCache, row: int, length: int, layer: int) -> tuple[Tensor, Tensor]:
    blocks = cache.quantised.counts[row]
    keys, values = cache.layers[layer].restored(row, 1, blocks)
    inside = length - blocks * 32
    windows = [window[row : row + 1, :, :inside] for window in cache.layers[layer].windows]
    return torch.cat((keys, windows[0]), dim=2), torch.cat((values, windows[1]), dim=2)


@pytest.mark.parametrize("bits", [8, 4])
def test_every_row_reads_back_as_if_it_were_alone(bits: KvBits) -> None:
    """Prompts in pieces, then tokens one by one; whatever the neighbours, bit for bit."""
    cache = QuantisedCache(sizes(), bits, direct=True)
    rows = [stream(300, seed) for seed in range(3)]
    lengths = [150, 5, 64]
    for row, (x, length) in enumerate(zip(rows, lengths, strict=True)):
        pieces = [40, 40, 40, 30] if row == 0 else [length]
        feed_prompt(cache, row, x, pieces)
    for _ in range(90):
        feed_token(cache, lengths, rows)
        lengths = [length + 1 for length in lengths]
        cache.stored([0, 1, 2], lengths)
    for row, length in enumerate(lengths):
        assert cache.quantised.counts[row] == (length - 32) // 32
        for layer in range(LAYERS):
            expected = reads(rows[row][layer, ..., :length, :], bits)
            for found, want in zip(held(cache, row, length, layer), expected, strict=True):
                assert torch.equal(found, want)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("group", [1, 3])
def test_attention_over_codes_is_attention_over_what_they_stand_for(bits: KvBits, group: int) -> None:
    cache = QuantisedCache(sizes(), bits, direct=True)
    rows = [stream(260, seed) for seed in range(3)]
    lengths = [20, 255, 96]
    for row, (x, length) in enumerate(zip(rows, lengths, strict=True)):
        feed_prompt(cache, row, x, [length])
    query = torch.randn(3, HEADS * group, 1, D, generator=torch.Generator().manual_seed(9))
    feed_token(cache, lengths, rows)
    for layer in range(LAYERS):
        found = attend_quantised(query, cache.layers[layer], 0.3)
        for row, length in enumerate(lengths):
            keys, values = (part.repeat_interleave(group, dim=1) for part in held(cache, row, length + 1, layer))
            expected = F.scaled_dot_product_attention(query[row : row + 1], keys, values, scale=0.3).transpose(1, 2)
            assert torch.allclose(found[row : row + 1], expected, atol=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
def test_rows_move_with_their_blocks_and_hand_over_what_is_exact(bits: KvBits) -> None:
    cache = QuantisedCache(sizes(), bits, direct=True)
    rows = [stream(300, seed) for seed in range(2)]
    feed_prompt(cache, 0, rows[0], [200])
    feed_prompt(cache, 1, rows[1], [70])
    before = [held(cache, row, length, 1) for row, length in ((0, 200), (1, 70))]
    cache.swap(0, 1, 200)
    after = [held(cache, row, length, 1) for row, length in ((1, 200), (0, 70))]
    assert all(torch.equal(a, b) for first, second in zip(before, after, strict=True) for a, b in zip(first, second, strict=True))
    # 200 tokens are five blocks and forty tokens of the window.
    assert [cache.reusable(1, shared) for shared in (31, 32, 100, 159, 160, 185)] == [0, 32, 96, 128, 160, 185]
    cache.reserve(3, 200)
    cache.move(1, 2, 185)
    cache.keep(2, 185)
    assert cache.quantised.counts[:3] == [1, 5, 5]
    assert all(torch.equal(a, b[:, :, :185]) for a, b in zip(held(cache, 2, 185, 0), held(cache, 1, 200, 0), strict=True))
    cache.keep(2, 96)
    assert cache.quantised.counts[2] == 3


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("family", [random_llama, random_qwen3, random_gpt2])
def test_a_row_of_the_engine_does_not_depend_on_its_neighbours(family: object, bits: KvBits, tmp_path: Path) -> None:
    folder = save_model(tmp_path, family(seed=1))  # type: ignore[operator]
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randint(0, 256, (length,), generator=generator).tolist() for length in (100, 9, 61, 140)]
    answers = []
    for batch in (1, 3):
        engine = TransformersEngine(engine_settings(folder, kv_bits=bits, max_batch=batch, prefix_reuse=False), piece=32)
        assert engine.load().kv_bits == bits
        heard = [ask(engine, prompt, 40 + 5 * index, top_logprobs=0) for index, prompt in enumerate(prompts)]
        answers.append([collected.wait() for collected in heard])
        engine.close()
    for alone, together in zip(*answers, strict=True):
        assert alone.reason == "length" and alone.ids == together.ids
        assert [t.logprob for t in alone.heard] == pytest.approx([t.logprob for t in together.heard], abs=2e-3)


def test_a_trained_model_answers_alike_with_eight_bits_and_holds_less() -> None:
    folder = Path(tiny_model_path("modelwright/tiny-0.4m"))
    prompt = [(7 * index) % 900 + 50 for index in range(300)]
    heard, facts, used = {}, {}, {}
    for bits in (None, 8, 4):
        engine = TransformersEngine(engine_settings(folder, kv_bits=bits, max_batch=1, max_context=512))
        facts[bits] = engine.load()
        heard[bits] = ask(engine, prompt, 60, top_logprobs=0).wait()
        used[bits] = engine.metrics().kv_bytes
        engine.close()
    assert heard[8].ids == heard[None].ids
    assert [t.logprob for t in heard[8].heard] == pytest.approx([t.logprob for t in heard[None].heard], abs=0.05)
    # Blocks of the full context, 15 of 32 tokens: codes, scale and lowest level of 32 channels and of 32 tokens, for keys and
    # for values; and 64 tokens in float32. Three layers with one head.
    for bits in (8, 4):
        block = 2 * (32 * 32 * bits // 8 + 32 * 2 * 2)
        assert facts[bits].kv_bytes_per_token == pytest.approx(3 * (15 * block + 2 * 64 * 32 * 4) / 512)
    assert facts[None].kv_bytes_per_token == 3 * 2 * 32 * 4
    assert used[4] < used[8] < used[None]


def test_a_quantised_prefix_is_taken_over_in_whole_blocks() -> None:
    folder = Path(tiny_model_path("modelwright/tiny-0.4m"))
    prompt = [(11 * index) % 900 + 50 for index in range(200)]
    other = [*prompt[:130], *prompt[20:60]]
    fresh = TransformersEngine(engine_settings(folder, kv_bits=8, prefix_reuse=False, max_context=512))
    assert "prefix_reuse" not in fresh.load().features
    expected = [ask(fresh, each, 12).wait().ids for each in (prompt, other)]
    assert fresh.metrics().cached_prompt_tokens == 0
    fresh.close()
    engine = TransformersEngine(engine_settings(folder, kv_bits=8, max_context=512))
    assert "prefix_reuse" in engine.load().features
    try:
        answers = [ask(engine, each, 12).wait() for each in (prompt, prompt, other)]
        assert [answer.ids for answer in answers] == [expected[0], expected[0], expected[1]]
        # The first left 211 tokens: five blocks and a window; the third shares 130 tokens, four blocks and two tokens more.
        assert [answer.ticket.cached_tokens for answer in answers if answer.ticket] == [0, 199, 128]
    finally:
        engine.close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_short_contexts_and_half_formats_work(dtype: str, tmp_path: Path) -> None:
    folder = save_model(tmp_path, random_llama())
    for context in (20, 33, 200):
        engine = TransformersEngine(engine_settings(folder, kv_bits=4, max_context=context, dtype=dtype, max_batch=2))
        facts = engine.load()
        heard = [ask(engine, [index + 1] * (context - 10), 50).wait() for index in range(2)]
        engine.close()
        assert facts.context == context and facts.dtype == dtype and facts.kv_bytes_per_token > 0
        assert [(answer.reason, len(answer.ids)) for answer in heard] == [("length", 10)] * 2


def test_a_head_size_that_cannot_be_quantised_is_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path, random_llama(head_dim=12))
    engine = TransformersEngine(engine_settings(folder, kv_bits=8))
    with pytest.raises(EngineError, match="head_dim"):
        engine.load()
    engine.close()
