"""`modelwright runs`: list, show, watch, pause, resume, stop, export runs of any room, and rebuild the index.

This module is the arguments and nothing heavier than `argparse`; the work is in `runs_view` (looking) and
`runs_actions` (asking).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from modelwright.errors import ModelwrightError, UsageError
from modelwright.index import Found, RunIndex
from modelwright.lookup import find_run, remember_roots, remembered_roots
from modelwright.runs_arguments import DEFAULT_ROOT, EXIT_UNREADABLE, HELP_PAGES, build_parser, check_choices
from modelwright.scan import RunRow, is_run

__all__ = ["HELP_PAGES", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code (see `runs_arguments.EXIT_CODES`)."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a path need not be text that the terminal can show
    parser = build_parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    try:
        check_choices(arguments)
        return int(_COMMANDS[arguments.command](arguments))
    except ModelwrightError as error:
        return _tell_error(error, as_json=arguments.json)
    except KeyboardInterrupt:
        return 130


def _tell_error(error: ModelwrightError, *, as_json: bool) -> int:
    """Print what went wrong, for a person on standard error or for a program on standard output; returns the code."""
    if as_json:
        import orjson

        from modelwright.scan import printable

        print(orjson.dumps({"message": printable(str(error)), "exit_code": error.exit_code}).decode())
    else:
        print(error, file=sys.stderr)
    return error.exit_code


def _list(arguments: argparse.Namespace) -> int:
    from modelwright.runs_view import list_json, list_table

    roots = _list_roots(arguments)
    found = _refresh(roots)
    chosen = select(found.rows, arguments.status, arguments.kind, arguments.tag)
    chosen.sort(key=lambda entry: _sort_key(entry, arguments.sort), reverse=arguments.sort in ("created", "updated", "step"))
    limit = arguments.limit if arguments.limit is not None else (0 if arguments.json else 50)
    if limit < 0:
        raise UsageError(f"--limit: found {limit}; allowed: 0 (all) or more.")
    shown = chosen[:limit] if limit else chosen
    if arguments.json:
        print(list_json(shown, len(chosen), found.problems))
        return 0
    print(list_table(shown, len(chosen), roots))
    for sentence in found.problems:
        print(sentence, file=sys.stderr)
    return 0


def select(rows: Sequence[RunRow], status: Sequence[str], kind: Sequence[str], tag: Sequence[str]) -> list[RunRow]:
    """Rows of one of the statuses (or states), one of the kinds, and with every tag; an empty filter lets all pass."""
    return [
        entry
        for entry in rows
        if (not status or entry.status in status or entry.state in status)
        and (not kind or entry.kind in kind)
        and set(tag) <= set(entry.tags)
    ]


def _sort_key(entry: RunRow, name: str) -> tuple[object, str]:
    keys: dict[str, object] = {
        "created": entry.created_at,
        "updated": max(entry.updated_at, entry.beat_at),
        "name": entry.name,
        "kind": entry.kind,
        "status": entry.state,
        "step": entry.step if entry.step is not None else -1,
    }
    return keys[name], entry.path


def _show(arguments: argparse.Namespace) -> int:
    from modelwright.runs_show import show_json, show_text
    from modelwright.runs_study import study

    known = study(_locate(arguments))
    print(show_json(known) if arguments.json else show_text(known))
    return EXIT_UNREADABLE if known.record_problem else 0


def _watch(arguments: argparse.Namespace) -> int:
    from modelwright.runs_view import watch

    if arguments.every < 0.1:
        raise UsageError(f"--every: found {arguments.every:g}; allowed: 0.1 seconds or more.")
    return watch(
        _locate(arguments),
        follow=arguments.follow or arguments.stop_on_terminal,
        stop_on_terminal=arguments.stop_on_terminal,
        every_s=arguments.every,
        as_json=arguments.json,
    )


def _ask(arguments: argparse.Namespace) -> int:
    from modelwright.runs_actions import ask_and_wait, parse_body

    kind = arguments.kind if arguments.command == "ask" else arguments.command
    body = parse_body(arguments.body) if arguments.command == "ask" else None
    return ask_and_wait(_locate(arguments), kind, wait_s=arguments.wait, body=body, as_json=arguments.json)


def _resume(arguments: argparse.Namespace) -> int:
    from modelwright.runs_actions import resume

    return resume(_locate(arguments), detach=arguments.detach, as_json=arguments.json)


def _export(arguments: argparse.Namespace) -> int:
    from modelwright.runs_actions import export_metrics

    format_ = "json" if arguments.json else arguments.metrics
    return export_metrics(
        _locate(arguments),
        format_=format_,
        out=arguments.out,
        only=arguments.metric,
        every_attempt=arguments.every_attempt,
    )


def _reindex(arguments: argparse.Namespace) -> int:
    from modelwright.lookup import forget_roots
    from modelwright.runs_view import reindex_text

    roots = _roots(arguments) if arguments.runs else list(dict.fromkeys([*_default_roots(), *remembered_roots()]))
    if arguments.forget_missing:
        missing = [root for root in roots if not root.is_dir()]
        forget_roots(missing)
        roots = [root for root in roots if root not in missing]
    with RunIndex() as index:
        found = index.rebuild(roots)
    remember_roots(roots)
    print(reindex_text(found, roots, as_json=arguments.json))
    return 0


def _default_roots() -> list[Path]:
    here = Path(DEFAULT_ROOT).absolute()
    return [here] if here.is_dir() else []


def _roots(arguments: argparse.Namespace) -> list[Path]:
    """The folders that `--runs` names; each must exist, since a typing mistake would look like an empty list."""
    roots = [Path(os.path.expanduser(root)).absolute() for root in arguments.runs]
    for root in roots:
        if not os.path.isdir(root):
            raise UsageError(f"--runs: found {root}, which is no directory; allowed: a folder that holds runs.")
    return roots


def _list_roots(arguments: argparse.Namespace) -> list[Path]:
    if arguments.runs:
        return _roots(arguments)
    if arguments.all:
        return list(dict.fromkeys([*_default_roots(), *remembered_roots()]))
    return _default_roots() or remembered_roots()


def _refresh(roots: Sequence[Path]) -> Found:
    with RunIndex() as index:
        found = index.refresh(_outermost(roots))
    remember_roots(roots)
    return found


def _outermost(roots: Sequence[Path]) -> list[Path]:
    """Roots without those inside another one, so that no run appears twice."""
    return [root for root in dict.fromkeys(roots) if not any(other in root.parents for other in roots)]


def _locate(arguments: argparse.Namespace) -> Path:
    given = Path(os.path.expanduser(arguments.run))
    if arguments.run and is_run(given):
        return given.absolute()
    roots = _roots(arguments) if arguments.runs else list(dict.fromkeys([*_default_roots(), *remembered_roots()]))
    return find_run(arguments.run, _refresh(roots).rows, roots)


_COMMANDS = {
    "list": _list,
    "show": _show,
    "watch": _watch,
    "pause": _ask,
    "stop": _ask,
    "ask": _ask,
    "resume": _resume,
    "export": _export,
    "reindex": _reindex,
}


if __name__ == "__main__":
    sys.exit(main())
