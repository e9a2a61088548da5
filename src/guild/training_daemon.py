"""`python -m guild.training_daemon`, also `guild daemon`: the training daemon. (specs/guild.md 2.1.1)"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from guild.command import process
from guild.errors import RefusedError
from guild.places import VARIABLE, Places
from modelwright.errors import UsageError

if TYPE_CHECKING:
    from guild.loop.daemon import Daemon
    from guild.loop.start import Started

_EXAMPLES = """\
examples:
  guild daemon
  guild daemon --poll 5 --set learning_rate=1e-5
  guild daemon --until-empty

It takes files from inbox/ and the queue and has them trained with the active campaign's settings, until it is stopped:
`guild control stop`, SIGTERM or Ctrl-C. A trainer that is at work finishes its step and saves first.

exit codes:
  0  stopped as asked
  1  refused: another daemon keeps this house, no active campaign, settings outside their ranges, a lock that does not agree
  2  wrong arguments
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `guild daemon`."""
    parser = argparse.ArgumentParser(
        prog="guild daemon",
        description="The training daemon: keeps the queue fed and the trainer at work, and survives crashes of both.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base-dir", metavar="DIR", help=f"the guild's house (default: ${VARIABLE}, else ~/.modelwright/guild)")
    parser.add_argument("--poll", type=float, metavar="S", help="seconds between rounds (default: poll_interval of config.json, 60)")
    parser.add_argument("--grace", type=float, default=120.0, metavar="S", help="time for a trainer to save and leave (default: 120)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting of the campaign")
    parser.add_argument("--min-free-gb", type=float, default=10.0, metavar="GB", help="begin no file with less free disk (default: 10)")
    parser.add_argument("--until-empty", action="store_true", help="leave when nothing is left to train")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Start, and live until asked to leave."""
    given = build_parser().parse_args(argv)
    from guild.loop.daemon import Daemon
    from guild.loop.daily_log import DailyLog
    from guild.loop.evaluations import Evaluations
    from guild.side_jobs.starting import SideJobs, leave
    from modelwright.control import signals_as_requests

    with signals_as_requests() as signals:
        started = _begin(Places.of(given.base_dir), tuple(given.set))
        try:
            for line in started.said:
                print(line, flush=True)
            idle = "1" if given.until_empty else "30"
            arguments = (
                "--idle-exit",
                idle,
                "--min-free-gb",
                str(given.min_free_gb),
                *(word for one in given.set for word in ("--set", one)),
            )
            poll = started.config.poll_interval if given.poll is None else given.poll
            side_jobs = SideJobs(say=_say)
            daemon = Daemon(
                started,
                signals,
                poll,
                given.grace,
                arguments,
                side_work=(_generate, Evaluations(interval_s=min(5.0, poll)), side_jobs),
                on_leaving=(lambda: leave(started.places, given.grace),),
                say=DailyLog(started.places.logs, _say),
                minimum_free=round(given.min_free_gb * 1e9),
            )
            daemon.run(until_empty=given.until_empty)
        finally:
            started.close()
    return 0


def _begin(places: Places, sets: tuple[str, ...]) -> Started:
    """The start sequence. Settings that it refuses are no wrong arguments: they may stand in any of the layers."""
    from guild.loop.start import start
    from modelwright.config import override_layer

    override_layer(sets)  # KEY=VALUE that is none is a wrong argument
    try:
        return start(places, sets=sets)
    except UsageError as error:
        raise RefusedError(str(error)) from error


def _generate(daemon: Daemon) -> None:
    """The one generation authority: new data when the queue runs low, and what others requested."""
    from guild.curriculum.authority import generation_round

    generation_round(daemon.db, daemon.places, say=daemon.say, clock=daemon.clock)


def _say(line: str) -> None:
    print(line, flush=True)


def run() -> int:
    """The process: errors as sentences."""
    return process(main)


if __name__ == "__main__":
    raise SystemExit(run())
