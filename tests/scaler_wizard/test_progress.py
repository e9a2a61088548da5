"""The terminal line: never the same line twice in a row where lines stay, one line refreshed in place on a terminal."""

from __future__ import annotations

import io
import os
import pty
import sys

import pytest

from scaler_wizard import progress
from scaler_wizard.progress import ProgressLine
from scaler_wizard.session import Position


def test_an_unchanged_line_is_not_printed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    stream = io.StringIO()
    line = ProgressLine(lambda: None, stream)
    at = Position(phase=1, rung=1024, total=40)
    for message in ("probing", "probing", "probing", "training", "probing"):
        line.update(at, message)
    at.step = 1
    line.update(at, "probing")
    line.update(at, "probing", force=True)
    line.close()
    assert [text.rsplit("  ", 1)[1] for text in stream.getvalue().splitlines()] == ["probing", "training", "probing", "probing"]


def test_a_terminal_gets_one_line_that_is_refreshed_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TTY_EVERY_S", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as stream:
        before = sys.stdout
        line = ProgressLine(lambda: None, stream)
        for step in range(4):
            line.update(Position(phase=1, rung=1024, total=4, step=step), "probing")
            line._live.refresh()
            assert sys.stdout is before  # standard output is not the terminal here and stays as it is
        line.close()
    shown = b""
    try:
        while part := os.read(master, 65536):
            shown += part
    except OSError:  # the other end is closed and all is read
        pass
    os.close(master)
    text = shown.decode()
    assert "step 3/4" in text and text.count("\n") <= 2
    assert "\r\x1b[2K" in text  # the line is erased and written again
