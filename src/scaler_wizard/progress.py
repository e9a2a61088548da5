"""The terminal line of a running job: one line rewritten in place on a terminal; elsewhere a plain line every few seconds,
as long as there is something new to say.

It goes to standard error, so that standard output stays free for results and telegrams.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaler_wizard.session import Position

PLAIN_EVERY_S = 5.0
TTY_EVERY_S = 0.25
WIDTH = 79


class ProgressLine:
    """Shows where a job stands. `eta` gives the seconds left, or None while that is unknown."""

    def __init__(self, eta: Callable[[], float | None], stream: IO[str] | None = None) -> None:
        self.eta = eta
        self.stream = stream or sys.stderr
        self.tty = self.stream.isatty()
        self._next = 0.0
        self._last = ""
        self._printed = ""
        self._live: Any = None
        self._held = False

    def update(self, at: Position, message: str, *, force: bool = False) -> None:
        """Show the position, at most every quarter of a second on a terminal and every 5 s elsewhere; a new message at
        once. Where lines cannot be rewritten, the line that stands there already is not printed again.
        """
        if self._held:
            return
        now = time.monotonic()
        if now < self._next and not (force and message != self._last):
            return
        self._next = now + (TTY_EVERY_S if self.tty else PLAIN_EVERY_S)
        self._last = message
        line = status_line(at, message, self.eta())
        if not self.tty:
            if line != self._printed:
                print(line, file=self.stream, flush=True)
            self._printed = line
            return
        from rich.text import Text

        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self.stream)
            both = sys.stdout.isatty()  # results that are piped away stay out of the terminal
            self._live = Live(console=console, refresh_per_second=4, transient=False, redirect_stdout=both)
            self._live.start()
        self._live.update(Text(line))  # no markup: a message may hold brackets

    def hold(self) -> None:
        """Leave the terminal alone until `release`: someone is about to type there."""
        self.close()
        self._held = True

    def release(self) -> None:
        self._held = False

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def status_line(at: Position, message: str, eta_s: float | None) -> str:
    """`P2 1024 tokens  step 120/600 (20 %)  8,123 tok/s  3 min left  training`, at most 79 characters."""
    parts = [f"P{at.phase}"]
    if at.rung is not None:
        parts.append(f"{at.rung} tokens")
    if at.total:
        parts.append(f"step {at.step}/{at.total} ({100 * at.step // at.total} %)")
    if at.tokens_per_s:
        parts.append(f"{at.tokens_per_s:,.0f} tok/s")
    if eta_s is not None and at.step < at.total:
        parts.append(f"{duration(eta_s)} left")
    parts.append(message)
    return "  ".join(parts)[:WIDTH]


def duration(seconds: float) -> str:
    """Seconds in words: `45 s`, `3 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
