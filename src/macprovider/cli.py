"""`macprovider-cli`, also `modelwright provider`: serve a model, fetch models, find the best one for this machine.

Standard library only; a command's module is imported when it is named.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from modelwright.cli import console

COMMANDS = {
    "serve": ("macprovider.serve_cli", "serve one model over HTTP, as OpenAI's interface"),
    "models": ("macprovider.models_cli", "fetch, list, check and convert model weights"),
    "autotune": ("macprovider.autotune_cli", "find the largest model this machine can serve, then its best settings"),
}
"""Command → (module with a `main`, what it does)."""
HELP_PAGES: tuple[tuple[str, ...], ...] = (
    (),
    ("serve",),
    ("models",),
    *(("models", name) for name in ("pull", "list", "verify", "export-gguf", "candidates")),
    ("autotune",),
    ("autotune", "experiment"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; 0 for the table of them, 2 for an unknown name."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(contents())
        return 0
    if arguments[0] in ("-V", "--version"):
        from modelwright import __version__

        print(f"macprovider-cli {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        print(_unknown(name), file=sys.stderr)
        return 2
    return _answered(name, rest)


def contents() -> str:
    """The table of commands."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: macprovider-cli <command> [arguments]",
            "",
            "Serve language models on this machine, and find out which ones it can serve. Also `modelwright provider`.",
            "",
            "commands:",
            *(f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()),
            "",
            "example:",
            "  macprovider-cli serve --model modelwright/tiny-5m --port 8080 --no-join",
            "",
            "exit codes: 0 done, 1 failure, 2 unknown command or wrong arguments; each command's help names its own.",
        ]
    )


def _answered(name: str, rest: list[str]) -> int:
    from modelwright.errors import ModelwrightError

    try:
        module = import_module(COMMANDS[name][0])
        return int(module.main(rest) or 0)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "macprovider":
            raise
        print(
            f"macprovider-cli {name} needs the Python package {package!r}, which is not installed. "
            "Install the part that brings it: pip install 'modelwright[serve]'",
            file=sys.stderr,
        )
        return 1
    except ModelwrightError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def _unknown(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    hint = f" Did you mean `macprovider-cli {near[0]}`?" if near else ""
    return f"command: found {name!r}; allowed: {', '.join(COMMANDS)}.{hint}"


def run() -> int:
    """The console script."""
    return console(main)


if __name__ == "__main__":
    sys.exit(run())
