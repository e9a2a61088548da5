"""`modelwright medic <command>`: the seven commands of CacheMedic behind the front door. Standard library only.

`modelwright medic train …` is `python -m cachemedicpp.train …`, flags and exit status included.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "train": "train a repair operator; the base model stays frozen",
    "eval": "evaluate it beside no defence and four heuristics on a grid of corruptions",
    "stability": "measure how far damage to the cache moves the logits, with and without repair",
    "plots": "draw the figures and write the tables of a finished run",
    "sweep": "all of it for many runs, from one file",
    "watch": "the newest heartbeat of a run or sweep on one screen",
    "prefetch": "fetch models and data sets before they are needed",
}
"""Command → what it does; each is the module `cachemedicpp.<command>` with a `main`."""
HELP_PAGES: tuple[tuple[str, ...], ...] = ((), *((name,) for name in COMMANDS))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the seven and return its exit status; 0 for the table of them, 2 for an unknown name."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(contents())
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        print(_unknown(name), file=sys.stderr)
        return 2
    return int(import_module(f"cachemedicpp.{name}").main(rest))


def contents() -> str:
    """The table of the seven."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: modelwright medic <command> [arguments]",
            "",
            "Break and repair the KV cache of a model, and measure both. `modelwright medic train` is `python -m cachemedicpp.train`.",
            "",
            "commands:",
            *(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()),
            "",
            "example:",
            "  modelwright medic sweep --sweep_config configs/medic/sweeps/tiny.yaml --out_root runs",
            "",
            "exit codes: 0 done, 3 paused, 1 failure, 2 unknown command, bad flags or invalid configuration.",
        ]
    )


def _unknown(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    hint = f" Did you mean `modelwright medic {near[0]}`?" if near else ""
    return f"command: found {name!r}; allowed: {', '.join(COMMANDS)}.{hint}"


if __name__ == "__main__":
    sys.exit(main())
