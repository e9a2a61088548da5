"""`python -m guild.training_queue`, also `guild queue`: the training queue. (specs/guild.md 3.3)"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from guild.command import add_common, answered, say
from guild.places import PRIORITIES, Places

if TYPE_CHECKING:
    from modelwright.database import Database

_EXAMPLES = """\
examples:
  guild queue add rows.jsonl --schema chat_sft_v1 --priority high
  guild queue list
  guild queue list --failed
  guild queue set-priority rows.jsonl low
  guild queue process-inbox
  guild queue status --json

exit codes:
  0  done
  1  refused or failed: a missing file, a name in use or that does not end in .jsonl, rows that fail validation, a full disk
  2  wrong arguments
"""
HELP_PAGES: tuple[tuple[str, ...], ...] = (
    (),
    *((verb,) for verb in ("status", "list", "add", "process-inbox", "set-priority", "retry", "cancel", "reconcile")),
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `guild queue`."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="guild queue",
        description="The quest board (training queue): data files that wait to be trained, by level and then the oldest first.",
        epilog=_EXAMPLES,
        formatter_class=raw,
    )
    add_common(parser, nested=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, help: str, example: str, codes: str, description: str = "") -> argparse.ArgumentParser:
        epilog = f"example: guild queue {example}\nexit codes: {codes}, 2 wrong arguments"
        added: argparse.ArgumentParser = verbs.add_parser(
            name, help=help, description=description or help, epilog=epilog, formatter_class=raw
        )
        add_common(added, nested=True)
        return added

    verb("status", "how many files wait, are trained, are done", "status --json", "0 shown, 1 it cannot be read")
    listing = verb("list", "the waiting files in the order in which they are taken", "list --priority high", "0 shown, 1 it cannot be read")
    which = listing.add_mutually_exclusive_group()
    which.add_argument("--priority", choices=PRIORITIES, help="one level alone")
    which.add_argument("--failed", action="store_true", help="instead: files that failed, were rejected or cancelled, and why")
    adding = verb(
        "add",
        "check a file and put it into the queue",
        "add rows.jsonl --priority high --copy",
        "0 queued, 1 refused (the file stays where it was)",
        "Check every row of a file (QUICK validation) and move the file, with its .meta.json sidecar, into a level of the queue.",
    )
    adding.add_argument("file", type=Path, metavar="FILE", help="a .jsonl file")
    adding.add_argument("--copy", action="store_true", help="leave the original where it is")
    inbox = verb(
        "process-inbox",
        "take in every file of inbox/",
        "process-inbox --priority low",
        "0 done, 1 a file failed validation (it is in queue/failed/)",
        "Check every file of inbox/, in sub-folders too, and move it into the queue; those that fail go to queue/failed/.",
    )
    for taking in (adding, inbox):
        taking.add_argument("--priority", choices=PRIORITIES, default="normal", help="level (default: normal)")
        taking.add_argument("--schema", metavar="ID", help="schema of the rows (default: the one that the sidecar or the first row names)")
        taking.add_argument(
            "--allow-default", action="store_true", help="rows that name no schema are chat_sft_v1 (always: validation.allow_default)"
        )
    moving = verb("set-priority", "move a waiting file to another level", "set-priority rows.jsonl high", "0 moved, 1 refused")
    again = verb("retry", "queue a failed, rejected or cancelled file again", "retry rows.jsonl --priority normal", "0 queued, 1 refused")
    again.add_argument("--priority", choices=PRIORITIES, default="low", help="level (default: low)")
    cancelling = verb(
        "cancel",
        "take a file out of the queue into queue/failed/",
        "cancel rows.jsonl --reason 'wrong level'",
        "0 cancelled or asked of its trainer, 1 refused",
    )
    cancelling.add_argument("--reason", default="", metavar="R", help="why, for the log")
    for naming in (moving, again, cancelling):
        naming.add_argument("file", metavar="FILE", help="name of the file")
    moving.add_argument("priority", choices=PRIORITIES, metavar="PRIORITY", help="high, normal or low")
    verb(
        "reconcile",
        "take in files that were put into the folders by hand",
        "reconcile",
        "0 done, 1 it cannot be read",
        "Take in files that were put into the queue's folders by hand, notice those taken away, finish moves that a kill interrupted. "
        "The daemon does it in every round.",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `guild queue ARGV`; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    return answered(lambda: _VERBS[arguments.verb](Places.of(arguments.base_dir), arguments))


def run() -> int:
    """The console form."""
    from modelwright.cli import console

    return console(main)


def _notes(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        print(sentence, file=sys.stderr)


@contextmanager
def _database(places: Places) -> Iterator[Database]:
    from guild.records.database import open_guild

    with open_guild(places) as db:
        yield db


def _status(places: Places, arguments: argparse.Namespace) -> int:
    from guild.queue.status import get_queue_status

    status = get_queue_status(places)
    queued = status["queued"]
    rows = [(level.capitalize(), queued[level]) for level in PRIORITIES] + [("Total", queued["total"])]
    rows += [(name.capitalize(), status[name]) for name in ("processing", "completed", "failed", "skipped")]
    say(arguments, status, [f"{name + ':':<12}{count:>8,}" for name, count in rows])
    _notes(status["notes"])
    return 0


def _list(places: Places, arguments: argparse.Namespace) -> int:
    if arguments.failed:
        return _list_failed(places, arguments)
    from guild.queue.status import list_queue

    rows = list_queue(places, arguments.priority)
    width = max((len(row.name) for row in rows), default=4)
    lines = [f"{'NAME':<{width}}  PRIORITY   SIZE MB  ADDED"]
    for row in rows:
        late = "" if row.job is not None else "  (not yet taken in)"
        lines.append(f"{row.name:<{width}}  {row.priority:<8}  {row.size_mb:>8.1f}  {row.added}{late}")
    data = {"schema_version": 1, "files": [row.as_dict() for row in rows]}
    say(arguments, data, lines if rows else ["No files in queue"])
    return 0


def _list_failed(places: Places, arguments: argparse.Namespace) -> int:
    from guild.queue.failures import list_failed

    rows = list_failed(places)
    width = max((len(row.name) for row in rows), default=4)
    lines = [f"{'NAME':<{width}}  STATE      ATTEMPTS  SINCE"]
    for row in rows:
        most = "" if row.most_attempts is None else f" of {row.most_attempts}"
        where = "" if row.place is None or row.place == f"failed/{row.name}" else f"  queue/{row.place}"
        lines.append(f"{row.name:<{width}}  {row.state:<9}  {f'{row.attempts}{most}':<8}  {row.at or '-'}{where}")
        lines += [f"    {line}" for line in row.reason.splitlines()]
    say(arguments, {"files": [row.as_dict() for row in rows]}, lines if rows else ["No file has failed."])
    return 0


def _add(places: Places, arguments: argparse.Namespace) -> int:
    from guild.queue.add import add_file

    with _database(places) as db:
        job = add_file(
            db, places, arguments.file.absolute(), priority=arguments.priority, copy=arguments.copy, schema=arguments.schema,
            allow_default=_allows_default(places, arguments),
        )  # fmt: skip
    say(arguments, {"schema_version": 1, "job": job.as_dict()}, [f"Added {job.name} with priority {job.level} (job {job.id})."])
    return 0


def _allows_default(places: Places, arguments: argparse.Namespace) -> bool:
    """Whether rows that name no schema are taken as `chat_sft_v1`: asked for now, or for good in `config.json`."""
    from guild.campaigns.config_file import installation_config

    return bool(arguments.allow_default) or installation_config(places).validation.allow_default


def _process_inbox(places: Places, arguments: argparse.Namespace) -> int:
    from guild.queue.inbox import process_inbox

    with _database(places) as db:
        result = process_inbox(
            db, places, priority=arguments.priority, schema=arguments.schema, allow_default=_allows_default(places, arguments)
        )
    count = len(result.queued)
    data = {"schema_version": 1, "count": count, **result.as_dict()}
    say(arguments, data, [f"Processed {count} {'file' if count == 1 else 'files'} from the inbox."])
    for name, errors in result.rejected.items():
        more = "" if len(errors) == 1 else f" (and {len(errors) - 1} more)"
        _notes([f"{name} failed validation and is in queue/failed/. {errors[0]}{more}"])
    _notes([*result.left, *result.soon])
    return 1 if result.rejected else 0


def _set_priority(places: Places, arguments: argparse.Namespace) -> int:
    from guild.queue.marks import set_priority

    with _database(places) as db:
        job = set_priority(db, places, arguments.file, arguments.priority)
    say(arguments, {"schema_version": 1, "job": job.as_dict()}, [f"{job.name} has priority {job.level} now."])
    return 0


def _retry(places: Places, arguments: argparse.Namespace) -> int:
    from guild.queue.marks import retry

    with _database(places) as db:
        job = retry(db, places, arguments.file, priority=arguments.priority)
    say(arguments, {"schema_version": 1, "job": job.as_dict()}, [f"{job.name} is queued again with priority {job.level}."])
    return 0


def _cancel(places: Places, arguments: argparse.Namespace) -> int:
    from guild.queue.marks import cancel

    with _database(places) as db:
        job = cancel(db, places, arguments.file, reason=arguments.reason)
    done = "is cancelled and lies in queue/failed/" if job.state == "cancelled" else "is being trained; its trainer is asked to stop"
    say(arguments, {"schema_version": 1, "job": job.as_dict()}, [f"{job.name} {done}."])
    return 0


def _reconcile(places: Places, arguments: argparse.Namespace) -> int:
    from guild.queue.recovery import recover_queue

    with _database(places) as db:
        found = recover_queue(db, places)
    done = found.reconciled.as_dict()
    notes = done.pop("notes")
    done["taken_back"] = [one.job.name for one in found.taken_back]
    lines = [f"{word.replace('_', ' ').capitalize()}: {', '.join(names)}" for word, names in done.items() if names]
    say(arguments, {"schema_version": 1, **done, "notes": notes}, lines or ["Nothing to do."])
    _notes(notes)
    return 0


_VERBS: dict[str, Callable[[Places, argparse.Namespace], int]] = {
    "status": _status,
    "list": _list,
    "add": _add,
    "process-inbox": _process_inbox,
    "set-priority": _set_priority,
    "retry": _retry,
    "cancel": _cancel,
    "reconcile": _reconcile,
}


if __name__ == "__main__":
    raise SystemExit(run())
