"""From the engine's threads to the event loop: whatever the engine says while the loop is busy crosses in one wake-up."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from macprovider.engines.base import FinishReason, Token


class Reader(Protocol):
    """Whoever has heard something and is told when no more comes for now."""

    def wake(self) -> None:
        """Never raises."""


Hear = Callable[[Sequence[Token], FinishReason | None, str], Reader | None]
"""Called on the loop: new tokens (possibly none), the reason when the answer has ended, the error's sentence. Gives whom to wake."""


class Handover:
    """One for a server. `asyncio` wakes its loop by a write to a socket, which costs more than a token's whole way through the
    server: with eight answers in a batch one wake-up for each step is enough."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: deque[tuple[Hear, Sequence[Token], FinishReason | None, str]] = deque()
        self._woken = False

    def listener(self, hear: Hear) -> HandoverListener:
        """The listener for one answer."""
        return HandoverListener(self, hear)

    def put(self, hear: Hear, tokens: Sequence[Token], reason: FinishReason | None, error: str) -> None:
        """From any thread."""
        self._items.append((hear, tokens, reason, error))
        if not self._woken:  # set before the loop takes the items, so that none is left behind
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._settle)
            except RuntimeError:  # the loop is closed: nobody is left to hear
                self._items.clear()

    def _settle(self) -> None:
        # Waking the loop lets it run before the engine has handed out the rest of its step; one more turn lets the engine finish.
        self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._woken = False
        items = self._items
        readers: dict[Reader, None] = {}
        while items:
            hear, tokens, reason, error = items.popleft()
            reader = hear(tokens, reason, error)
            if reader is not None:
                readers[reader] = None
        for reader in readers:
            reader.wake()


class HandoverListener:
    """See `macprovider.engines.base.Listener`."""

    __slots__ = ("_handover", "_hear")

    def __init__(self, handover: Handover, hear: Hear) -> None:
        self._handover, self._hear = handover, hear

    def tokens(self, tokens: Sequence[Token]) -> None:
        self._handover.put(self._hear, tokens, None, "")

    def finished(self, reason: FinishReason, error: str = "") -> None:
        self._handover.put(self._hear, (), reason, error)
