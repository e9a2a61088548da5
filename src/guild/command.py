"""What every command module of the guild shares: its common flags, how it answers, how it ends. (specs/guild.md 3)

Exit codes are decided here alone: 0 done, 1 refused or failed, 2 wrong arguments, and 130 for Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from guild.places import VARIABLE
from modelwright.errors import ModelwrightError

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def add_common(parser: argparse.ArgumentParser, *, nested: bool) -> None:
    """`--base-dir` and `--json`, before or behind a verb. nested: on the verb's own parser, where an absent flag must not undo one that
    stood before it."""
    default: Any = argparse.SUPPRESS if nested else None
    parser.add_argument("--base-dir", default=default, metavar="D", help=f"the guild's folder (default: {VARIABLE}, else its home)")
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS if nested else False, help="print JSON for programs")


def say(given: argparse.Namespace, document: Mapping[str, Any], lines: Iterable[str]) -> None:
    """The answer: the document with its `schema_version` for programs, else the lines."""
    print(json.dumps({"schema_version": 1, **document}, indent=2, ensure_ascii=False) if given.json else "\n".join(lines))


def answered(work: Callable[[], int]) -> int:
    """The exit code of `work`; an error of ours is its sentence on standard error and 2 for wrong arguments, else 1, whatever codes other
    rooms know. A Python package that is missing is such an error too."""
    try:
        return work()
    except ModelwrightError as error:
        print(error, file=sys.stderr)
        return USAGE if error.exit_code == USAGE else FAILED
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("guild", "modelwright"):
            raise
        install = "Install the part that brings it: pip install 'modelwright[training]'"
        print(f"This command needs the Python package {package!r}, which is not installed. {install}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def process(main: Callable[[], int]) -> int:
    """The exit code of a command module's `main` as a process."""
    from modelwright.cli import console

    return console(lambda: answered(main))
