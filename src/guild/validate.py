"""`guild validate`, also `python -m guild.validate`: check a training file before it is queued. (specs/guild.md 5.2)"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from guild.command import answered

_EXAMPLES = """\
examples:
  guild validate rows.jsonl --schema chat_sft_v1
  guild validate rows.jsonl --level deep --tokenizer Qwen/Qwen3-0.6B --max-length 2048
  guild validate rows.jsonl --level deep --skip leakage --json
  guild validate rows.jsonl --level deep --block duplicates=0.01 --block degenerate=0

exit codes:
  0  valid (warnings may be told)
  1  not valid, or the file or the tokenizer cannot be read
  2  wrong arguments

The trainer does the same before every file; `validation` in config.json says how strictly (level, block, skip, allow_default).
"""
HELP_PAGES: tuple[tuple[str, ...], ...] = ((),)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `guild validate`."""
    parser = argparse.ArgumentParser(
        prog="guild validate",
        description="Check a file of training rows: every row, the lengths of some in tokens, and with --level deep what the rows say.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="one JSON object per line")
    parser.add_argument("--level", choices=("quick", "standard", "deep"), default="standard", help="default: standard")
    parser.add_argument("--schema", metavar="ID", help="chat_sft_v1, syllo_v1 or completion_v1 (default: what sidecar or first row name)")
    parser.add_argument("--allow-default", action="store_true", help="rows that name no schema are chat_sft_v1")
    parser.add_argument("--strict", action="store_true", help="every row must say where it comes from")
    parser.add_argument("--tokenizer", metavar="MODEL", help="count tokens with this model's tokenizer; needs --max-length")
    parser.add_argument("--max-length", type=int, metavar="TOKENS", help="most tokens of a row")
    parser.add_argument("--skip", action="append", default=[], metavar="CHECK", help="a deep check to leave out; may be repeated")
    parser.add_argument(
        "--block",
        action="append",
        default=[],
        type=_blocking,
        metavar="CHECK=SHARE",
        help="a finding of this deep check in more than this share of the rows (0 to 1) is an error, not a warning; may be repeated",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: as many as pay)")
    parser.add_argument("--json", action="store_true", help="print the whole report")
    return parser


def _blocking(text: str) -> tuple[str, float]:
    """`CHECK=SHARE`; the policy says whether there is such a check and whether the share is one."""
    name, _, share = text.partition("=")
    try:
        return name, float(share)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: CHECK=SHARE, for example duplicates=0.01") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Check one file; returns the exit code."""
    parser = build_parser()
    given = parser.parse_args(argv)
    if (given.tokenizer is None) != (given.max_length is None):
        parser.error("--tokenizer and --max-length belong together")
    if (given.block or given.skip) and given.level != "deep":
        parser.error("--block and --skip are about deep checks; they need --level deep")
    from guild.validation.lengths import token_counter
    from guild.validation.policy import Policy
    from guild.validation.validate import validate_file

    counter = None
    if given.tokenizer is not None:
        from modelwright.loading import load_tokenizer, resolve_tokenizer

        counter = token_counter(load_tokenizer(resolve_tokenizer(given.tokenizer)))
    report = validate_file(
        given.file,
        given.level,
        schema=given.schema,
        allow_default=given.allow_default,
        strict=given.strict,
        tokenizer=counter,
        max_length=given.max_length,
        policy=Policy(block=dict(given.block), skip=frozenset(given.skip)),
        workers=given.workers,
    )
    if given.json:
        print(json.dumps({"schema_version": 1, **report.as_dict()}, indent=2))
    else:
        for error in report.errors:
            print(error)
        for warning in report.warnings:
            print(f"warning: {warning}")
        rows = report.stats.get("rows")
        print(f"{given.file}: {'valid' if report.valid else 'NOT valid'}" + (f", {rows:,} rows" if rows is not None else ""))
    return 0 if report.valid else 1


def run() -> int:
    """The process: errors as sentences."""
    return answered(main)


if __name__ == "__main__":
    raise SystemExit(run())
