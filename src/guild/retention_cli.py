"""`guild retention`, also `python -m guild.retention_cli`: delete old checkpoints and snapshots by the rules. (specs/guild.md 2.8.4)"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from guild.command import answered, process, say
from guild.places import VARIABLE, Places

if TYPE_CHECKING:
    from guild.retention.apply import Done

_EXAMPLES = """\
examples:
  guild retention --dry-run
  guild retention
  guild retention --dry-run --cap-gb 50 --json

rules:
  0  only the newest save_total_limit checkpoints of a campaign keep their optimizer's state; weights and records stay
  1  above the cap (150 GB) whole checkpoints go, the oldest first, then snapshots; nothing younger than 36 hours
  the latest and the best of each campaign, what a campaign starts from, what an unfinished job names, what is deployed,
  today's and yesterday's snapshot, and everything younger than an hour always stay

exit codes:
  0  done, or shown
  1  refused or failed: another pass runs, a deletion failed, a campaign's document is damaged (it might name any checkpoint)
  2  wrong arguments
"""
HELP_PAGES: tuple[tuple[str, ...], ...] = ((),)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `guild retention`."""
    parser = argparse.ArgumentParser(
        prog="guild retention",
        description="One pass over local checkpoints and snapshots. The dry run shows exactly what the pass would delete.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base-dir", metavar="D", help=f"the guild's folder (default: {VARIABLE}, else its home)")
    parser.add_argument("--dry-run", action="store_true", help="show what would be deleted, delete and write nothing")
    parser.add_argument("--campaign", nargs=2, metavar=("HERO", "CAMPAIGN"), help="delete of this campaign alone")
    parser.add_argument("--cap-gb", type=float, metavar="GB", help="another cap than retention.cap_gb of config.json")
    parser.add_argument("--min-age-hours", type=float, metavar="H", help="another age than retention.min_age_hours; at least 1")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `guild retention ARGV`; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    return answered(lambda: _retain(Places.of(arguments.base_dir), arguments))


def run() -> int:
    """The console form."""
    return process(main)


def _retain(places: Places, arguments: argparse.Namespace) -> int:
    done = _pass(places, arguments)
    say(arguments, done.as_dict(), _lines(done))
    return 1 if done.failed else 0


def _pass(places: Places, arguments: argparse.Namespace) -> Done:
    from guild.campaigns.store import find_campaign
    from guild.records.database import open_guild
    from guild.retention.apply import limits_of, retain
    from guild.retention.rules import GB, HOUR
    from modelwright.errors import ConfigError, Fault

    faults = []
    if arguments.cap_gb is not None and arguments.cap_gb < 0:
        faults.append(Fault("--cap-gb", str(arguments.cap_gb), "0 or more"))
    if arguments.min_age_hours is not None and arguments.min_age_hours < 1:
        faults.append(Fault("--min-age-hours", str(arguments.min_age_hours), "1 or more; what is younger is never touched"))
    if faults:
        raise ConfigError(faults)
    campaign = "/".join(find_campaign(places, *arguments.campaign).key) if arguments.campaign else None
    limits = limits_of(places)
    if arguments.cap_gb is not None:
        limits = replace(limits, cap_bytes=round(arguments.cap_gb * GB))
    if arguments.min_age_hours is not None:
        limits = replace(limits, min_age_s=arguments.min_age_hours * HOUR)
    with open_guild(places) as db:
        return retain(db, places, dry_run=arguments.dry_run, campaign=campaign, limits=limits)


def _lines(done: Done) -> list[str]:
    from guild.retention.rules import GB

    plan = done.plan
    carried_out = {(step.path, step.what) for step in done.done}
    lines = []
    for step in plan.steps:
        word = "would delete" if done.dry_run else "deleted" if (step.path, step.what) in carried_out else "kept"
        what = step.path if step.what == "whole" else f"the optimizer's state in {step.path}"
        lines.append(f"{word} {what} ({step.size / GB:.3f} GB): {done.failed.get(step.path, step.why)}")
    if not plan.steps:
        lines.append("Nothing to delete.")
    stays = "would stay" if done.dry_run else "by plan"
    lines.append(f"{plan.before / GB:.2f} GB lie here, {plan.after / GB:.2f} GB {stays}; cap {plan.cap / GB:g} GB")
    if plan.over:
        lines.append(f"The cap does not hold: {plan.over / GB:.2f} GB above it are protected or too young.")
    return lines


if __name__ == "__main__":
    raise SystemExit(run())
