"""`modelwright`: one front door that lists the installed commands and hands over to them. It has no logic of its own.

Standard library only, and no room is imported before it is named: `modelwright --help` answers in well under 150 ms.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from modelwright import __version__
from modelwright.entrypoints import entry_points, is_importable

GROUP = "modelwright.commands"

CONTENTS = {
    "scale": "stretch the context window of a model, adapt it, and prove what was kept",
    "medic": "break and repair KV caches, and measure the repair",
    "provider": "serve a model, and find the largest one that fits this machine",
    "guild": "queue, campaigns, curriculum, ledger and vault",
    "tavern": "the web page over all of it",
    "runs": "list, show, watch, pause, resume, stop and export runs of any kind",
    "models": "make and inspect the tiny reference models",
    "demo": "the main job on a tiny model, in minutes on two processors",
}
"""What each command does, in the order of the table of contents; a command without a line here is listed by its
module.
"""


def commands() -> dict[str, str]:
    """Name → `module:function` of every command whose module is installed, in the order of the table of contents."""
    installed = {name: target for name, target in entry_points(GROUP).items() if is_importable(target)}
    order = [name for name in CONTENTS if name in installed] + sorted(set(installed) - set(CONTENTS))
    return {name: installed[name] for name in order}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 unknown command, 130 interrupted, otherwise what the
    command says.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(contents())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"modelwright {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    available = commands()
    if name not in available:
        print(_unknown(name, list(available)), file=sys.stderr)
        return 2
    return _hand_over(name, available[name], rest)


def contents() -> str:
    """The table of contents."""
    available = commands()
    width = max((len(name) for name in available), default=0)
    lines = [f"  {name:<{width}}  {CONTENTS.get(name, target)}" for name, target in available.items()]
    return "\n".join(
        [
            "usage: modelwright <command> [arguments]",
            "",
            "A workbench for the whole life of an open language model, on the machines you own.",
            "",
            "commands:",
            *lines,
            "",
            "options:",
            "  -h, --help     this table; `modelwright <command> --help` explains a command",
            "  -V, --version  the version",
            "",
            "example:",
            "  modelwright runs list",
            "",
            "exit codes: 0 done, 2 unknown command or wrong arguments, 130 interrupted; each command names its own.",
        ]
    )


def _unknown(name: str, available: list[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, available, n=1, cutoff=0.5)
    hint = f" Did you mean `modelwright {near[0]}`?" if near else ""
    planned = " (it is not part of this installation)" if name in CONTENTS else ""
    return f"command: found {name!r}{planned}; allowed: {', '.join(available) or 'none is installed'}.{hint}"


def _hand_over(name: str, target: str, rest: list[str]) -> int:
    from modelwright.errors import ModelwrightError

    module_name, _, function = target.partition(":")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == module_name.partition(".")[0]:
            raise
        print(
            f"modelwright {name} needs the Python package {missing!r}, which is not installed. "
            "Install the part that brings it, for example: pip install 'modelwright[training]'",
            file=sys.stderr,
        )
        return 1
    try:
        return int(getattr(module, function)(rest) or 0)
    except ModelwrightError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def run() -> int:
    """The console script."""
    return console(main)


def console(main: Callable[[], int]) -> int:
    """The exit code of `main` as a console script; quiet, with 141, when the reader of a pipe has gone."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code


if __name__ == "__main__":
    sys.exit(run())
