"""`guild`, also `modelwright guild`: a table of contents that hands over to the command modules. It has no logic of its own.

Standard library only; a command whose module is not in this installation is not listed. (specs/guild.md 3)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from guild.command import answered
from modelwright.cli import console
from modelwright.entrypoints import is_importable

COMMANDS = {
    "init": ("guild.init", "write hosts, storage, heroes, skills and schedule for this machine"),
    "demo": ("guild.demo", "the whole loop on a tiny model, in minutes on two processors"),
    "daemon": ("guild.training_daemon", "take files from the queue and train them, until stopped"),
    "control": ("guild.training_controller", "pause, resume, skip, stop; what is going on"),
    "queue": ("guild.training_queue", "the quest board: training files by priority"),
    "campaign": ("guild.campaigns.cli", "campaigns and heroes: list, start, switch, archive"),
    "config": ("guild.config", "the settings that reach training, and their locks"),
    "data": ("guild.data_manager", "generate training data, check it, queue it"),
    "skill": ("guild.skill_server", "serve the problems of a skill"),
    "curriculum": ("guild.curriculum_manager", "levels of each skill and how they were earned"),
    "sparring": ("guild.sparring", "turn the model's wrong answers into training rows"),
    "sparring-check": ("guild.sparring_validator", "check sparring files"),
    "eval": ("guild.eval_runner", "evaluate checkpoints"),
    "baseline": ("guild.run_transfer_baseline", "scores on transfer benchmarks, over the inference server"),
    "baseline-local": ("guild.run_transfer_baseline_local", "the same, in this process"),
    "analytics": ("guild.analytics_cli", "what training did to the model: impact, drift, stability, regressions"),
    "ledger": ("guild.checkpoint_ledger", "every checkpoint and what it was trained on"),
    "incidents": ("guild.incidents", "what went wrong, and what became of it: list, set"),
    "retention": ("guild.retention_cli", "which checkpoints and snapshots may go, and let them go"),
    "backups": ("guild.backups", "copies of the guild's database: list, make, check, restore"),
    "campaign-run": ("guild.campaign_run", "queue a context stretch, a medic training or an autotune for the campaign"),
    "train-4b": ("guild.train_4b_full", "the low-memory recipe for a model of 4 billion parameters"),
    "validate": ("guild.validate", "check a training file"),
}
"""Command → (module with a `main`, what it does)."""


def commands() -> dict[str, tuple[str, str]]:
    """The commands whose modules are in this installation."""
    return {name: entry for name, entry in COMMANDS.items() if is_importable(entry[0])}


HELP_PAGES: tuple[tuple[str, ...], ...] = ((), *((name,) for name in commands()))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; 0 for the table of them, 2 for an unknown name."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(contents())
        return 0
    if arguments[0] in ("-V", "--version"):
        from modelwright import __version__

        print(f"guild {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    available = commands()
    if name not in available:
        print(_unknown(name, list(available)), file=sys.stderr)
        return 2
    return answered(lambda: int(import_module(available[name][0]).main(rest) or 0))


def contents() -> str:
    """The table of commands."""
    available = commands()
    width = max(map(len, available), default=0)
    return "\n".join(
        [
            "usage: guild <command> [arguments]",
            "",
            "Keep a model in training from a queue, a curriculum and a ledger. Also `modelwright guild`.",
            "",
            "commands:",
            *(f"  {name:<{width}}  {what}" for name, (_, what) in available.items()),
            "",
            "example:",
            "  guild init",
            '  guild campaign new --hero tiny --name "First try"',
            "",
            "exit codes: 0 done, 1 refused or failed, 2 unknown command or wrong arguments.",
        ]
    )


def _unknown(name: str, available: list[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, available, n=1, cutoff=0.5)
    hint = f" Did you mean `guild {near[0]}`?" if near else ""
    planned = " (it is not part of this installation)" if name in COMMANDS else ""
    return f"command: found {name!r}{planned}; allowed: {', '.join(available)}.{hint}"


def run() -> int:
    """The console script."""
    return console(main)


if __name__ == "__main__":
    sys.exit(run())
