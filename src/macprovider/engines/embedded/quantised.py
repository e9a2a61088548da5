"""The cache of the engine with 8 or 4 bits: old tokens quantised in blocks, the newest ones as they are.

KIVI layout (Liu et al. 2024): keys per channel over the 32 tokens of a block, values per token over all channels of a head,
by the arithmetic of `modelwright.kv`. A row with T tokens keeps floor((T - 32) / 32) blocks, and 32 to 63 tokens in its window
in full precision; a block is quantised once, when it leaves the window, and never again. Nothing of a row depends on another.

Letters: R rows, B rows of a step, Hkv heads of keys, d channels, N blocks, W tokens of the window. A layer keeps

    key codes    uint8 [R, Hkv, d (d/2), capacity]      key scale and lowest level    float16 [R, Hkv, 2, d, capacity/32]
    value codes  uint8 [R, Hkv, N, 32 (16), d]          value scale and lowest level  float16 [R, Hkv, 2, capacity]
    window       [R, Hkv, W, d] twice

How codes are packed: `codes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from macprovider.engines.base import EngineError, KvBits
from macprovider.engines.embedded.cache import RowCache, RowLayer, Sizes
from macprovider.engines.embedded.codes import leaving_blocks, packed, quantised_blocks, unpack
from macprovider.engines.embedded.layout import BLOCK, WINDOW, formats
from macprovider.engines.embedded.rooms import QuantisedStep
from modelwright.errors import ConfigError
from modelwright.kv.quantisers import quantise


class Views(NamedTuple):
    """What a step of B rows with N blocks reads of one layer: windows `[B * Hkv, W, d]` (keys transposed), the rest as stored."""

    window_keys: Tensor
    window_values: Tensor
    key_codes: Tensor
    key_levels: Tensor
    value_codes: Tensor
    value_levels: Tensor


class QuantisedLayer(RowLayer):
    """One layer. `quantised.counts` holds the blocks of every row, the same for all layers."""

    def __init__(self, sizes: Sizes, step: Any, quantised: QuantisedStep, bits: KvBits) -> None:
        super().__init__(sizes, step)
        self.quantised, self.bits = quantised, bits
        self.key_form, self.value_form = formats(bits, sizes.head_dim)
        self._views: tuple[tuple[int, int], Views] | None = None
        self.windows = tuple(self._zeros(1, WINDOW, sizes.head_dim, dtype=sizes.dtype) for _ in range(2))
        self._store(1, 0)

    def parts(self) -> list[Tensor]:
        """See `RowLayer`."""
        return [*self.windows, self.key_codes, self.key_levels, self.value_codes, self.value_levels]

    def reserve(self, rows: int, tokens: int) -> None:
        """See `RowLayer`."""
        rows = max(rows, self.windows[0].shape[0])
        blocks = max(-(-max(0, tokens - BLOCK) // BLOCK), self.value_codes.shape[2])
        self._views = None
        if rows > self.windows[0].shape[0]:
            self.windows = tuple(_within(self._zeros(rows, *part.shape[2:], dtype=part.dtype), part) for part in self.windows)
        if (rows, blocks) != (self.value_codes.shape[0], self.value_codes.shape[2]):
            held = (self.key_codes, self.key_levels, self.value_codes, self.value_levels)
            self._store(rows, blocks)
            for room, part in zip((self.key_codes, self.key_levels, self.value_codes, self.value_levels), held, strict=True):
                _within(room, part)

    def move(self, source: int, target: int, tokens: int, swap: bool) -> None:
        """See `RowLayer`; whole rows, whose blocks differ."""
        counts = self.quantised.counts
        blocks = max(counts[source], counts[target]) if swap else counts[source]
        for part in self._row_parts(blocks):
            kept = part[target].clone() if swap else None
            part[target] = part[source]
            if kept is not None:
                part[source] = kept

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the tokens of this step, `[B, Hkv, n, d]`.

        Returns all that its rows hold, blocks first, then the window, `[B, Hkv, T, d]`; in a direct step only what came in,
        because the attention function reads the layer itself.
        """
        step, now = self.step, self.quantised
        if step.row is not None:
            return self._prompt(step.row, key_states, value_states)
        width = self.sizes.head_dim
        place = step.place(self.sizes.kv_heads, WINDOW)
        for window, new in zip(self.windows, (key_states, value_states), strict=True):
            window.view(-1, width).index_copy_(0, place, new.reshape(-1, width))
        if now.direct:
            return key_states, value_states
        keys, values = self.restored(0, step.rows, now.blocks)
        return torch.cat((keys, self.windows[0][: step.rows]), dim=2), torch.cat((values, self.windows[1][: step.rows]), dim=2)

    def views(self, rows: int, blocks: int) -> Views:
        """What a direct step reads; made anew only when its shape changes."""
        if self._views is None or self._views[0] != (rows, blocks):
            windows = [window[:rows].flatten(0, 1) for window in self.windows]
            chosen = slice(0, rows)
            self._views = (
                (rows, blocks),
                Views(
                    windows[0].mT,
                    windows[1],
                    self._key_part(chosen, blocks),
                    self.key_levels[chosen, ..., :blocks],
                    self.value_codes[chosen, :, :blocks],
                    self.value_levels[chosen, ..., : blocks * BLOCK],
                ),
            )
        return self._views[1]

    def restored(self, first: int, rows: int, blocks: int) -> tuple[Tensor, Tensor]:
        """The first blocks of some rows as keys and values `[rows, Hkv, 32 * blocks, d]`."""
        chosen, shape = slice(first, first + rows), (rows, self.sizes.kv_heads, self.sizes.head_dim, blocks * BLOCK)
        keys = torch.empty(shape, dtype=self.sizes.dtype, device=self.sizes.device)
        unpack(self._key_part(chosen, blocks), keys, 2)
        scale, low = self.key_levels[chosen, ..., :blocks].to(keys.dtype).unbind(2)
        keys.view(*shape[:3], blocks, BLOCK).mul_(scale[..., None]).add_(low[..., None])
        values = torch.empty((*shape[:2], blocks, BLOCK, shape[2]), dtype=keys.dtype, device=keys.device)
        unpack(self.value_codes[chosen, :, :blocks], values, 3)
        scale, low = self.value_levels[chosen, ..., : blocks * BLOCK].to(keys.dtype).unbind(2)
        flat = values.flatten(2, 3).mul_(scale[..., None]).add_(low[..., None])
        return keys.mT, flat

    def add_blocks(self, rows: Sequence[int], first: Sequence[int], keys: Tensor, values: Tensor) -> None:
        """Quantise whole blocks `[rows, Hkv, n * 32, d]` and store them as blocks `first` on of the rows."""
        done_keys, done_values = quantise(keys, self.key_form), quantise(values, self.value_form)
        self.store_blocks(rows, first, *packed(done_keys, done_values, self.bits))

    def store_blocks(
        self, rows: Sequence[int], first: Sequence[int], key_codes: Tensor, key_levels: Tensor, value_codes: Tensor, value_levels: Tensor
    ) -> None:
        """Write what `packed` gave."""
        blocks = value_codes.shape[2]
        for index, (row, block) in enumerate(zip(rows, first, strict=True)):
            tokens = slice(block * BLOCK, (block + blocks) * BLOCK)
            self.key_codes[row, ..., tokens] = key_codes[index]
            self.key_levels[row, ..., block : block + blocks] = key_levels[index]
            self.value_codes[row, :, block : block + blocks] = value_codes[index]
            self.value_levels[row, ..., tokens] = value_levels[index]

    def drop_oldest(self, row: int, held: int) -> None:
        """Move the window of a row, which holds `held` tokens, one block on."""
        for window in self.windows:
            window[row, :, : held - BLOCK] = window[row, :, BLOCK:held].clone()

    def _prompt(self, row: int, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]:
        """A piece of one prompt: it is seen as it is, together with the restored blocks; then whole blocks leave the window."""
        blocks = self.quantised.counts[row]
        held = self.step.start - blocks * BLOCK
        total = held + key_states.shape[2]
        tails = [
            torch.cat((window[row : row + 1, :, :held], new), dim=2)
            for window, new in zip(self.windows, (key_states, value_states), strict=True)
        ]
        old = self.restored(row, 1, blocks) if blocks else None
        leaving = leaving_blocks(total) * BLOCK
        if leaving:
            self.add_blocks([row], [blocks], tails[0][:, :, :leaving], tails[1][:, :, :leaving])
        for window, tail in zip(self.windows, tails, strict=True):
            window[row, :, : total - leaving] = tail[0, :, leaving:]
        if old is None:
            return tails[0], tails[1]
        return torch.cat((old[0], tails[0]), dim=2), torch.cat((old[1], tails[1]), dim=2)

    def _store(self, rows: int, blocks: int) -> None:
        d, packs = self.sizes.head_dim, 8 // self.bits
        self.key_codes = self._zeros(rows, d // packs, blocks * BLOCK, dtype=torch.uint8)
        self.key_levels = self._zeros(rows, 2, d, blocks, dtype=torch.float16)
        self.value_codes = self._zeros(rows, blocks, BLOCK // packs, d, dtype=torch.uint8)
        self.value_levels = self._zeros(rows, 2, blocks * BLOCK, dtype=torch.float16)

    def _key_part(self, rows: slice, blocks: int) -> Tensor:
        return self.key_codes[rows, ..., : blocks * BLOCK]

    def _row_parts(self, blocks: int) -> list[Tensor]:
        """Views of what rows with `blocks` blocks use."""
        tokens = blocks * BLOCK
        codes = [self.key_codes[..., :tokens], self.key_levels[..., :blocks]]
        return [*self.windows, *codes, self.value_codes[:, :, :blocks], self.value_levels[..., :tokens]]

    def _zeros(self, rows: int, *shape: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(rows, self.sizes.kv_heads, *shape, dtype=dtype, device=self.sizes.device)


class QuantisedCache(RowCache):
    """The rows of all layers, quantised.

    A prefix that is taken over consists of whole blocks, which are exact copies of what the earlier prompt read, and of the
    tokens in the window where the prompts agree up to there. The tokens behind it see its last blocks quantised where without
    reuse they might have seen them in full precision, so the answer can differ as answers at these bits do.
    """

    layers: Sequence[QuantisedLayer]

    def __init__(self, sizes: Sizes, bits: KvBits, direct: bool) -> None:
        """direct: decode steps are read by `attention.attend_quantised`. Raises EngineError for a head size that does not fit."""
        try:
            formats(bits, sizes.head_dim)
        except ConfigError as error:
            raise EngineError(f"kv_bits {bits}: {error}") from error
        self.bits, self.direct = bits, direct
        self.quantised = QuantisedStep([0] * sizes.slots)
        self._masked_counts: list[int] = []
        super().__init__(sizes)
        columns = torch.arange(WINDOW, device=sizes.device)
        self._window_masks = self._masked(columns > columns[:, None])  # [tokens before the new one, W]

    def _layers(self) -> Sequence[QuantisedLayer]:
        return [QuantisedLayer(self.sizes, self.step, self.quantised, self.bits) for _ in range(self.sizes.layers)]

    @property
    def nbytes(self) -> int:
        """See `RowCache`; with the memory that the layers share."""
        return super().nbytes + sum(part.nbytes for part in self.quantised.memory or ())

    def bytes_per_token(self) -> float:
        """See `RowCache`: blocks of the full context, and the window."""
        total = 0.0
        for layer in self.layers:
            rows, _, blocks = layer.value_codes.shape[:3]
            whole = sum(part.nbytes for part in layer.parts()[2:]) / (rows * blocks) if blocks else 0.0
            window = sum(part.nbytes for part in layer.windows) / rows
            total += whole * max(0, (self.sizes.context - BLOCK) // BLOCK) + window
        return total / self.sizes.context

    def reserve(self, rows: int, tokens: int) -> None:
        """See `RowCache`."""
        super().reserve(rows, max(tokens, WINDOW + 1))

    def begin_answers(self, lengths: Sequence[int]) -> Tensor | None:
        """See `RowCache`; in a direct step the mask only keeps the model from making one."""
        step, now = self.step, self.quantised
        rows = len(lengths)
        counts = now.counts[:rows]
        inside = torch.tensor([length - count * BLOCK for length, count in zip(lengths, counts, strict=True)], device=self.sizes.device)
        step.row, step.rows, step.start = None, rows, max(lengths)
        step.lengths = torch.tensor(lengths, device=self.sizes.device)
        step.places.clear()
        step.place_at(self.sizes.kv_heads, WINDOW, inside)
        now.blocks, now.direct = max(counts), self.direct
        window_mask = self._window_masks[inside]  # [B, W]
        if not self.direct:
            return torch.cat((self._block_mask(counts).repeat_interleave(BLOCK, dim=1), window_mask), dim=1)[:, None, None]
        heads = self.sizes.kv_heads
        now.window_mask = window_mask[:, None].expand(rows, heads, WINDOW).reshape(rows * heads, 1, WINDOW)
        if self._masked_counts != counts:
            self._masked_counts = counts
            now.block_mask = self._block_mask(counts).repeat_interleave(heads, dim=0)[:, None]
        return window_mask[:, None, None]

    def _block_mask(self, counts: Sequence[int]) -> Tensor:
        """`[B, N]`"""
        blocks = torch.arange(max(counts), device=self.sizes.device)
        return self._masked(blocks >= torch.tensor(counts, device=blocks.device)[:, None])

    def stored(self, rows: Sequence[int], lengths: Sequence[int]) -> None:
        """See `RowCache`: quantise what has left the windows. A prompt's blocks were stored by the layers."""
        counts = self.quantised.counts
        if self.step.row is not None:
            counts[rows[0]] = quantised_blocks(lengths[0], counts[rows[0]])
            return
        leaving = [row for row, length in zip(rows, lengths, strict=True) if length - counts[row] * BLOCK >= WINDOW]
        if not leaving:
            return
        first = [counts[row] for row in leaving]
        # All layers at once: [L * n, Hkv, 32, d].
        keys, values = (torch.cat([layer.windows[side][leaving, :, :BLOCK] for layer in self.layers]) for side in range(2))
        form = self.layers[0]
        done = packed(quantise(keys, form.key_form), quantise(values, form.value_form), self.bits)
        for index, layer in enumerate(self.layers):
            own = slice(index * len(leaving), (index + 1) * len(leaving))
            layer.store_blocks(leaving, first, *(part[own] for part in done))
            for row in leaving:
                layer.drop_oldest(row, WINDOW)
        for row in leaving:
            counts[row] += 1

    def reusable(self, row: int, shared: int) -> int:
        """See `RowCache`: everything that is stored in whole blocks, and the window where all blocks before it are shared."""
        blocks = self.quantised.counts[row]
        return shared if shared >= blocks * BLOCK else shared // BLOCK * BLOCK

    def keep(self, row: int, tokens: int) -> None:
        """See `RowCache`."""
        counts = self.quantised.counts
        counts[row] = min(counts[row], tokens // BLOCK)

    def move(self, source: int, target: int, tokens: int) -> None:
        """See `RowCache`."""
        super().move(source, target, tokens)
        self.quantised.counts[target] = self.quantised.counts[source]

    def swap(self, first: int, second: int, tokens: int) -> None:
        """See `RowCache`."""
        super().swap(first, second, tokens)
        counts = self.quantised.counts
        counts[first], counts[second] = counts[second], counts[first]

    def clear(self, row: int) -> None:
        """See `RowCache`."""
        super().clear(row)
        self.quantised.counts[row] = 0


def _within(room: Tensor, held: Tensor) -> Tensor:
    """`room` with `held` in its lowest corner."""
    room[tuple(slice(0, size) for size in held.shape)] = held
    return room
