"""Arguments and exit codes of `modelwright runs`."""

from __future__ import annotations

import argparse
from pathlib import Path

from modelwright.errors import UsageError

DEFAULT_ROOT = "runs"
EXIT_UNREADABLE = 1
EXIT_NO_WRITER = 10
EXIT_NO_ANSWER = 11
EXIT_DECLINED = 12
EXIT_NOT_RESUMABLE = 13

EXIT_CODES = """exit codes:
  0   done (watch --stop-on-terminal: the run completed)
  1   a file could not be read or written (show, watch: the record of the run is missing or damaged;
      watch --stop-on-terminal: the run failed, was stopped or died)
  2   wrong arguments, or no such run
  9   watch --stop-on-terminal: the run is paused
  10  pause, stop, ask: no live process writes the run, so nobody would answer
  11  pause, stop, ask: no answer within --wait; the request stays in place
  12  pause, stop, ask: the run refused the request, or ended first
  13  resume: refused (completed, a live process writes the run or became its writer first, nothing to resume with)
  resume otherwise ends with the code of the resumed command."""

HELP_PAGES: tuple[tuple[str, ...], ...] = (
    (),
    ("list",),
    ("show",),
    ("watch",),
    ("pause",),
    ("stop",),
    ("ask",),
    ("resume",),
    ("export",),
    ("reindex",),
)
"""Argument lists that have a help text of their own, for the generated command reference."""

SORT_KEYS = ("created", "updated", "name", "kind", "status", "step")
STATUSES = ("running", "paused", "completed", "failed", "stopped", "aborted", "stalled", "dead", "unreachable", "damaged")
FORMATS = ("csv", "json")


def build_parser() -> argparse.ArgumentParser:
    """The arguments of every subcommand."""
    parser = argparse.ArgumentParser(
        prog="modelwright runs",
        description="Look at runs of any kind and ask something of them. The run directories are the truth.",
        epilog=f"example:\n  modelwright runs list --status running\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)

    def add(name: str, summary: str, example: str, run: bool = True) -> argparse.ArgumentParser:
        child = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"example:\n  modelwright runs {example}\n\n{EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if run:
            child.add_argument("run", metavar="RUN", help="a path, a directory name below --runs, or the start of a run id")
        child.add_argument(
            "--runs",
            metavar="DIR",
            type=Path,
            action="append",
            help=f"folder of runs, repeatable (default: ./{DEFAULT_ROOT}, then folders that were listed before)",
        )
        child.add_argument("--json", action="store_true", help="answer with JSON on standard output")
        return child

    child = add("list", "list runs, newest first", "list --status running --tag demo", run=False)
    child.add_argument("--all", action="store_true", help="every folder that was ever listed")
    child.add_argument(
        "--status", action="append", default=[], metavar="NAME", help=f"only this status or state, repeatable: {', '.join(STATUSES)}"
    )
    child.add_argument("--kind", action="append", default=[], help="only runs of this kind, repeatable")
    child.add_argument("--tag", action="append", default=[], help="only runs with this tag; given twice, with both")
    child.add_argument("--sort", metavar="KEY", default="created", help=f"order (default: created, newest first): {', '.join(SORT_KEYS)}")
    child.add_argument("--limit", type=int, metavar="N", help="at most N runs, 0 for all (default: 50, with --json all)")

    add("show", "show all that is known of a run, and what is wrong with its files", "show runs/demo")

    child = add("watch", "watch the progress of a run", "watch demo --follow --stop-on-terminal")
    child.add_argument("--follow", action="store_true", help="keep watching until interrupted")
    child.add_argument("--stop-on-terminal", action="store_true", help="follow until the run has ended, paused or died")
    child.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="look this often (default: 1)")

    for kind, summary in (
        ("pause", "ask a run to save its state and pause (it ends with code 9)"),
        ("stop", "ask a run to save its state and stop"),
    ):
        _add_wait(add(kind, summary, f"{kind} demo --wait 60"))
    child = add("ask", "put any request before a run", "ask demo rollback --body '{\"target_phase\": 1}'")
    child.add_argument("kind", metavar="REQUEST", help="pause, resume, stop, skip, approve, abort or rollback")
    child.add_argument("--body", default="{}", metavar="JSON", help="what the request needs to say")
    _add_wait(child)

    child = add(
        "resume",
        "start the recorded resume command of a run that is paused, stopped, failed or dead",
        "resume demo --detach",
    )
    child.add_argument("--detach", action="store_true", help="in the background, output in resume.log of the run directory")

    child = add(
        "export",
        "write the metrics of a run as one table",
        "export demo --metrics csv --out loss.csv --metric train/loss",
    )
    child.add_argument("--metrics", metavar="FORMAT", default="csv", help="csv (default) or json")
    child.add_argument("--out", type=Path, metavar="FILE", help="file to write (default: standard output)")
    child.add_argument("--metric", action="append", default=[], metavar="NAME", help="only this metric, repeatable")
    child.add_argument("--every-attempt", action="store_true", help="also events that a later attempt replaced")

    child = add("reindex", "forget the index and build it anew from the run directories", "reindex", run=False)
    child.add_argument("--forget-missing", action="store_true", help="no longer look for remembered folders that are gone")
    return parser


def check_choices(arguments: argparse.Namespace) -> None:
    """Raise UsageError for a value outside a closed set."""
    for option, allowed in (("status", STATUSES), ("sort", SORT_KEYS), ("metrics", FORMATS)):
        given = getattr(arguments, option, [])
        for value in given if isinstance(given, list) else [given]:
            if value not in allowed:
                raise UsageError(f"--{option}: found {value!r}; allowed: {', '.join(allowed)}.")


def _add_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="wait so long for the answer, 0 not at all (default: 30)",
    )
