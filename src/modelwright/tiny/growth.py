"""A larger Llama that starts as a smaller one: the same function, with room to learn.

What is new reads from the old state and writes nothing yet, so the grown model gives the small model's logits (up to
rounding) and its new parts have gradients from the first step on. The idea is Net2Net's (Chen, Goodfellow, Shlens 2016).

    width     embeddings and whatever writes to the residual stream get zeros in the new dimensions; what reads from it
              keeps its random weights there. RMSNorm takes its mean over more dimensions, of which the new ones are 0,
              so its weights shrink by sqrt(small / large).
    heads     the query heads of a KV head keep together as far as the larger groups have room; where they need several
              groups, each has a copy of their KV head. The output projection of new query heads is 0.
    ffn       new neurons have an output of 0.
    layers    new layers come last; their two output projections are 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelwright.errors import UsageError

if TYPE_CHECKING:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM


def grow(small: LlamaForCausalLM, large: LlamaForCausalLM) -> None:
    """Make `large`, freshly initialised, compute what `small` computes, in place; its random weights stay where they only read.

    Raises UsageError when `large` cannot hold `small`: another vocabulary, head size or rotary base, or less of anything.
    """
    import torch

    _check(small.config, large.config)
    a, b = small.config.hidden_size, large.config.hidden_size
    shrink = (a / b) ** 0.5
    query_heads, copies = head_places(small.config, large.config)
    d = small.config.head_dim
    new_q = _rows(query_heads, d)
    new_kv, old_kv = _rows([new for new, _ in copies], d), _rows([old for _, old in copies], d)
    with torch.no_grad():
        large.model.embed_tokens.weight.zero_()
        large.model.embed_tokens.weight[:, :a] = small.model.embed_tokens.weight
        _grow_norm(small.model.norm.weight, large.model.norm.weight, shrink)
        for number, layer in enumerate(large.model.layers):
            attention, mlp = layer.self_attn, layer.mlp
            attention.o_proj.weight.zero_()
            mlp.down_proj.weight.zero_()
            if number >= len(small.model.layers):
                continue
            old = small.model.layers[number]
            _grow_norm(old.input_layernorm.weight, layer.input_layernorm.weight, shrink)
            _grow_norm(old.post_attention_layernorm.weight, layer.post_attention_layernorm.weight, shrink)
            attention.q_proj.weight[new_q, :a] = old.self_attn.q_proj.weight
            attention.o_proj.weight[:a, new_q] = old.self_attn.o_proj.weight
            for name in ("k_proj", "v_proj"):
                getattr(attention, name).weight[new_kv, :a] = getattr(old.self_attn, name).weight[old_kv]
            neurons = small.config.intermediate_size
            for name in ("gate_proj", "up_proj"):
                getattr(mlp, name).weight[:neurons, :a] = getattr(old.mlp, name).weight
            mlp.down_proj.weight[:a, :neurons] = old.mlp.down_proj.weight


def _grow_norm(old: torch.Tensor, new: torch.Tensor, shrink: float) -> None:
    new.fill_(shrink)
    new[: old.shape[0]] = old * shrink


def head_places(small: LlamaConfig, large: LlamaConfig) -> tuple[list[int], list[tuple[int, int]]]:
    """Where the small model's heads lie in the large one: the large query head of each small one, in order, and (large, small)
    for every KV head that is a copy.
    """
    old = small.num_attention_heads // small.num_key_value_heads
    new = large.num_attention_heads // large.num_key_value_heads
    groups = -(-old // new)  # large groups that one small group needs
    query_heads = [
        (group * groups + member // new) * new + member % new for group in range(small.num_key_value_heads) for member in range(old)
    ]
    return query_heads, [(group * groups + part, group) for group in range(small.num_key_value_heads) for part in range(groups)]


def _rows(heads: list[int], d: int) -> torch.Tensor:
    """The rows of these heads in a projection `[heads * d, ...]`."""
    import torch

    return torch.tensor([head * d + row for head in heads for row in range(d)])


def _check(small: LlamaConfig, large: LlamaConfig) -> None:
    same = ("vocab_size", "head_dim", "rope_parameters", "tie_word_embeddings")
    more = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    faults = [
        f"{name} is {getattr(large, name)}, not {getattr(small, name)}" for name in same if getattr(large, name) != getattr(small, name)
    ]
    faults += [
        f"{name} is {getattr(large, name)}, less than {getattr(small, name)}"
        for name in more
        if getattr(large, name) < getattr(small, name)
    ]
    needed = len(head_places(small, large)[1])
    if needed > large.num_key_value_heads:
        faults.append(f"num_key_value_heads is {large.num_key_value_heads}, less than the {needed} that the query groups need")
    if faults:
        raise UsageError(f"A model cannot grow into this shape: {'; '.join(faults)}.")
