"""The flags that train, eval and stability share. Imports argparse only, so that `--help` answers at once. (specs/medic.md, 8.1)"""

from __future__ import annotations

import argparse
import os
import sys

EXIT_CODES = "Exit status: 0 completed or nothing left to do, 3 paused, 1 failure, 2 bad flags or invalid configuration."


def phase_parser(command: str, description: str, heartbeat_help: str) -> argparse.ArgumentParser:
    """The parser of `python -m cachemedicpp.<command>` with --config, --run_dir, --[no-]resume and --heartbeat_every.

    heartbeat_help: what N counts and its default. A bad flag ends the process with 2, as argparse does.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m cachemedicpp.{command}",
        description=description,
        epilog=f"Example: python -m cachemedicpp.{command} --config configs/medic/tiny.yaml --run_dir runs/tiny\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, metavar="YAML", help="run configuration, for example configs/medic/tiny.yaml")
    parser.add_argument("--run_dir", required=True, metavar="DIR", help="directory of the run; its name is the run id")
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on from saved progress (default); --no-resume moves earlier logs and progress to archive/ and starts anew",
    )
    parser.add_argument("--heartbeat_every", type=positive, default=None, metavar="N", help=heartbeat_help)
    return parser


def positive(text: str) -> int:
    """A whole number of at least 1, as argparse wants it."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: a whole number from 1")
    return number


def resume_words(command: str, config: str, run_dir: str) -> list[str]:
    """The command line that goes on with a run from any folder."""
    paths = ["--config", os.path.abspath(config), "--run_dir", os.path.abspath(run_dir)]
    return [sys.executable, "-m", f"cachemedicpp.{command}", *paths, "--resume"]
