"""`guild backups`, also `python -m guild.backups`: copies of guild.db: list, make, check, restore. (issue decision State)"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from guild.command import answered, say
from guild.places import VARIABLE, Places
from modelwright.clock import SYSTEM_CLOCK, stamp

_EXAMPLES = """\
examples:
  guild backups list
  guild backups make
  guild backups check                   look at every row of guild.db
  guild backups restore                 the newest sound one takes the database's place; the daemon must be stopped

exit codes:
  0  done, or sound
  1  refused, damaged, or no sound backup
  2  wrong arguments
"""
HELP_PAGES: tuple[tuple[str, ...], ...] = ((),)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `guild backups`."""
    parser = argparse.ArgumentParser(
        prog="guild backups",
        description="Checked copies of the guild's database. The daemon makes one regularly.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, help in (
        ("list", "every backup, newest first"),
        ("make", "make one now"),
        ("check", "what is wrong with the database"),
        ("restore", "put one in the database's place; the former one is kept beside it"),
    ):
        added = verbs.add_parser(name, help=help, description=help)
        added.add_argument("--base-dir", metavar="DIR", help=f"the guild's house (default: ${VARIABLE}, else ~/.modelwright/guild)")
        added.add_argument("--json", action="store_true", help="print JSON for programs")
        if name == "restore":
            added.add_argument("name", nargs="?", help="the backup's file name (default: the newest that is sound)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    given = build_parser().parse_args(argv)
    from guild.records import backups
    from guild.records.database import open_guild

    places = Places.of(given.base_dir)
    if given.verb == "list":
        found = backups.list_backups(places)
        told = [{"name": one.name, "made_at": stamp(one.made_at), "size_bytes": one.path.stat().st_size} for one in found]
        lines = [f"{one['name']}  {one['made_at']}  {int(str(one['size_bytes'])) / 1e6:.1f} MB" for one in told]
        say(given, {"backups": told}, lines or ["No backup was made yet."])
        return 0
    if given.verb == "restore":
        done = backups.restore(places, given.name, clock=SYSTEM_CLOCK)
        aside = "" if done.quarantined is None else f" The former database is kept as {done.quarantined.name}."
        say(given, {"restored": done.backup.name}, [f"{done.backup.name} is the database now.{aside}"])
        return 0
    with open_guild(places) as db:
        if given.verb == "make":
            made = backups.make(db, places)
            say(given, {"made": made.name}, [f"Made and checked: {made.path}"])
            return 0
        wrong = backups.problems(db)
    say(given, {"problems": wrong}, wrong or ["guild.db is sound."])
    return 1 if wrong else 0


def run() -> int:
    """The process: errors as sentences."""
    return answered(main)


if __name__ == "__main__":
    raise SystemExit(run())
