"""`guild incidents`, also `python -m guild.incidents`: what went wrong, and what became of it. (specs/guild.md 2.3.5)"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from guild.command import add_common, answered, process, say
from guild.places import Places

if TYPE_CHECKING:
    from guild.progression.incidents import Incident

STATUSES = ("open", "investigating", "resolved", "wontfix")
_EXAMPLES = """\
examples:
  guild incidents list
  guild incidents list --status open --json
  guild incidents set 3 investigating --note "looking at the data of Tuesday"
  guild incidents set 3 resolved

The daemon looks for incidents every ten minutes. While one is open or investigated, further cases of the same kind are counted in it; the
next case after it was resolved, or will not be fixed, opens a new one.

exit codes:
  0  shown, or set
  1  refused or failed: no such incident, a damaged document
  2  wrong arguments
"""
HELP_PAGES: tuple[tuple[str, ...], ...] = ((), ("list",), ("set",))


def build_parser() -> argparse.ArgumentParser:
    """The parser of `guild incidents`."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="guild incidents",
        description="Incidents: failures that need a person, found in the events and in contradictions of the records.",
        epilog=_EXAMPLES,
        formatter_class=raw,
    )
    add_common(parser, nested=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    listing = verbs.add_parser(
        "list",
        help="the incidents that are kept, the newest first",
        epilog="example: guild incidents list --status open\nexit codes: 0 shown, 1 it cannot be read, 2 wrong arguments",
        formatter_class=raw,
    )
    listing.add_argument("--status", choices=STATUSES, help="only those")
    setting = verbs.add_parser(
        "set",
        help="say what became of an incident",
        epilog="example: guild incidents set 3 resolved --note 'fixed'\nexit codes: 0 set, 1 no such incident, 2 wrong arguments",
        formatter_class=raw,
    )
    setting.add_argument("incident", type=int, metavar="ID", help="its number")
    setting.add_argument("status", choices=STATUSES, help="what becomes of it")
    setting.add_argument("--note", default="", metavar="TEXT", help="why, kept with it")
    for verb in (listing, setting):
        add_common(verb, nested=True)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `guild incidents ARGV`; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    return answered(lambda: _VERBS[arguments.verb](Places.of(arguments.base_dir), arguments))


def run() -> int:
    """The console form."""
    return process(main)


def _list(places: Places, arguments: argparse.Namespace) -> int:
    from guild.progression.incidents import incidents

    found = incidents(places, arguments.status)
    none = "No incident." if arguments.status is None else f"None is {arguments.status}."
    lines = [line for one in found for line in _lines(one)] or [none]
    say(arguments, {"incidents": [one.model_dump(mode="json") for one in found]}, lines)
    return 0


def _set(places: Places, arguments: argparse.Namespace) -> int:
    from guild.progression.incidents import set_status

    changed = set_status(places, arguments.incident, arguments.status, note=arguments.note)
    say(arguments, {"incident": changed.model_dump(mode="json")}, _lines(changed))
    return 0


def _lines(one: Incident) -> list[str]:
    cases = "1 case" if one.count == 1 else f"{one.count} cases"
    lines = [f"{one.id}  {one.status}: {one.title} ({one.category}, {one.severity}; {cases}, {one.opened_at} to {one.updated_at})"]
    lines += [f"   {one.evidence[-1]}"] if one.evidence else []
    return [*lines, f"   Note: {one.note}"] if one.note else lines


_VERBS: dict[str, Callable[[Places, argparse.Namespace], int]] = {"list": _list, "set": _set}


if __name__ == "__main__":
    raise SystemExit(run())
