from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from helpers.tiny_random import byte_tokenizer, random_gpt2, random_llama
from modelwright.errors import LoadError, UsageError
from modelwright.probes.likelihood import token_losses
from modelwright.probes.quiet import undisturbed
from modelwright.probes.sliding_ppl import PerplexityStopped, doubling_lengths, perplexity

SHORT = "The mill stands at the river. Grün ist die Wiese, und 3 Krähen sitzen da."
LONG = " ".join(f"Row {i} holds {i * i} grains of sand." for i in range(40))


def _reference(model: Any, ids: list[int], scored: int) -> float:
    """Negative log-likelihood of the last `scored` tokens, from the model's own full logits."""
    with torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0].double()
    picked = logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
    return -float(picked[len(ids) - 1 - scored :].sum())


def _ids(text: str) -> list[int]:
    tokenizer = byte_tokenizer()
    return [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]


def test_protocols_agree_when_the_document_fits_one_window() -> None:
    """Acceptance item 47 of the requirements."""
    model = random_llama()
    fits = len(_ids(SHORT))
    for length in (fits, fits + 7, 200):
        truncated = perplexity(model, byte_tokenizer(), [SHORT], length, protocol="truncated")
        sliding = perplexity(model, byte_tokenizer(), [SHORT], length, protocol="sliding", stride=16)
        assert truncated.perplexity == sliding.perplexity
        assert truncated.perplexity_window_mean == sliding.perplexity_window_mean == pytest.approx(sliding.perplexity)
        assert (truncated.windows, truncated.tokens, truncated.bytes) == (1, fits - 1, len(SHORT.encode()))
        assert (truncated.name, sliding.name) == ("sliding_ppl_truncated", "sliding_ppl_sliding")
    longer = perplexity(model, byte_tokenizer(), [SHORT], fits - 1, protocol="sliding", stride=16)
    shorter = perplexity(model, byte_tokenizer(), [SHORT], fits - 1, protocol="truncated")
    assert (longer.windows, longer.tokens, shorter.tokens) == (2, fits - 1, fits - 2)


def test_truncated_equals_hand_computation() -> None:
    model = random_llama()
    result = perplexity(model, byte_tokenizer(), [LONG, SHORT], 64, logits_chunk=10)
    losses = [_reference(model, _ids(LONG)[:64], 63), _reference(model, _ids(SHORT)[:64], 63)]
    assert result.nll == pytest.approx(sum(losses), rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(sum(losses) / 126), rel=1e-5)
    assert result.bits_per_byte == pytest.approx(sum(losses) / math.log(2) / result.bytes, rel=1e-5)
    assert result.bytes == 63 + len(SHORT.encode()[:63])
    assert (result.documents, result.tokens, result.windows, result.bos) == (2, 126, 2, True)


def test_sliding_equals_hand_computation_in_both_averages() -> None:
    model = random_llama()
    length, stride = 128, 48
    result = perplexity(model, byte_tokenizer(), [LONG], length, protocol="sliding", stride=stride)
    ids = _ids(LONG)
    losses, counts, end = [_reference(model, ids[:length], length - 1)], [length - 1], length
    while end < len(ids):
        new = min(end + stride, len(ids))
        losses.append(_reference(model, ids[new - length : new], new - end))
        counts.append(new - end)
        end = new
    assert sum(counts) == len(ids) - 1 == result.tokens  # every token is scored once
    assert result.windows == len(losses)
    assert result.perplexity == pytest.approx(math.exp(sum(losses) / sum(counts)), rel=1e-5)
    mean = sum(loss / count for loss, count in zip(losses, counts, strict=True)) / len(losses)
    assert result.perplexity_window_mean == pytest.approx(math.exp(mean), rel=1e-5)
    assert result.perplexity_window_mean != result.perplexity
    assert result.bytes == len(LONG.encode())


def _gemma2() -> Any:
    """A model whose logits are more than its head: they are capped."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=260,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        final_logit_softcapping=2.0,
        sliding_window=64,
    )
    model = Gemma2ForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    return model


@pytest.mark.parametrize("build", [random_llama, random_gpt2, _gemma2], ids=["llama", "gpt2", "gemma2-softcap"])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunked_losses_equal_full_logits(build: Any, chunk: int) -> None:
    model = build()
    ids = torch.randint(0, 250, (50,), generator=torch.Generator().manual_seed(3)).tolist()
    with undisturbed(model):
        for scored in (49, 20, 1):
            losses = token_losses(model, ids, scored, chunk)
            assert losses.shape == (scored,)
            assert float(losses.sum()) == pytest.approx(_reference(model, ids, scored), rel=2e-5)


def test_full_logits_are_never_held() -> None:
    """The head sees at most `logits_chunk` positions at a time."""
    model = random_llama()
    sizes: list[int] = []
    model.lm_head.register_forward_pre_hook(lambda module, arguments: sizes.append(arguments[0].shape[-2]))
    perplexity(model, byte_tokenizer(), [LONG], 400, logits_chunk=32)
    assert max(sizes) <= 32 and sum(sizes) >= 399


def test_adapters_count() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = peft.get_peft_model(
        random_llama(), peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    )
    adapted = perplexity(model, byte_tokenizer(), [SHORT], 64).perplexity
    with model.disable_adapter():
        plain = perplexity(model, byte_tokenizer(), [SHORT], 64).perplexity
    assert plain == pytest.approx(perplexity(random_llama(), byte_tokenizer(), [SHORT], 64).perplexity)
    assert adapted != pytest.approx(plain)


def test_dynamic_rope_gives_the_same_number_in_any_order() -> None:
    model = random_llama(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, max_position_embeddings=32)
    first = perplexity(model, byte_tokenizer(), [LONG], 40).nll
    perplexity(model, byte_tokenizer(), [LONG], 400)
    assert perplexity(model, byte_tokenizer(), [LONG], 40).nll == first


def test_documents_that_are_too_short() -> None:
    model = random_llama()
    result = perplexity(model, byte_tokenizer(), [LONG, "x" * 20, ""], 100, full_only=True)
    assert (result.documents, result.skipped_documents) == (1, 2)
    assert perplexity(model, byte_tokenizer(), [LONG, "x" * 20, ""], 100).documents == 2
    with pytest.raises(LoadError, match="too short"):
        perplexity(model, byte_tokenizer(), ["x"], 100, full_only=True)


def test_stopping_wrong_arguments_and_lengths() -> None:
    model = random_llama().train()
    with pytest.raises(PerplexityStopped):
        perplexity(model, byte_tokenizer(), [LONG], 64, should_stop=lambda: True)
    assert model.training
    for wrong in ({"protocol": "moving"}, {"protocol": "sliding", "stride": 65}, {"protocol": "sliding", "stride": 0}, {"logits_chunk": 0}):
        with pytest.raises(UsageError):
            perplexity(model, byte_tokenizer(), [LONG], 64, **wrong)  # type: ignore[arg-type]
    assert doubling_lengths(512, 2048) == [512, 1024, 2048]
    assert doubling_lengths(512, 3000) == [512, 1024, 2048, 3000]
