"""Kill a real process before chosen lines of chosen modules, one process for each line.

A child is forked, runs the work under a line counter and kills itself (SIGKILL) just before its n-th line. No hook in the code under test.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

Line = tuple[str, int]


def lines_of(work: Callable[[], None], modules: Sequence[Any]) -> list[int]:
    """Numbers, counted from 1, at which a line of `modules` is reached for the first and for the last time when a child does all of
    `work`."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        first: dict[Line, int] = {}
        last: dict[Line, int] = {}
        _run(work, modules, lambda line, number: (first.setdefault(line, number), last.update({line: number})))
        with os.fdopen(writer, "w") as file:
            json.dump(sorted({*first.values(), *last.values()}), file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        numbers = file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return list(json.loads(numbers))


def killed_before(work: Callable[[], None], modules: Sequence[Any], number: int) -> None:
    """Do `work` in a child that is killed before line `number`; it must come that far."""
    child = os.fork()
    if child == 0:
        _run(work, modules, lambda line, reached: os.kill(os.getpid(), signal.SIGKILL) if reached == number else None)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, f"line {number} was not reached"


def _run(work: Callable[[], None], modules: Sequence[Any], at_line: Callable[[Line, int], object]) -> None:
    """`work` with `at_line((file, line), number)` before each line of `modules`; ends the process when it raises."""
    files = {str(Path(module.__file__)) for module in modules}
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            count += 1
            at_line((frame.f_code.co_filename, frame.f_lineno), count)
        return trace

    try:
        sys.settrace(trace)
        work()
        sys.settrace(None)
    except BaseException:  # noqa: BLE001 - the child reports it and ends
        sys.settrace(None)
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(70)
