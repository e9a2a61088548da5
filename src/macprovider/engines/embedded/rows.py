"""What the engine remembers about an answer and about a slot, and which slot a new prompt takes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from macprovider.engines.base import GenerationRequest, Listener
from macprovider.engines.embedded.schedule import State

if TYPE_CHECKING:
    from macprovider.engines.embedded.sampling import Draw


@dataclass(eq=False)
class Answer:
    """One submitted request; it is also its `Ticket`. limit: tokens it may have. made: tokens it has. last: its newest token,
    whose keys and values are not cached yet.
    """

    request: GenerationRequest
    listener: Listener
    draw: Draw
    stop_ids: frozenset[int]
    limit: int
    wake: Callable[[], None]
    cached_tokens: int = 0
    made: int = 0
    last: int = -1
    cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """See `macprovider.engines.base.Ticket`."""
        self.cancelled.set()
        self.wake()


@dataclass(eq=False)
class Slot:
    """One row of the cache. tokens: those whose keys and values it holds, which stay after the answer for the next prompt that
    begins alike. used: turn of its last use.
    """

    tokens: list[int] = field(default_factory=list)
    answer: Answer | None = None
    used: int = 0

    @property
    def state(self) -> State:
        """See `schedule.State`."""
        if self.answer is None:
            return "idle"
        return "prompt" if len(self.tokens) < len(self.answer.request.prompt) else "answer"


class Seat(NamedTuple):
    """The slot for a prompt; source: the slot that holds its first `shared` tokens, itself or another to copy from."""

    slot: int
    source: int
    shared: int


def seat_for(prompt: Sequence[int], slots: Sequence[Slot], reusable: Callable[[int, int], int]) -> Seat:
    """The idle slot that a prompt takes: the one with the longest common beginning, unless another slot, idle or not, shares
    more, which is then copied into the idle slot used longest ago (an empty one first).

    reusable: slot and common tokens to the tokens that the cache can hand over, at most as many. The last token of a prompt is
    always computed, because its logits are needed.
    """
    shared = [_common(prompt, slot.tokens, len(prompt) - 1) for slot in slots]
    shared = [reusable(index, count) if count else 0 for index, count in enumerate(shared)]
    idle = [index for index, slot in enumerate(slots) if slot.answer is None]
    oldest = min(idle, key=lambda index: (bool(slots[index].tokens), slots[index].used, index))
    best_idle = max(idle, key=lambda index: shared[index])
    best = max(range(len(slots)), key=lambda index: shared[index])
    if not shared[best]:
        return Seat(oldest, oldest, 0)
    if shared[best_idle] == shared[best]:
        return Seat(best_idle, best_idle, shared[best])
    return Seat(oldest, best, shared[best])


def _common(first: Sequence[int], second: Sequence[int], limit: int) -> int:
    """Length of the common beginning, at most `limit`."""
    limit = min(limit, len(first), len(second))
    return next((index for index in range(limit) if first[index] != second[index]), limit)
