"""Where corruption enters: once into the stored cache (`stored`), or into what attention reads (`inline`).

`stored` is the default: prefill a prefix, corrupt the cache, then score or generate the rest from it, so damage is read
again at every step as real damage is. `inline` corrupts the keys and values handed to attention in each call and never
reaches the cache; it reproduces the original. Both leave model classes alone. (specs/medic.md, 2.7)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

import torch

from cachemedicpp.faults.corruption import Corrupted, Corruption, DonorCache, DrawCounter, LayerTensors, corrupt
from cachemedicpp.faults.events import Event
from modelwright.errors import LoadError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class InlineHook(Protocol):
    """What an attention function calls in every layer: keys and values `[B, Hkv, T, d]` in, the pair to use out."""

    def __call__(self, layer: int, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor | None) -> LayerTensors: ...


def starts_of(attention_mask: torch.Tensor) -> torch.Tensor:
    """The first real token of every row, int64 `[B]`, from a left-padded attention mask `[B, T]` of 0 and 1.

    A row of padding alone starts at T. Raises UsageError when padding stands anywhere but on the left.
    """
    real = attention_mask.bool()
    starts = (~real).sum(dim=1)
    expected = torch.arange(real.shape[1], device=real.device) >= starts[:, None]
    if not torch.equal(real, expected):
        row = int((real != expected).any(dim=1).nonzero()[0])
        raise UsageError(f"Row {row} of the attention mask has padding behind real tokens; pad on the left (padding_side='left').")
    return starts


def layer_state(cache: Any, layer: int) -> LayerTensors:
    """The stored keys and values of one layer, `[B, Hkv, T, d]`, the very tensors the cache holds.

    cache: a `past_key_values` of transformers. Raises UsageError when the layer does not exist or does not hold its
    tokens as two plain tensors (static, quantised, recurrent and latent layers do not).
    """
    layers = _layers(cache)
    if not 0 <= layer < len(layers):
        raise UsageError(f"The cache has {len(layers)} layers, numbered from 0; layer {layer} is not among them. Correct protect_layers.")
    held = layers[layer]
    key, value = getattr(held, "keys", None), getattr(held, "values", None)
    if isinstance(key, torch.Tensor) and isinstance(value, torch.Tensor) and key.ndim == value.ndim == 4:
        whole = _is_sliding(held) or key.shape[2] == int(held.get_seq_length())
        if whole and key.shape[:3] == value.shape[:3]:
            return key, value
    raise UsageError(
        f"Layer {layer} of the cache is a {type(held).__name__}, which does not hold its tokens as plain keys and values "
        "[B, Hkv, T, d]; prefill with transformers.DynamicCache, and protect only attention layers."
    )


def stored_starts(cache: Any, layer: int, starts: torch.Tensor | None) -> torch.Tensor | None:
    """`starts` counted in what the layer still holds: a sliding-window layer has dropped tokens on the left."""
    key, _ = layer_state(cache, layer)
    dropped = int(_layers(cache)[layer].get_seq_length()) - key.shape[2]
    return starts if starts is None or dropped <= 0 else (starts - dropped).clamp_min(0)


def inject_stored(
    cache: Any, corruption: Corruption, event: Event, counter: DrawCounter, starts: torch.Tensor | None = None
) -> dict[int, Corrupted]:
    """Corrupt the stored cache once, in the protected layers, and say what was struck, by layer.

    cache: the `past_key_values` of a prefill; its layers get new tensors, the old ones are not written to, so a copy made
    by `fork_cache` stays clean. Raises UsageError as `layer_state` and `corrupt` do, before any layer was changed.
    """
    results = {}
    for layer in corruption.protected:
        key, value = layer_state(cache, layer)
        results[layer] = corrupt(corruption, event, counter, layer, key, value, stored_starts(cache, layer, starts))
    for layer, result in results.items():
        held = _layers(cache)[layer]
        held.keys, held.values = result.key, result.value
    return results


def fork_cache(cache: Any) -> Any:
    """A second cache that starts in the same state and then goes its own way.

    Layers of the library that grow by concatenation share their tensors with the fork at no cost; any other layer is
    copied whole. One prefill so serves every defence and every corruption.
    """
    fork = copy.copy(cache)
    if hasattr(cache, "self_attention_cache"):
        fork.self_attention_cache = fork_cache(cache.self_attention_cache)
        fork.cross_attention_cache = fork_cache(cache.cross_attention_cache)
        fork.is_updated = dict(cache.is_updated)
        return fork
    fork.layers = [copy.copy(held) if _grows_by_concatenation(held) else copy.deepcopy(held) for held in cache.layers]
    return fork


def inline_hook(
    corruption: Corruption, event: Event, counter: DrawCounter, record: Callable[[int, Corrupted], None] | None = None
) -> InlineHook:
    """A hook that corrupts what attention reads, for `event` and the rows of `counter`.

    Each call draws for the length it sees, from the same counter. `record` hears the result of every protected layer.
    """

    def hook(layer: int, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor | None) -> LayerTensors:
        if layer not in corruption.protected:
            return key, value
        result = corrupt(corruption, event, counter, layer, key, value, starts)
        if record is not None:
            record(layer, result)
        return result.key, result.value

    return hook


def donor_cache(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, layers: Iterable[int]) -> DonorCache:
    """The clean keys and values of the donor prompt in `layers`, for `contiguous_overwrite`.

    One pass without special tokens; a prompt of fewer than two tokens is replaced by two EOS tokens. The model must be
    in eval mode and without any repair or injection. Raises UsageError when it trains, LoadError when two EOS tokens
    are needed and the tokenizer has none.
    """
    from transformers import DynamicCache

    if model.training:
        raise UsageError("The model is in training mode, so its dropout would enter the donor cache; call model.eval() first.")
    tokens = list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    if len(tokens) < 2:
        if tokenizer.eos_token_id is None:
            raise LoadError(f"The donor prompt {prompt!r} has {len(tokens)} tokens and the tokenizer no EOS token; give a longer prompt.")
        tokens = [int(tokenizer.eos_token_id)] * 2
    cache = DynamicCache()
    with torch.no_grad():
        model(input_ids=torch.tensor([tokens], device=model.device), past_key_values=cache, use_cache=True)
    held = {}
    for layer in layers:
        key, value = layer_state(cache, layer)
        held[layer] = (key[0], value[0])
    return DonorCache(prompt, len(tokens), held)


def _layers(cache: Any) -> list[Any]:
    inner = getattr(cache, "self_attention_cache", cache)
    layers = getattr(inner, "layers", None)
    if not isinstance(layers, list):
        raise UsageError(f"The cache is a {type(cache).__name__} without a list of layers; prefill with transformers.DynamicCache.")
    return layers


def _is_sliding(held: Any) -> bool:
    """Whether a layer that holds fewer tokens than it has seen dropped them on the left."""
    from transformers.cache_utils import DynamicSlidingWindowLayer

    return isinstance(held, DynamicSlidingWindowLayer)


def _grows_by_concatenation(held: Any) -> bool:
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    return type(held) in (DynamicLayer, DynamicSlidingWindowLayer)
