"""Attention that reads a quantised cache by itself: one token of every row against codes that are never dequantised whole.

Scores and outputs are linear in scale s and lowest level l of a group, so both are applied where fewer numbers are:

    keys    q . (s c + l) = q . (s c) + q . l        l: one product for the 32 tokens of a block
    values  sum_t p_t (s_t c_t + l_t) = sum_t (p_t s_t) c_t + sum_t p_t l_t

The blocks and the window share one softmax. It is called through the library's registry for the layers of the models that are
`reading`; anything but a direct decode step goes to the library's own attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from macprovider.engines.embedded.codes import unpack
from macprovider.engines.embedded.quantised import QuantisedCache, QuantisedLayer
from modelwright.attention import register_attention, sdpa, use_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "macprovider_quantised"
_LAYERS: WeakKeyDictionary[torch.nn.Module, QuantisedLayer] = WeakKeyDictionary()
"""The library keeps attention functions for the whole process and hands each call its module; this finds the module's layer."""


@contextmanager
def reading(model: PreTrainedModel, cache: QuantisedCache) -> Iterator[None]:
    """The block in which the attention of `model` reads `cache`. Raises UsageError for a model without the registry."""
    register_attention(NAME, _attend)
    modules = attention_modules(model)
    with use_attention(model, NAME):
        try:
            for index, layer in enumerate(cache.layers):
                _LAYERS[modules[index]] = layer
            yield
        finally:
            for module in modules.values():
                _LAYERS.pop(module, None)


def attention_modules(model: torch.nn.Module) -> dict[int, torch.nn.Module]:
    """The attention module of each layer: those named so that carry its `layer_idx`."""
    found: dict[int, torch.nn.Module] = {}
    for module in model.modules():
        index = getattr(module, "layer_idx", None)
        if isinstance(index, int) and "attention" in type(module).__name__.lower():
            found.setdefault(index, module)
    return found


def _attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    layer = _LAYERS.get(module)
    if layer is None or layer.step.row is not None:
        return sdpa(module, query, key, value, mask, scaling, **options)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend_quantised(query, layer, scale), None


def attend_quantised(query: Tensor, layer: QuantisedLayer, scaling: float) -> Tensor:
    """Attention of one token in each row, query `[B, Hq, 1, d]`, over what the layer holds. Returns `[B, 1, Hq, d]`."""
    now, sizes = layer.quantised, layer.sizes
    rows, blocks, heads, d = query.shape[0], now.blocks, sizes.kv_heads, sizes.head_dim
    group = query.shape[1] // heads
    q = query.reshape(rows * heads, group, d)
    view = layer.views(rows, blocks)
    assert now.window_mask is not None
    if not blocks:
        recent = torch.baddbmm(now.window_mask, q, view.window_keys, alpha=scaling)
        return torch.bmm(recent.softmax(-1), view.window_values).view(rows, 1, heads * group, d)
    assert now.block_mask is not None
    room = now.rooms_for(sizes, rows, group)
    levels = view.key_levels.to(q.dtype)  # [B, Hkv, 2, d, N]
    unpack(view.key_codes, room.key_codes, 2)
    room.key_blocks.mul_(levels[:, :, 0, :, :, None])
    low = torch.baddbmm(now.block_mask, q, levels.view(rows * heads, 2, d, blocks)[:, 1], alpha=scaling)
    room.scores_blocks.copy_(low[..., None])
    room.scores_old.baddbmm_(q, room.key_columns, alpha=scaling)
    torch.baddbmm(now.window_mask, q, view.window_keys, alpha=scaling, out=room.scores_recent)
    torch.softmax(room.scores, -1, out=room.shares)
    unpack(view.value_codes, room.value_codes, 3)
    levels = view.value_levels.to(q.dtype).view(rows * heads, 2, -1)
    torch.mul(room.shares_old, levels[:, :1], out=room.scores_old)
    out = torch.baddbmm(torch.bmm(room.shares_old, levels[:, 1, :, None]), room.scores_old, room.value_rows)
    return out.baddbmm_(room.shares_recent, view.window_values).view(rows, 1, heads * group, d)
