"""Runs a command with a ceiling on its memory: `python -m benchmarks.autotune_grid.limited BYTES COMMAND ARGUMENTS…`."""

from __future__ import annotations

import os
import resource
import sys


def main() -> None:
    """Become the command. The ceiling is on private writable memory, so that an allocation beyond it fails in the process itself."""
    most, command = int(sys.argv[1]), sys.argv[2:]
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
