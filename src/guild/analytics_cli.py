"""`guild analytics`: make a report about training by its name and show it. (specs/guild.md 2.7, 2.9)"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from guild.command import process
from guild.places import VARIABLE, Places
from modelwright.errors import ModelwrightError, UsageError

_EXAMPLES = """\
examples:
  guild analytics                                  the reports there are
  guild analytics overview
  guild analytics data-file-impact --campaign tiny/campaign-001 --json
  guild analytics layer-drift --checkpoint campaigns/tiny/campaign-001/checkpoints/checkpoint-500-20260101-1200
  guild analytics hard-examples --limit 10

exit codes:
  0  the report is made, whatever it says
  1  refused or failed: no such report or campaign, no campaign is active, something cannot be read
  2  wrong arguments
"""
SHOWN_ENTRIES = 10
HELP_PAGES: tuple[tuple[str, ...], ...] = ((),)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `guild analytics`."""
    parser = argparse.ArgumentParser(
        prog="guild analytics",
        description="What the records say about training: which file helped, how far the weights went, what is still answered wrong. "
        "No model is run. Each report is also written as a document into the campaign's status folder.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the report; without one they are listed, `all` makes every one")
    parser.add_argument("--base-dir", metavar="DIR", help=f"the guild's house (default: ${VARIABLE}, else ~/.modelwright/guild)")
    parser.add_argument("--campaign", metavar="HERO/CAMPAIGN", help="which campaign (default: the active one)")
    parser.add_argument("--base", metavar="DIR", help="layer-drift: the base model's folder (default: the campaign's base model)")
    parser.add_argument(
        "--checkpoint", metavar="DIR", help="layer-drift, parameter-stability: the checkpoint (default: the newest in the ledger)"
    )
    parser.add_argument("--force", action="store_true", help="layer-drift, parameter-stability: measure again what was measured")
    parser.add_argument("--limit", type=int, metavar="N", help="hard-examples: how many (default: 50)")
    parser.add_argument("--json", action="store_true", help="print the whole document")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """List the reports, or make one and print it."""
    given = build_parser().parse_args(argv)
    from guild.analytics.reports import REPORTS, run_report

    if given.name is None:
        listed = {name: report.about for name, report in REPORTS.items()}
        lines = [f"{name.replace('_', '-'):<24}{about}" for name, about in listed.items()]
        _say(given, {"schema_version": 1, "reports": listed}, lines)
        return 0
    places = Places.of(given.base_dir)
    options = {name: value for name in ("base", "checkpoint", "limit") if (value := getattr(given, name)) is not None}
    options |= {"force": True} if given.force else {}
    if given.name == "all":
        if options:
            raise UsageError(f"all: found the options {', '.join(sorted(options))}; allowed: none. They belong to single reports.")
        return _all(given, places)
    made = run_report(places, given.name, options, campaign=given.campaign)
    _say(given, made, summary_lines(made))
    return 0


def summary_lines(made: Mapping[str, Any]) -> list[str]:
    """A document for people: its plain fields, what it holds of longer ones, and the words for what nobody measured."""
    lines = []
    for name, value in made.items():
        if name in ("schema_version", "history", "parameters", "previous"):
            continue
        label = name.replace("_", " ").capitalize()
        if isinstance(value, dict):
            lines.append(f"{label}:" if value else f"{label}: none")
            lines += [f"  {key}: {_short(entry)}" for key, entry in list(value.items())[:SHOWN_ENTRIES]]
            lines += _left_out(len(value))
        elif isinstance(value, list):
            lines.append(f"{label}: {len(value)}")
            lines += [f"  {_short(entry)}" for entry in value[:SHOWN_ENTRIES]]
            lines += _left_out(len(value))
        else:
            lines.append(f"{label}: {_short(value)}")
    return lines


def _all(given: argparse.Namespace, places: Places) -> int:
    """Every report in order; one that fails is told, and does not keep the others from being made."""
    from guild.analytics.reports import REPORTS, run_report
    from guild.records.database import open_guild

    states: dict[str, str] = {}
    failed = False
    with open_guild(places) as db:
        for name in REPORTS:
            try:
                states[name] = str(run_report(places, name, campaign=given.campaign, db=db).get("status"))
            except ModelwrightError as error:
                failed = True
                states[name] = "failed"
                print(f"{name}: {error}", file=sys.stderr)
    _say(given, {"schema_version": 1, "reports": states}, [f"{name.replace('_', '-'):<24}{state}" for name, state in states.items()])
    return 1 if failed else 0


def _short(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(entry)}" for key, entry in value.items() if not isinstance(entry, (dict, list)))
    if isinstance(value, list):
        return f"{len(value)} entries"
    text = " ".join(str(value).split())
    return text if len(text) <= 100 else f"{text[:97]}…"


def _left_out(count: int) -> list[str]:
    return [f"  … and {count - SHOWN_ENTRIES} more (--json shows all)"] if count > SHOWN_ENTRIES else []


def _say(given: argparse.Namespace, content: Mapping[str, Any], lines: Sequence[str]) -> None:
    print(json.dumps(content, ensure_ascii=False, indent=2) if given.json else "\n".join(lines))


def run() -> int:
    """The process: errors as sentences."""
    return process(main)


if __name__ == "__main__":
    raise SystemExit(run())
