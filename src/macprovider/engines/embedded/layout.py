"""What the engine will hold, by arithmetic alone: the number format of its weights, the blocks of its quantised cache. Needs no torch,
so that a forecast can ask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from macprovider.engines.base import KvBits
from modelwright.kv.settings import KVQuantisation, TensorFormat
from modelwright.model_shape import ModelShape

BLOCK = 32
"""Tokens that are quantised together, and the newest tokens that never are."""
WINDOW = 2 * BLOCK


def number_format(asked: str, device: str, config: Mapping[str, Any]) -> str:
    """Of the weights: float32 on a processor; elsewhere the model's own where it is a half one, else bfloat16."""
    if asked != "auto":
        return asked
    if device == "cpu":
        return "float32"
    own = str(config.get("dtype") or config.get("torch_dtype"))
    return own if own in ("float16", "bfloat16") else "bfloat16"


def formats(bits: KvBits, head_dim: int) -> tuple[TensorFormat, TensorFormat]:
    """Of keys (per channel, over a block) and of values (per token, over a head). Raises ConfigError for the head size."""
    keys = KVQuantisation(bits, bits, "kivi", group=BLOCK, recent=BLOCK, block=BLOCK).format("key", head_dim)
    width = max(8, head_dim)
    return keys, KVQuantisation(bits, bits, "kivi", group=width, recent=BLOCK).format("value", head_dim)


def quantised_row_bytes(shape: ModelShape, bits: KvBits, context: int, itemsize: int) -> int:
    """Bytes of one slot of the quantised cache at `context` tokens, all layers: blocks with their scales, and the window in full
    precision. itemsize: bytes of one number of the model. Raises ConfigError for the head size.
    """
    keys, values = formats(bits, shape.head_dim)
    block = keys.block_bytes(itemsize) + BLOCK // values.block * values.block_bytes(itemsize)
    window = 2 * WINDOW * shape.head_dim * itemsize
    return shape.layers * shape.kv_heads * (max(0, context - BLOCK) // BLOCK * block + window)
