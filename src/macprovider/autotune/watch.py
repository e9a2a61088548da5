"""What can end a wait early: the run's budget and the signals that ask it to stop.

A signal only sets a number here; the run notices it at its next step or within a tenth of a second of any wait, so that nothing
is ever torn in the middle.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from macprovider.autotune.outcome import BudgetExhausted, Interrupted
from modelwright.clock import SYSTEM_CLOCK, Clock

SLICE_S = 0.1
"""The longest that a wait goes without looking."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Watch:
    """Seconds left and signals seen. budget_s: from now on; None for no limit."""

    def __init__(self, budget_s: float | None, clock: Clock = SYSTEM_CLOCK) -> None:
        self.clock = clock
        self.signals = 0
        self._end = None if budget_s is None else clock.monotonic() + budget_s

    def remaining(self) -> float:
        """Seconds of budget; infinite without one."""
        return float("inf") if self._end is None else max(0.0, self._end - self.clock.monotonic())

    def check(self) -> None:
        """Raise Interrupted after a signal, BudgetExhausted when the time is over."""
        if self.signals:
            raise Interrupted
        if self.remaining() <= 0:
            raise BudgetExhausted

    def pause(self, seconds: float) -> None:
        """Wait; raises like `check`."""
        until = self.clock.monotonic() + seconds
        self.check()
        while (left := until - self.clock.monotonic()) > 0:
            self.clock.sleep(min(SLICE_S, left, max(self.remaining(), 0.001)))
            self.check()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Count SIGINT, SIGTERM and SIGHUP instead of dying of them; a SIGHUP that was ignored (nohup) stays ignored."""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        for number in SIGNALS:
            if not (number == signal.SIGHUP and before[number] is signal.SIG_IGN):
                signal.signal(number, self._note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1
