"""How far a fetch is, on standard error: a line that rewrites itself for a person, one line every ten seconds for a log."""

from __future__ import annotations

from typing import TextIO

from modelwright.clock import Clock, SystemClock

TERMINAL_EVERY_S = 0.2
LOG_EVERY_S = 10.0


class ByteProgress:
    """Counts bytes of one job. doing: a verb, "fetched". total, done: bytes; what lay there before counts as done but not for the rate."""

    def __init__(self, stream: TextIO, doing: str, total: int, done: int = 0, *, clock: Clock | None = None) -> None:
        self._stream, self._doing, self._total = stream, doing, total
        self._before = self._done = done
        self._clock = clock or SystemClock()
        self._started = self._last = self._clock.monotonic()
        self._terminal = stream.isatty()
        self._shown = 0

    def add(self, count: int) -> None:
        """`count` more bytes; negative when a file had to be started anew."""
        self._done += count
        now = self._clock.monotonic()
        if now - self._last >= (TERMINAL_EVERY_S if self._terminal else LOG_EVERY_S):
            self._last = now
            self._write(self.line())

    def close(self) -> None:
        """Leave the terminal's line."""
        if self._terminal and self._shown:
            self._stream.write("\n")
            self._stream.flush()
            self._shown = 0

    def line(self) -> str:
        """`1.2 of 4.3 GB fetched, 35.1 MB/s, 1 min 28 s left`"""
        seconds = self._clock.monotonic() - self._started
        rate = (self._done - self._before) / seconds if seconds > 0 else 0.0
        text = f"{size_text(self._done)} of {size_text(self._total)} {self._doing}"
        if rate > 0:
            text += f", {size_text(int(rate))}/s, {_duration(max(0, self._total - self._done) / rate)} left"
        return text

    def _write(self, line: str) -> None:
        if self._terminal:
            self._stream.write(f"\r{line:<{self._shown}}")
            self._shown = len(line)
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()


def size_text(count: int) -> str:
    """Bytes in decimal units: `512 B`, `3.2 MB`, `17.0 GB`."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 1000:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
