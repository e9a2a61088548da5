"""A real `python -m guild.skill_server` child on a free port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

READY_S = 60.0


@dataclass
class SkillServer:
    """A running skill server. process: the child, in a process group of its own."""

    port: int
    process: subprocess.Popen[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self, number: int = signal.SIGTERM, timeout: float = 20.0) -> int:
        """Send a signal, wait for the end, return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout)


def start(*arguments: str, base: Path) -> subprocess.Popen[str]:
    """The child alone, its standard streams as pipes."""
    command = [sys.executable, "-m", "guild.skill_server", *arguments, "--base-dir", str(base)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@contextmanager
def skill_server(*arguments: str, base: Path, port: int | None = 0) -> Iterator[SkillServer]:
    """A server that answers, killed at the end if it is still there. arguments: the skill and further flags. port: None for its own."""
    process = start(*arguments, *(() if port is None else ("--port", str(port))), base=base)
    try:
        assert process.stdout is not None
        begun = time.monotonic()
        line = process.stdout.readline()
        if not line.startswith("serving "):
            raise AssertionError(f"no server after {time.monotonic() - begun:.1f} s: {line!r} {process.communicate(timeout=READY_S)}")
        yield SkillServer(int(line.rpartition(":")[2]), process)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(READY_S)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
