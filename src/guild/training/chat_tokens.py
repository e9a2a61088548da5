"""ChatML for a plain base model: its two special tokens, with rows of their own in the embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelwright.tiny.tokenizer import IM_END, IM_START, PAD

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def ensure_chat_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Give model and tokenizer `<|im_start|>`, `<|im_end|>` and a padding token where they lack them; whether anything changed.

    A new token's row, in the input and the output embedding, is the mean of the rows that the tokenizer had, so the result is the same on
    every machine. `<|im_end|>` becomes the end of an answer, beside those that the model has. The vocabulary may grow: do this before a
    campaign locks its size.
    """
    known = len(tokenizer)
    ends_before = _end_ids(model, tokenizer)
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in (IM_START, IM_END) if token not in vocabulary or token not in tokenizer.all_special_tokens]
    if missing:
        tokenizer.add_special_tokens({"extra_special_tokens": missing}, replace_extra_special_tokens=False)
    changed = bool(missing)
    if IM_END in missing or tokenizer.eos_token is None:
        tokenizer.eos_token = IM_END
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD})
        changed = True
    if not changed:
        return False
    fresh = sorted(i for token, i in tokenizer.get_vocab().items() if token in (IM_START, IM_END, PAD) and token not in vocabulary)
    _give_rows(model, fresh, known)
    ends = [tokenizer.convert_tokens_to_ids(IM_END), *ends_before]
    model.config.pad_token_id = tokenizer.pad_token_id
    if model.generation_config is not None:
        model.generation_config.eos_token_id = list(dict.fromkeys(ends))
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    return True


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    models = getattr(model.generation_config, "eos_token_id", None)
    known = [models] if isinstance(models, int) else list(models or ())
    return known if tokenizer.eos_token_id is None else [*known, tokenizer.eos_token_id]


def _give_rows(model: PreTrainedModel, fresh: list[int], known: int) -> None:
    """Rows for the ids in `fresh`; `known` rows carry tokens already, more may be there as padding."""
    import torch

    inputs = model.get_input_embeddings().weight
    if fresh and max(fresh) >= len(inputs):
        model.resize_token_embeddings(max(fresh) + 1, mean_resizing=False)
    outputs = model.get_output_embeddings()
    tables: list[torch.Tensor] = [model.get_input_embeddings().weight]
    if outputs is not None and outputs.weight.data_ptr() != tables[0].data_ptr():
        tables.append(outputs.weight)
        if getattr(outputs, "bias", None) is not None:
            tables.append(outputs.bias)
    with torch.no_grad():
        for table in tables:
            table[fresh] = table[: min(known, len(table))].float().mean(0).to(table.dtype)
