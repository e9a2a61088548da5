"""The one clock: wall time for people, monotonic time for measuring, both injectable so that a test can move them."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What code that needs time asks for."""

    def now(self) -> datetime:
        """Wall time, aware, UTC."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class ManualClock:
    """A clock that moves only when told: `advance` moves both faces, `jump` moves the wall clock alone (a clock
    adjustment)."""

    def __init__(self, start: datetime | None = None) -> None:
        self._wall = start or datetime(2026, 1, 1, tzinfo=UTC)
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self._wall += timedelta(seconds=seconds)
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Adjust the wall clock by `seconds`, which may be negative; monotonic time does not notice."""
        self._wall += timedelta(seconds=seconds)


SYSTEM_CLOCK: Clock = SystemClock()


def stamp(moment: datetime, *, millis: bool = False) -> str:
    """`2024-05-26T18:42:00Z`, or `2024-05-26T18:42:00.123Z` with `millis`. Raises ValueError for a moment without a
    time zone."""
    if moment.tzinfo is None:
        raise ValueError("a time stamp needs an aware datetime; attach UTC to it")
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds" if millis else "seconds")
    return text.replace("+00:00", "Z")


def parse_stamp(text: str) -> datetime:
    """The aware UTC moment of an ISO 8601 stamp; a stamp without a zone is taken as UTC. Raises ValueError when it is
    none."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def boot_seconds() -> float | None:
    """Seconds since this machine booted, counting sleep: equal for all its processes and deaf to clock adjustments.
    None where unknown."""
    clock_id = getattr(time, "CLOCK_BOOTTIME", None)
    return time.clock_gettime(clock_id) if clock_id is not None else None
