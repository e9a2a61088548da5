"""A base model without chat tokens gets them: deterministic rows, a growing vocabulary, an end of turn."""

from __future__ import annotations

import torch

from guild.training.chat_template import CHATML_MARKS, apply_template, marks_of
from guild.training.chat_tokens import ensure_chat_tokens
from guild.training.profiles import get_profile
from helpers.guild_tokenizers import plain_tokenizer, tiny_tokenizer
from helpers.tiny_random import random_llama


def test_new_rows_are_the_mean_of_the_old_ones_in_both_tables() -> None:
    tokenizer = plain_tokenizer()
    known = len(tokenizer)
    model = random_llama(vocab_size=known, tie_word_embeddings=False)
    before_in = model.get_input_embeddings().weight.detach().clone()
    before_out = model.get_output_embeddings().weight.detach().clone()
    assert ensure_chat_tokens(model, tokenizer) is True
    assert len(tokenizer) == known + 3 == model.config.vocab_size
    for table, before in ((model.get_input_embeddings().weight, before_in), (model.get_output_embeddings().weight, before_out)):
        assert torch.equal(table[:known], before)
        assert torch.allclose(table[known:], before.mean(0).expand(3, -1), atol=1e-6)
    apply_template(tokenizer, get_profile("emoji_think"))
    assert marks_of(tokenizer) == CHATML_MARKS
    assert len(tokenizer("<|im_start|>x<|im_end|>")["input_ids"]) == 3
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token_id is not None
    old_end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert model.generation_config.eos_token_id[0] == tokenizer.eos_token_id
    assert old_end in model.generation_config.eos_token_id


def test_a_second_call_and_a_chat_model_change_nothing() -> None:
    tokenizer = plain_tokenizer()
    model = random_llama(vocab_size=len(tokenizer))
    ensure_chat_tokens(model, tokenizer)
    weights = model.get_input_embeddings().weight.detach().clone()
    assert ensure_chat_tokens(model, tokenizer) is False
    assert torch.equal(model.get_input_embeddings().weight, weights)
    tiny = tiny_tokenizer()
    assert ensure_chat_tokens(random_llama(vocab_size=len(tiny)), tiny) is False


def test_rows_that_lie_there_as_padding_are_used_and_the_vocabulary_stays() -> None:
    tokenizer = plain_tokenizer()
    known = len(tokenizer)
    model = random_llama(vocab_size=known + 50)
    before = model.get_input_embeddings().weight.detach().clone()
    assert ensure_chat_tokens(model, tokenizer)
    table = model.get_input_embeddings().weight
    assert len(table) == known + 50 == model.config.vocab_size
    assert torch.allclose(table[known : known + 3], before[:known].mean(0).expand(3, -1), atol=1e-6)
    assert torch.equal(table[known + 3 :], before[known + 3 :])
    assert model.get_output_embeddings().weight.data_ptr() == table.data_ptr()
