"""Growing a tiny model: the same function at the start, and new parts that learn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from modelwright.errors import LoadError, UsageError
from modelwright.tiny import tiny_model_path
from modelwright.tiny.growth import grow
from modelwright.tiny.recipe import MINIATURE, RECIPES
from modelwright.tiny.training import Prepared, start_model


def _llama(seed: int, *, hidden: int, layers: int, heads: int, kv: int, ffn: int, vocabulary: int = 90) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv,
        intermediate_size=ffn, head_dim=8, tie_word_embeddings=True, max_position_embeddings=64, initializer_range=0.2, rms_norm_eps=1e-12,
    )  # fmt: skip
    model = LlamaForCausalLM(config).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize(("heads", "kv"), [((4, 6), (2, 2)), ((3, 6), (1, 3)), ((6, 8), (2, 4)), ((4, 4), (1, 4))])
def test_any_grouping_of_heads_keeps_the_function(heads: tuple[int, int], kv: tuple[int, int]) -> None:
    small = _llama(0, hidden=24, layers=2, heads=heads[0], kv=kv[0], ffn=24)
    large = _llama(1, hidden=48, layers=2, heads=heads[1], kv=kv[1], ffn=24)
    grow(small, large)
    ids = torch.randint(90, (2, 17), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(large(input_ids=ids).logits, small(input_ids=ids).logits, rtol=0, atol=1e-5)


def test_a_grown_model_computes_what_the_small_one_does_and_its_new_parts_learn() -> None:
    small = _llama(0, hidden=32, layers=2, heads=4, kv=2, ffn=24)
    large = _llama(1, hidden=48, layers=3, heads=6, kv=2, ffn=40)
    grow(small, large)
    ids = torch.randint(90, (2, 17), generator=torch.Generator().manual_seed(2))
    ours, theirs = large(input_ids=ids, labels=ids), small(input_ids=ids)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-5)
    ours.loss.backward()
    attention, mlp = large.model.layers[0].self_attn, large.model.layers[0].mlp
    new_head = slice(2 * 8, 3 * 8)  # the third query head of the first KV group
    assert attention.o_proj.weight.grad[:, new_head].abs().sum() > 0
    assert mlp.down_proj.weight.grad[:, 24:].abs().sum() > 0 and mlp.down_proj.weight.grad[32:].abs().sum() > 0
    assert large.model.embed_tokens.weight.grad[:, 32:].abs().sum() > 0
    assert large.model.layers[2].self_attn.o_proj.weight.grad.abs().sum() > 0


def test_what_cannot_hold_the_small_model_is_refused_with_every_reason() -> None:
    small = _llama(0, hidden=32, layers=2, heads=4, kv=2, ffn=24)
    wrong = _llama(1, hidden=24, layers=1, heads=3, kv=1, ffn=24, vocabulary=91)
    with pytest.raises(UsageError) as caught:
        grow(small, wrong)
    for word in ("vocab_size", "num_key_value_heads", "hidden_size", "num_hidden_layers", "num_attention_heads"):
        assert word in str(caught.value)


def test_the_packaged_model_of_another_vocabulary_is_refused(prepared: Prepared) -> None:
    with pytest.raises(LoadError, match=r"vocabulary of tiny-0\.4m"):
        start_model(replace(MINIATURE, grown_from="tiny-0.4m"), prepared.tokenizer, 0)


def test_training_starts_as_the_packaged_model() -> None:
    folder = tiny_model_path("tiny-0.4m")
    small = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    wider = replace(RECIPES["tiny-0.4m"], hidden_size=128, layers=4, heads=4, ffn_size=272, grown_from="tiny-0.4m")
    large = start_model(wider, AutoTokenizer.from_pretrained(folder), 0).eval()
    ids = torch.randint(6, 1024, (1, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(large(input_ids=ids).logits, small(input_ids=ids).logits, rtol=1e-3, atol=1e-3)
