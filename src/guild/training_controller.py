"""`python -m guild.training_controller`, also `guild control`: pause, resume, skip, stop, and what is going on. (specs/guild.md 3.2)"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from guild.command import add_common, answered, say
from guild.places import Places
from modelwright.errors import UsageError

if TYPE_CHECKING:
    from guild.control.signals import SignalKind

_EXAMPLES = """\
examples:
  guild control status
  guild control pause --reason "GPU needed" --wait
  guild control resume
  guild control skip --wait 120
  guild control stop

exit codes:
  0  done
  1  refused or failed: nothing to resume, a signal that cannot be written, --wait without a daemon or in vain
  2  wrong arguments
"""
_SIGNALS = {
    "pause": ("finish the step, save a checkpoint, wait", "The running file stays where it is and goes on at the same row after `resume`."),
    "stop": ("finish the step, save a checkpoint, end the daemon", "The running file returns to its queue with its position."),
    "skip": ("finish the step, put the file behind the others", "The running file moves to low; the next one starts."),
    "resume": ("go on after a pause", "Only meaningful while paused; otherwise refused."),
}
_DONE = {"pause": "paused", "stop": "stopped", "skip": "past that file", "resume": "running again"}
HELP_PAGES: tuple[tuple[str, ...], ...] = ((), *((verb,) for verb in (*_SIGNALS, "clear", "status")))


def build_parser() -> argparse.ArgumentParser:
    """The parser of `guild control`."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="guild control",
        description="Ask the training daemon to pause, resume, skip or stop. A file in control/ asks; nothing is killed. "
        "`touch control/.pause` by hand asks the same.",
        epilog=_EXAMPLES,
        formatter_class=raw,
    )
    add_common(parser, nested=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (help, more) in _SIGNALS.items():
        codes = "0 asked for (with --wait: reached), 1 refused, failed or not reached in time, 2 wrong arguments"
        added = verbs.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}. {more}",
            epilog=f"example: guild control {name} --wait 60\nexit codes: {codes}",
            formatter_class=raw,
        )
        add_common(added, nested=True)
        if name != "resume":
            added.add_argument("--reason", metavar="R", help="why, for status and log (default: User requested)")
        added.add_argument(
            "--wait",
            nargs="?",
            type=float,
            const=0.0,
            metavar="SECONDS",
            help="return when it is reached; without SECONDS however long it takes",
        )
    for name, help in (("clear", "remove all signal files"), ("status", "state, file, reason and signals")):
        add_common(
            verbs.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", epilog=f"example: guild control {name}"),
            nested=True,
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `guild control ARGV`; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    places = Places.of(arguments.base_dir)
    verbs: dict[str, Callable[[Places, argparse.Namespace], int]] = {"clear": _clear, "status": _status}
    return answered(lambda: verbs.get(arguments.verb, _signal)(places, arguments))


def run() -> int:
    """The console form."""
    from modelwright.cli import console

    return console(main)


def _signal(places: Places, arguments: argparse.Namespace) -> int:
    from guild.control.daemon import daemon_liveness, house_liveness
    from guild.control.signals import DEFAULT_REASON, give
    from guild.control.status import may_resume
    from guild.errors import RefusedError

    kind = cast("SignalKind", arguments.verb)
    wait_s = _wait_seconds(arguments.wait)
    if kind == "resume" and not may_resume(places):
        raise RefusedError("resume: found nothing that is paused; allowed: resume after a pause. See `guild control status`.")
    before = 0 if wait_s is None else _skips(places)
    path = give(places, kind, getattr(arguments, "reason", None) or DEFAULT_REASON)
    alive = daemon_liveness(places)
    if wait_s is not None:
        return _wait(places, kind, path, before, wait_s, arguments)
    line = f"{kind.capitalize()} signal written: {path}"
    say(arguments, {"schema_version": 1, "signal": kind, "path": str(path), "daemon": alive}, [line])
    if house_liveness(places) == "dead":
        print("No daemon is running; its next start clears the signal.", file=sys.stderr)
    return 0


def _wait(places: Places, kind: SignalKind, path: Path, skips_before: int, wait_s: float, arguments: argparse.Namespace) -> int:
    from guild.control.status import get_status, reached, wait
    from modelwright.clock import SYSTEM_CLOCK

    def is_reached() -> bool:
        return reached(places, kind, lambda: _skips(places), skips_before)

    done = wait(places, is_reached, timeout_s=wait_s or None, clock=SYSTEM_CLOCK)
    status = get_status(places)
    sentence = (
        f"Training is {_DONE[kind]}."
        if done
        else f"{kind}: not reached within {wait_s:g} seconds (status: {status['status']}). "
        "The signal stands; `guild control clear` removes it."
    )
    data = {"schema_version": 1, "signal": kind, "path": str(path), "reached": done, "status": status["status"]}
    if done or arguments.json:
        say(arguments, data, [sentence])
    if not done:
        print(sentence, file=sys.stderr)
    return 0 if done else 1


def _wait_seconds(found: float | None) -> float | None:
    """0 for no limit, None for no waiting. Raises UsageError."""
    if found is not None and not 0 <= found <= 10**7:
        raise UsageError(f"--wait: found {found:g}; allowed: seconds from 0 (no limit) to {10**7}.")
    return found


def _skips(places: Places) -> int:
    from guild.queue.status import get_queue_status

    return int(get_queue_status(places)["skipped"])


def _clear(places: Places, arguments: argparse.Namespace) -> int:
    from guild.control.signals import clear

    removed = clear(places)
    say(arguments, {"schema_version": 1, "cleared": removed}, [f"Cleared signals: {', '.join(removed) or 'None'}"])
    return 0


def _status(places: Places, arguments: argparse.Namespace) -> int:
    from guild.control.status import get_status

    status = get_status(places)
    stale = " (stale: the daemon is not running)" if status["stale"] else ""
    lines = [f"Status: {status['status']}{stale}"]
    fields = (("Last Update", "last_update"), ("Current File", "current_file"), ("Reason", "reason"), ("Paused At", "paused_at"))
    lines += [f"{label}: {status[name]}" for label, name in fields if status[name] is not None]
    standing = [kind for kind, there in status["signals"].items() if there]
    lines.append(f"Active Signals: {', '.join(standing) or 'None'}")
    say(arguments, status, lines)
    for sentence in status["notes"]:
        print(sentence, file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(run())
