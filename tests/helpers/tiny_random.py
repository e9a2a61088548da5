"""Random-weight models and a byte tokenizer, small enough to build inside a test.

Weights are random but larger than the library's initialisation, so that attention really distinguishes positions and
documents: with standard initialisation the logits of a one-layer toy hardly depend on context, and a leak would go
unseen.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _random(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 2.0 / parameter.shape[-1] ** 0.5)
    return model.eval()


def random_llama(*, seed: int = 0, vocab_size: int = 260, **overrides: Any) -> LlamaForCausalLM:
    """A Llama of hidden size 64, two layers, four heads of which two carry keys, in eval mode."""
    settings: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    }
    return _random(LlamaForCausalLM(LlamaConfig(**{**settings, **overrides})), seed)


def random_qwen3(*, seed: int = 0, vocab_size: int = 260, **overrides: Any) -> Qwen3ForCausalLM:
    """A Qwen3 (normalised queries and keys, explicit head size) of the same size."""
    settings: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
    }
    return _random(Qwen3ForCausalLM(Qwen3Config(**{**settings, **overrides})), seed)


def random_gpt2(*, seed: int = 0, vocab_size: int = 260, **overrides: Any) -> GPT2LMHeadModel:
    """A GPT-2 (learned positions, fused projections) of the same size, without dropout."""
    settings: dict[str, Any] = {
        "vocab_size": vocab_size,
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 512,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "resid_pdrop": 0.0,
    }
    return _random(GPT2LMHeadModel(GPT2Config(**{**settings, **overrides})), seed)


@functools.cache
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, then <|endoftext|> (beginning), <|im_end|> (end), <|pad|>, <|im_start|>: 260 ids, ChatML
    template.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: index for index, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(folder: Path) -> Path:
    """The byte tokenizer as a folder that AutoTokenizer loads."""
    byte_tokenizer().save_pretrained(folder)
    return folder


def save_model(folder: Path, model: PreTrainedModel | None = None) -> Path:
    """A model (default `random_llama()`) and the byte tokenizer in one folder, as a user would have it."""
    (model or random_llama()).save_pretrained(folder)
    return save_tokenizer(folder)
