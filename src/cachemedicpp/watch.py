"""The command `python -m cachemedicpp.watch`: the newest heartbeat of a run on one screen. (specs/medic.md, 8.9; [C32])

Reads files only and never writes any. Imports no torch and no pydantic, so that it answers at once.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cachemedicpp.phases.watch_view import Sight
    from modelwright.clock import Clock

EXIT_OF = {"completed": 0, "paused": 3, "failed": 1}
EXIT_NONE = EXIT_DEAD = 1
EXIT_INTERRUPTED, EXIT_NO_READER = 130, 141
LEAST_POLL_S = 0.1
_CLEAR = "\x1b[H\x1b[2J"
EXIT_CODES = """Exit status: 0 shown; 1 without --follow: there is no heartbeat; 2 bad flags; 130 interrupted.
With --stop_on_terminal: 0 the phase completed, 3 paused, 1 failed, or its process died and the heartbeat is stale."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status, see EXIT_CODES."""
    arguments = _parser().parse_args(argv)
    try:
        return watch(
            Path(arguments.run_dir).absolute(),
            follow=arguments.follow,
            poll_s=max(LEAST_POLL_S, arguments.poll_sec),
            stop_on_terminal=arguments.stop_on_terminal,
            clear_screen=arguments.clear_screen,
        )
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_NO_READER


def watch(
    folder: Path,
    *,
    follow: bool = False,
    poll_s: float = 2.0,
    stop_on_terminal: bool = False,
    clear_screen: bool = False,
    clock: Clock | None = None,
) -> int:
    """Print what the run in `folder` says, again whenever it changes when following; returns the exit status.

    poll_s: seconds between two looks. clear_screen: of a terminal, before each print.
    """
    from cachemedicpp.phases.watch_view import look
    from modelwright.clock import SYSTEM_CLOCK

    clock = clock or SYSTEM_CLOCK
    printed: tuple[object, ...] | None = None
    told: tuple[str, ...] | None = None
    while True:
        sight, problems = look(folder, clock.now(), poll_s)
        if sight is not None:
            if sight.key != printed:
                _print(sight, clear_screen)
                printed = sight.key
            code = _exit_code(sight) if stop_on_terminal else None
            if code is not None or not follow:
                return code or 0
        elif not follow:
            print(_nothing(folder, problems, "start a phase in it, or add --follow to wait for one."), file=sys.stderr)
            return EXIT_NONE
        elif problems != told:
            print(_nothing(folder, problems, "waiting for one."), file=sys.stderr, flush=True)
            told = problems
        clock.sleep(poll_s)


def _exit_code(sight: Sight) -> int | None:
    """The exit status of a phase that has ended, None while it goes on."""
    from cachemedicpp.phases.watch_view import STALE

    if sight.status == STALE and sight.dead:
        return EXIT_DEAD
    return EXIT_OF.get(sight.status)


def _nothing(folder: Path, problems: Sequence[str], what_now: str) -> str:
    return "\n".join([*problems, f"{folder}: found no heartbeat under logs/; {what_now}"])


def _print(sight: Sight, clear: bool) -> None:
    from cachemedicpp.phases.watch_view import plain, screen

    if not sys.stdout.isatty():
        print(f"{plain(sight)}\n", flush=True)
        return
    from rich.console import Console

    if clear:
        sys.stdout.write(_CLEAR)
    Console(highlight=False).print(screen(sight))
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cachemedicpp.watch",
        description="Show the newest heartbeat of a run or of a sweep on one screen: as a panel, or as plain text into a pipe.",
        epilog=f"Example: python -m cachemedicpp.watch --run_dir runs/tiny --follow --stop_on_terminal\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run_dir", required=True, metavar="DIR", help="directory of a run, or <out_root>/<sweep_name> of a sweep")
    parser.add_argument("--follow", action="store_true", help="go on looking, and print again whenever something changes")
    parser.add_argument(
        "--poll_sec", type=_seconds, default=2.0, metavar="S", help="seconds between two looks, at least 0.1 (default: 2.0)"
    )
    parser.add_argument("--stop_on_terminal", action="store_true", help="end when the phase is completed, paused or failed")
    parser.add_argument("--clear_screen", action="store_true", help="clear the terminal before each print")
    return parser


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: a number of seconds")
    return value


if __name__ == "__main__":
    sys.exit(main())
