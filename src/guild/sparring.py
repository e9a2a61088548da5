"""`python -m guild.sparring`, also `guild sparring`: turn a checkpoint's wrong answers into correction rows. (specs/guild.md 3.8, 6.4)"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from guild.command import answered, process
from guild.places import PRIORITIES, VARIABLE, Places

if TYPE_CHECKING:
    from guild.correction.running import Result

COUNT = 100
_EXAMPLES = """\
examples:
  guild sparring --skill binary
  guild sparring --skill sy --level 2 --count 40 --checkpoint 5000
  guild sparring --skill bin --inference-url "$INFERENCE_URL" --no-queue --json

It asks the inference server under the dated base prompt, greedily, at most 512 tokens an answer; the skill itself judges. Each wrong
answer gives three rows. A request that fails is no answer; when more than 20 % fail, nothing is queued. A key of the server is read from
INFERENCE_READ_KEY or INFERENCE_ADMIN_KEY.

exit codes:
  0  done, also when every answer was right and there is nothing to queue
  1  refused or failed: the server does not answer, too many requests failed, an unknown skill, rows that the quality checks reject
  2  wrong arguments, or a model or checkpoint that is not served
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `guild sparring`."""
    parser = argparse.ArgumentParser(
        prog="guild sparring",
        description="Sparring: ask a checkpoint problems of a skill and turn its wrong answers into correction rows.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--skill", required=True, metavar="S", help="id or alias of a skill: binary, sy, syllo, or one that you added")
    parser.add_argument("--level", type=int, metavar="L", help="level of the problems (default: the level that the skill trains at)")
    parser.add_argument("--count", type=int, default=COUNT, metavar="N", help=f"problems to ask (default: {COUNT})")
    parser.add_argument("--checkpoint", metavar="C", help="name or step of the checkpoint to ask (default: the only one that is served)")
    parser.add_argument("--model", metavar="M", help="the same by the model's name on the server")
    parser.add_argument("--no-queue", action="store_true", help="save the rows in guild/sparring_data/ and queue nothing")
    parser.add_argument("--priority", choices=PRIORITIES, default="high", help="level of the queue (default: high)")
    parser.add_argument("--seed", type=int, metavar="N", help="draw these problems again (default: new ones each time)")
    parser.add_argument("--base-dir", metavar="D", help=f"the guild's folder (default: {VARIABLE}, else its home)")
    parser.add_argument("--inference-url", metavar="U", help="address of the inference server (default: the hosts registry's)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Hold one session; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    code = answered(lambda: _session(arguments))
    if code:
        print("0 rows were made.", file=sys.stderr)
    return code


def run() -> int:
    """The console form."""
    return process(main)


def _session(arguments: argparse.Namespace) -> int:
    result = _hold(arguments)
    print(json.dumps(result.as_dict(), indent=2, ensure_ascii=False) if arguments.json else "\n".join(_lines(result)))
    return 0


def _hold(arguments: argparse.Namespace) -> Result:
    from guild.correction.running import run_sparring

    payload: dict[str, Any] = {
        name: getattr(arguments, name) for name in ("skill", "level", "count", "checkpoint", "model", "priority", "seed")
    }
    progress = _show if not arguments.json and sys.stderr.isatty() else None
    url, queued = arguments.inference_url, not arguments.no_queue
    return run_sparring(Places.of(arguments.base_dir), payload, url=url, enqueue=queued, progress=progress)


def _show(done: int, count: int) -> None:
    print(f"\r{done} of {count} asked", end="" if done < count else "\n", file=sys.stderr, flush=True)


def _lines(result: Result) -> Iterator[str]:
    yield f"Checkpoint: {result.checkpoint} (model {result.model})"
    yield f"Skill:      {result.skill} level {result.level}"
    share = "none judged" if result.accuracy is None else f"{result.accuracy:.1%}"
    yield f"Answers:    {result.correct} right, {result.incorrect} wrong, {result.unanswered} without a result ({share})"
    yield f"Rows:       {result.rows}"
    if result.outcome == "CONDITIONAL":
        yield "Quality:    CONDITIONAL: some checks failed, see the sidecar of the file"
    if result.file is not None:
        yield f"Saved:      {result.file}"
    if result.queued is not None:
        stale = "; training is past this checkpoint already, so the rows are stale" if result.stale else ""
        yield f"Queued:     {result.queued} (job {result.job}){stale}"


if __name__ == "__main__":
    raise SystemExit(run())
