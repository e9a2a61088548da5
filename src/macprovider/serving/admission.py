"""Who computes now and who waits: a fixed number of answers at the same time, a bounded queue, first come first served.

Everything here runs on the event loop. A request of `n` answers waits as one; its answers take slots one by one.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

from macprovider.serving.errors import ApiError

MAX_RETRY_AFTER_S = 600
NEWEST_SHARE = 0.2
"""Weight of the newest answer in the average duration."""


class Applicant(Protocol):
    """A request that needs slots."""

    @property
    def to_start(self) -> int:
        """Answers that have not been started."""

    def start_one(self) -> None:
        """Start the next answer; never raises."""


class Admission:
    """slots: answers at the same time. depth: requests that may wait."""

    def __init__(self, slots: int, depth: int) -> None:
        self.slots, self.depth = slots, depth
        self.running = 0
        self.closed = False
        self.mean_seconds = 0.0
        self._queue: deque[Applicant] = deque()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    def enter(self, applicant: Applicant) -> None:
        """Start it, or let it wait. Raises ApiError 503 while draining, 429 with `Retry-After` when the queue is full."""
        if self.closed:
            raise closing()
        if (self._queue or self.running >= self.slots) and len(self._queue) >= self.depth:
            raise self._full()
        self._queue.append(applicant)
        self._fill()

    def withdraw(self, applicant: Applicant) -> None:
        """It wants nothing more; its running answers still hold their slots until they are released."""
        try:
            self._queue.remove(applicant)
        except ValueError:
            pass
        self._fill()

    def release(self, seconds: float | None) -> None:
        """One answer has ended, after this long in its slot; None when it never ran."""
        self.running -= 1
        if seconds is not None:
            self.mean_seconds += (seconds - self.mean_seconds) * (NEWEST_SHARE if self.mean_seconds else 1.0)
        self._fill()

    def close(self) -> None:
        """Admit nobody any more."""
        self.closed = True

    def retry_after(self) -> int:
        """Seconds after which a slot is probably free: those ahead, at the average duration of late."""
        return min(MAX_RETRY_AFTER_S, max(1, math.ceil(self.mean_seconds * (len(self._queue) + 1) / self.slots)))

    def _fill(self) -> None:
        while self._queue and self.running < self.slots:
            first = self._queue[0]
            if first.to_start:
                self.running += 1
                first.start_one()
            if not first.to_start and self._queue and self._queue[0] is first:
                self._queue.popleft()

    def _full(self) -> ApiError:
        seconds = self.retry_after()
        message = (
            f"All {self.slots} slots compute and {len(self._queue)} requests wait, which is all this server lets wait; "
            f"try again in about {seconds} s."
        )
        return ApiError(429, "rate_limit_exceeded", message, headers={"Retry-After": str(seconds)})


def closing() -> ApiError:
    """What a request hears while the server ends."""
    return ApiError(503, "model_not_loaded", "The server is shutting down and takes no more requests.", headers={"Retry-After": "5"})
