"""`python -m guild.side_jobs.keeper FOLDER -- COMMAND…`: start a command and write down how it ended.

An exit code is told to the parent alone, and the runner that started a long run may be dead by then. So a small process of its own
stays beside each run: it holds the lock of the job's folder (one run for each job, whoever starts it), leads the group that the command
runs in, and outlives every runner. It takes no signal that is meant for the command.

    launch.json   {launch, argv, started_at, keeper, child}     identities, by which both are found again
    exit.json     {launch, code, ended_at}                      negative: the signal that killed the command

Exit codes: 0 the command ended and its code is written, 3 another keeper holds the folder, 1 the command could not be started.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from modelwright.clock import SYSTEM_CLOCK, stamp
from modelwright.errors import ModelwrightError, RunLockedError
from modelwright.files import make_folder, write_json
from modelwright.identity import current_identity, process_start
from modelwright.lock import WriterLock

EXIT_HELD = 3
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def keep(folder: Path, argv: Sequence[str]) -> int:
    """Run `argv` to its end beneath the lock of `folder`; returns this process's exit code."""
    for number in SIGNALS:
        # a handler that does nothing, rather than SIG_IGN, which the command would inherit
        signal.signal(number, lambda number, frame: None)
    try:
        lock = WriterLock(make_folder(folder), command=argv)
    except RunLockedError as error:
        print(error, file=sys.stderr)
        return EXIT_HELD
    try:
        (folder / "exit.json").unlink(missing_ok=True)
        launch, started = uuid4().hex, stamp(SYSTEM_CLOCK.now(), millis=True)
        with open(folder / "stdout.txt", "wb") as output:
            child = subprocess.Popen(list(argv), stdin=subprocess.DEVNULL, stdout=output)
        me = current_identity()
        identities = {"keeper": me, "child": replace(me, pid=child.pid, start_time=process_start(child.pid))}
        told = {name: identity.as_dict() for name, identity in identities.items()}
        _note(folder / "launch.json", {"launch": launch, "argv": list(argv), "started_at": started, **told})
        code = child.wait()
        _note(folder / "exit.json", {"launch": launch, "code": code, "ended_at": stamp(SYSTEM_CLOCK.now(), millis=True)})
        return 0
    except OSError as error:
        print(f"The command cannot be started ({error}).", file=sys.stderr)
        return 1
    finally:
        lock.release()


def _note(path: Path, content: dict[str, Any]) -> None:
    """Write a document; the command goes on when the disk is full, and its run directory tells how it ended."""
    try:
        write_json(path, {"schema_version": 1, **content})
    except ModelwrightError as error:
        print(error, file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """`FOLDER -- COMMAND…`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) < 3 or words[1] != "--":
        print("usage: python -m guild.side_jobs.keeper FOLDER -- COMMAND...", file=sys.stderr)
        return 2
    try:
        return keep(Path(words[0]), words[2:])
    except ModelwrightError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
