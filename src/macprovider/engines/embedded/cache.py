"""The cache of the engine: one row for every slot, keys and values preallocated in steps, tokens appended in place.

Letters: R rows, B rows of a step, Hkv heads of keys, T tokens, d channels. A layer keeps `[R, Hkv, capacity, d]` and gives
attention a view of its first B rows and of as many tokens as the longest of them has, so that a step costs what it uses,
whatever the capacity. Room is zero at first, because a masked number must still be a number. (The library's layer joins old
and new tokens by a copy of all of them at every step.)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin, DynamicCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROOM = 256
"""Tokens by which the capacity grows, at least; beyond eight times as many by an eighth."""


@dataclass(frozen=True)
class Sizes:
    """Of one layer, and of the whole: slots are the most rows there can be, context the most tokens of one."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device
    slots: int
    context: int


@dataclass
class Step:
    """What the layers must know about the forward pass that is running; one object for all of them.

    row: the row whose prompt is computed, None while rows 0 to B-1 get one token each. start: tokens already in it, or in the
    longest row. lengths: tokens in each row before the step.
    """

    row: int | None = None
    start: int = 0
    lengths: Tensor | None = None
    rows: int = 0
    places: dict[int, Tensor] = field(default_factory=dict)

    def place(self, kv_heads: int, capacity: int) -> Tensor:
        """Where the new token of every row and head stands in `[R * Hkv * capacity, d]`, int64 `[B * Hkv]`."""
        found = self.places.get(capacity)
        if found is None:
            assert self.lengths is not None
            found = self.place_at(kv_heads, capacity, self.lengths)
        return found

    def place_at(self, kv_heads: int, capacity: int, lengths: Tensor) -> Tensor:
        """The same for rows that hold `lengths` tokens, kept for `place`."""
        first = torch.arange(0, self.rows * kv_heads * capacity, capacity, device=lengths.device)
        self.places[capacity] = place = (first.view(self.rows, kv_heads) + lengths[:, None]).view(-1)
        return place


class RowLayer(CacheLayerMixin):
    """One layer of the cache, as the library sees it. Subclasses store the rows."""

    is_sliding = False

    def __init__(self, sizes: Sizes, step: Step) -> None:
        super().__init__()
        self.sizes, self.step = sizes, step
        self.is_initialized = True

    @abstractmethod
    def parts(self) -> list[Tensor]:
        """Every tensor that is held."""

    @abstractmethod
    def reserve(self, rows: int, tokens: int) -> None:
        """Make room for `rows` rows of `tokens` tokens; what is held stays. Raises what torch raises without memory."""

    @abstractmethod
    def move(self, source: int, target: int, tokens: int, swap: bool) -> None:
        """Copy the first tokens of a row to another row, or exchange the two rows."""

    def clear(self, row: int) -> None:
        """Forget a row whose numbers may not be numbers."""
        for part in self.parts():
            if row < part.shape[0]:
                part[row].zero_()

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the room is there from the beginning."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Tokens that attention sees, and the first of them."""
        return self.step.start + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens before those of this step."""
        return self.step.start

    def get_max_length(self) -> int:
        """The most tokens of one row."""
        return self.sizes.context


class FullLayer(RowLayer):
    """Keys and values as the model computes them, `[R, Hkv, capacity, d]`."""

    def __init__(self, sizes: Sizes, step: Step) -> None:
        super().__init__(sizes, step)
        self.stored = tuple(_room(sizes, 1, 0) for _ in range(2))

    def parts(self) -> list[Tensor]:
        """See `RowLayer`."""
        return list(self.stored)

    def reserve(self, rows: int, tokens: int) -> None:
        """See `RowLayer`."""
        held = self.stored[0].shape
        rows, tokens = max(rows, held[0]), max(tokens, held[2])
        if (rows, tokens) != (held[0], held[2]):
            self.stored = tuple(_larger(part, _room(self.sizes, rows, tokens)) for part in self.stored)

    def move(self, source: int, target: int, tokens: int, swap: bool) -> None:
        """See `RowLayer`."""
        for part in self.stored:
            moved = part[source, :, :tokens]
            kept = part[target, :, :tokens].clone() if swap else None
            part[target, :, :tokens] = moved
            if kept is not None:
                moved.copy_(kept)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the tokens of this step, `[B, Hkv, n, d]`, and return all that its rows hold, `[B, Hkv, T, d]`."""
        step, keys, values = self.step, self.stored[0], self.stored[1]
        total = step.start + key_states.shape[2]
        if step.row is not None:
            seen = tuple(part.narrow(0, step.row, 1).narrow(2, 0, total) for part in self.stored)
            for part, new in zip(seen, (key_states, value_states), strict=True):
                part.narrow(2, step.start, new.shape[2]).copy_(new)
            return seen[0], seen[1]
        width = keys.shape[-1]
        place = step.place(keys.shape[1], keys.shape[2])
        keys.view(-1, width).index_copy_(0, place, key_states.reshape(-1, width))
        values.view(-1, width).index_copy_(0, place, value_states.reshape(-1, width))
        return keys.narrow(0, 0, step.rows).narrow(2, 0, total), values.narrow(0, 0, step.rows).narrow(2, 0, total)


