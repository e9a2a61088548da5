"""`python -m guild.sparring_validator`, also `guild sparring-check`: check files of correction rows. (specs/guild.md 3.8)"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from guild.command import answered, process
from guild.places import VARIABLE, Places

if TYPE_CHECKING:
    from guild.correction.validator import FileReport

_EXAMPLES = """\
examples:
  guild sparring-check sparring_bin_L2_12_20260102_030405.jsonl
  guild sparring-check --check-all --strict

exit codes:
  0  every file passed: at least 95 % of its rows are valid, with --strict all of them
  1  a file did not pass, holds no row, or cannot be read
  2  wrong arguments
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `guild sparring-check`."""
    parser = argparse.ArgumentParser(
        prog="guild sparring-check",
        description="Check sparring files: correction rows made of a checkpoint's wrong answers.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("file", nargs="?", type=Path, metavar="FILE", help="a .jsonl file")
    chosen.add_argument("--check-all", action="store_true", help="every sparring file in guild/sparring_data/, the inbox and the queue")
    parser.add_argument("--strict", action="store_true", help="every row must be valid")
    parser.add_argument("--base-dir", metavar="D", help=f"the guild's folder (default: {VARIABLE}, else its home)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Check, and return the exit code."""
    arguments = build_parser().parse_args(argv)
    return answered(lambda: _check(arguments))


def run() -> int:
    """The console form."""
    return process(main)


def _check(arguments: argparse.Namespace) -> int:
    from guild.correction.validator import all_files, check_file

    files = all_files(Places.of(arguments.base_dir)) if arguments.check_all else [arguments.file]
    reports = [check_file(path, strict=arguments.strict) for path in files]
    passed = all(report.passed for report in reports)
    if arguments.json:
        content = {"schema_version": 1, "passed": passed, "files": [report.as_dict() for report in reports]}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_lines(reports)))
        for report in reports:
            for sentence in (*report.faults, *report.warnings):
                print(sentence, file=sys.stderr)
    return 0 if passed else 1


def _lines(reports: Sequence[FileReport]) -> Iterator[str]:
    for report in reports:
        told = f"{report.valid} of {report.rows} rows are valid ({report.share:.1%}; needed: {report.needed:.0%})"
        yield f"{'PASSED' if report.passed else 'FAILED'}  {report.path.name}: {told if report.rows else 'no row'}"
    if not reports:
        yield "There is no sparring file."


if __name__ == "__main__":
    raise SystemExit(run())
