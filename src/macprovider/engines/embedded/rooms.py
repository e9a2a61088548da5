"""What the layers of a quantised cache share in a decode step: counts, masks, and memory used by one after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from macprovider.engines.embedded.cache import Sizes
from macprovider.engines.embedded.layout import BLOCK, WINDOW


class Rooms(NamedTuple):
    """Memory that all layers use one after the other, as steps of B rows with N blocks want to see it; T = 32 N.

    codes: one layer's codes as numbers, `[B, Hkv, d, T]` for keys, `[B, Hkv, N, 32, d]` for values, of the same memory.
    scores, shares: before and after the softmax, `[B * Hkv, G, T + W]`; old and recent are their parts.
    """

    key_codes: Tensor
    key_columns: Tensor  # [B * Hkv, d, T]
    key_blocks: Tensor  # [B, Hkv, d, N, 32]
    value_codes: Tensor
    value_rows: Tensor  # [B * Hkv, T, d]
    scores: Tensor
    scores_old: Tensor
    scores_blocks: Tensor  # [B * Hkv, G, N, 32]
    scores_recent: Tensor
    shares: Tensor
    shares_old: Tensor
    shares_recent: Tensor


@dataclass
class QuantisedStep:
    """What a decode step adds to `cache.Step`. counts: blocks of every row of the cache. blocks: of the row that has most in this
    step. block_mask `[B * Hkv, 1, blocks]` and window_mask `[B * Hkv, 1, W]`: 0 or -inf. direct: read by `attention`.
    """

    counts: list[int]
    direct: bool = False
    blocks: int = 0
    block_mask: Tensor | None = None
    window_mask: Tensor | None = None
    memory: tuple[Tensor, Tensor] | None = None
    rooms: dict[tuple[int, int, int], Rooms] = field(default_factory=dict)

    def rooms_for(self, sizes: Sizes, rows: int, group: int) -> Rooms:
        """The shared memory for this step; group: query heads to a head of keys."""
        key = (rows, self.blocks, group)
        found = self.rooms.get(key)
        if found is None:
            self.rooms.clear()  # the next step has the same shape or will not have it again soon
            self.rooms[key] = found = self._rooms(sizes, rows, group)
        return found

    def _rooms(self, sizes: Sizes, rows: int, group: int) -> Rooms:
        heads, d, blocks = sizes.kv_heads, sizes.head_dim, self.blocks
        both, tokens = rows * heads, blocks * BLOCK
        seen = tokens + WINDOW
        wanted = (both * tokens * d, 2 * both * group * seen)
        if self.memory is None or any(held.numel() < size for held, size in zip(self.memory, wanted, strict=True)):
            room = max(tokens // 8, 8 * BLOCK)
            sizes_of_both = (both * (tokens + room) * d, 2 * both * group * (seen + room))
            self.memory = None
            self.memory = tuple(torch.empty(size, dtype=sizes.dtype, device=sizes.device) for size in sizes_of_both)  # type: ignore[assignment]
        assert self.memory is not None
        codes = self.memory[0][: wanted[0]]
        scores, shares = self.memory[1][: wanted[1]].view(2, both, group, seen)
        columns = codes.view(rows, heads, d, tokens)
        old = scores[..., :tokens]
        return Rooms(
            columns,
            columns.flatten(0, 1),
            columns.unflatten(3, (blocks, BLOCK)),
            codes.view(rows, heads, blocks, BLOCK, d),
            codes.view(both, tokens, d),
            scores,
            old,
            old.unflatten(2, (blocks, BLOCK)),
            scores[..., tokens:],
            shares,
            shares[..., :tokens],
            shares[..., tokens:],
        )
