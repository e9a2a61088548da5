"""Progress: silent for a quick job, one line every ten seconds in a log, one rewritten line on a terminal."""

from __future__ import annotations

import io

import pytest

from macprovider.weights.progress import ByteProgress, size_text
from modelwright.clock import ManualClock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_every_ten_seconds() -> None:
    clock, log = ManualClock(), io.StringIO()
    progress = ByteProgress(log, "fetched", 1_000_000, clock=clock)
    for _ in range(25):
        clock.advance(1)
        progress.add(10_000)
    progress.close()
    assert log.getvalue().splitlines() == [
        "100.0 kB of 1.0 MB fetched, 10.0 kB/s, 1 min 30 s left",
        "200.0 kB of 1.0 MB fetched, 10.0 kB/s, 1 min 20 s left",
    ]


def test_a_quick_job_writes_nothing_to_a_log() -> None:
    log = io.StringIO()
    progress = ByteProgress(log, "fetched", 10, clock=ManualClock())
    progress.add(10)
    progress.close()
    assert log.getvalue() == ""


def test_a_terminal_gets_one_line_that_is_left_at_the_end() -> None:
    clock, log = ManualClock(), Terminal()
    progress = ByteProgress(log, "fetched", 8_000_000_000, 4_000_000_000, clock=clock)
    for _ in range(4):
        clock.advance(0.25)
        progress.add(10_000_000)
    progress.close()
    assert log.getvalue().count("\r") == 4 and log.getvalue().endswith("\n") and log.getvalue().count("\n") == 1
    assert "4.0 GB of 8.0 GB fetched, 40.0 MB/s, 1 min 39 s left" in log.getvalue()


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (17_000_000_000, "17.0 GB"), (2 * 10**12, "2.0 TB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size_text(count) == text