class RowCache:
    """The rows of all layers. `library` is what the model is given as `past_key_values`."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes, self.step = sizes, Step()
        self.layers: Sequence[RowLayer] = self._layers()
        self.library = DynamicCache()
        self.library.layers = list(self.layers)
        self.library.layer_class_to_replicate = None
        self._reserved = (0, 0)
        self._columns = torch.arange(sizes.context, device=sizes.device)
        self.reserve(1, 1)

    def _layers(self) -> Sequence[RowLayer]:
        return [FullLayer(self.sizes, self.step) for _ in range(self.sizes.layers)]

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the cache holds, room included."""
        return sum(part.nbytes for layer in self.layers for part in layer.parts())

    def bytes_per_token(self) -> float:
        """Of all layers, at the full context, from what is allocated."""
        return sum(part.nbytes / (part.shape[0] * part.shape[2]) for layer in self.layers for part in layer.parts())

    def reserve(self, rows: int, tokens: int) -> None:
        """Room for `rows` rows of `tokens` tokens, in steps of `ROOM` and of twice the rows."""
        room = max(ROOM, tokens // 8)
        tokens = min(self.sizes.context, -(-tokens // room) * room)
        rows = min(self.sizes.slots, 1 << (rows - 1).bit_length())
        if rows <= self._reserved[0] and tokens <= self._reserved[1]:
            return
        rows, tokens = max(rows, self._reserved[0]), max(tokens, self._reserved[1])
        for layer in self.layers:
            layer.reserve(rows, tokens)
        self._reserved = (rows, tokens)

    def begin_prompt(self, row: int, start: int, tokens: int) -> Tensor | None:
        """Before a forward pass of `tokens` more tokens of the prompt in `row`. Returns the mask `[1, 1, tokens, T]`, or None
        where plain causal attention holds. Room must be reserved.
        """
        step = self.step
        step.row, step.start, step.rows = row, start, 1
        return self._prompt_mask(start, tokens) if start else None

    def begin_answers(self, lengths: Sequence[int]) -> Tensor | None:
        """Before a forward pass of one token in each of the rows 0 to B-1, which hold `lengths` tokens. Returns the mask
        `[B, 1, 1, T]`, or None where all rows see everything.
        """
        step, longest = self.step, max(lengths)
        step.row, step.start, step.rows = None, longest, len(lengths)
        step.lengths = torch.tensor(lengths, device=self.sizes.device)
        step.places.clear()
        if min(lengths) == longest:
            return None
        hidden = self._columns[: longest + 1] > step.lengths[:, None]
        return self._masked(hidden)[:, None, None]

    def stored(self, rows: Sequence[int], lengths: Sequence[int]) -> None:
        """After a forward pass that left `lengths` tokens in `rows`."""

    def reusable(self, row: int, shared: int) -> int:
        """How many of the first `shared` tokens of a row another prompt can take over: all of them."""
        return shared

    def keep(self, row: int, tokens: int) -> None:
        """Forget all but the first tokens of a row."""

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy the first tokens of a row to another one."""
        for layer in self.layers:
            layer.move(source, target, tokens, swap=False)

    def swap(self, first: int, second: int, tokens: int) -> None:
        """Exchange two rows, of which the longer has `tokens` tokens."""
        for layer in self.layers:
            layer.move(first, second, tokens, swap=True)

    def clear(self, row: int) -> None:
        """Forget a row whose numbers may not be numbers."""
        for layer in self.layers:
            layer.clear(row)

    def _prompt_mask(self, start: int, tokens: int) -> Tensor:
        hidden = self._columns[: start + tokens] > self._columns[start : start + tokens, None]
        return self._masked(hidden)[None, None]

    def _masked(self, hidden: Tensor) -> Tensor:
        """0 where seen and -inf where hidden, in the dtype of the model: what attention adds to its scores."""
        return torch.zeros(hidden.shape, dtype=self.sizes.dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)


def sizes_of(model: PreTrainedModel, slots: int, context: int) -> Sizes:
    """The sizes of a cache for `model`."""
    from modelwright.model_shape import ModelShape

    shape = ModelShape.from_config(model.config.to_dict())
    return Sizes(shape.layers, shape.kv_heads, shape.head_dim, model.dtype, model.device, slots, context)


def _room(sizes: Sizes, rows: int, tokens: int) -> Tensor:
    return torch.zeros(rows, sizes.kv_heads, tokens, sizes.head_dim, dtype=sizes.dtype, device=sizes.device)


def _larger(held: Tensor, room: Tensor) -> Tensor:
    """`room` with `held` in its first rows and tokens (dimensions 0 and 2)."""
    room[: held.shape[0], :, : held.shape[2]] = held
    return room
