"""The value of `--html`: a file that can be written at the end of a run, found out before its beginning."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from macprovider.autotune.parse_rules import Faults

FLAG = "--html"


def page_path(faults: Faults, text: str | None, taken: Sequence[Path | None]) -> Path | None:
    """The file itself, symbolic links followed; None without the flag, or with a fault for what stands against it.

    taken: files of the run that a page must not replace. A page replaces what stands at its place, so that only a plain file may
    stand there.
    """
    if text is None:
        return None
    if not text.strip() or "\0" in text:
        faults.add(FLAG, repr(text), "a path")
        return None
    try:
        path = Path(text).expanduser().resolve()
        fault = _fault(path, text, [other.resolve() for other in taken if other is not None])
    except RuntimeError:  # `~name` of nobody, or symbolic links in a circle
        faults.add(FLAG, repr(text), "a path below a folder that exists")
        return None
    except OSError as error:  # a name that is too long, a disk that does not answer
        faults.add(FLAG, f"{text!r} ({error.strerror})", "a path that this system can write")
        return None
    if fault is None:
        return path
    faults.add(FLAG, *fault)
    return None


def _fault(path: Path, text: str, taken: Sequence[Path]) -> tuple[str, str, str] | None:
    """What was found, what is allowed, what to do."""
    if path.is_dir() or text.endswith(os.sep):
        return f"{text!r}, a folder", "a file", f"Name one in it, such as {Path(text) / 'report.html'}"
    if path in taken:
        return f"{path}, which this command uses for something else", "a file of the report's own", "Name another"
    if path.exists() and not path.is_file():
        return f"{path}, which is no plain file", "a plain file, or nothing, in its place", "Name another"
    if not path.parent.is_dir():
        return f"{path}, whose folder does not exist", "a file in a folder that exists", f"Create it first: mkdir -p {path.parent}"
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return f"{path}, in a folder that this user may not write", "a file in a folder that can be written", "Name another"
    return None
