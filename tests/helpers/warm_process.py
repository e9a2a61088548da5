"""Commands as child processes that start warm: forked from a server of forks which has imported what they import.

A child that imports torch and transformers spends five seconds on it, in every test that starts one. These children are real processes
(own pid, group, environment, signals, exit status) that run a module as `python -m` does; what they share with nobody is the server, which
has done nothing but import. A test of the start itself (imports, parents, Ctrl-C while loading) starts the interpreter cold instead.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PRELOADED = [
    "torch", "transformers", "transformers.trainer", "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama", "transformers.generation.utils", "pydantic", "uvicorn", "starlette.applications",
]  # fmt: skip


class WarmProcess:
    """A child with the part of `subprocess.Popen` that tests use."""

    def __init__(
        self, module: str, arguments: Sequence[str], *, env: Mapping[str, str], stdout: Path | None = None, stderr: Path | None = None
    ) -> None:
        """Run `module` with `arguments` and the environment `env` in a session of its own, with the two streams appended to files;
        None is nowhere."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)  # heard before the first child only
        words = [module, *arguments]
        for path in (stdout, stderr):
            if path is not None:
                path.touch()
        self._process = context.Process(target=_run, args=(words, dict(env), str(Path.cwd()), _name(stdout), _name(stderr)))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self.args = words
        while self.returncode is None and os.getpgid(self.pid) != self.pid:
            time.sleep(0.001)  # whoever ends its group by signal must not be in it

    @property
    def returncode(self) -> int | None:
        """The exit status, minus the signal's number when a signal ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _name(path: Path | None) -> str:
    return os.devnull if path is None else str(path)


def _run(words: list[str], env: dict[str, str], folder: str, stdout: str, stderr: str) -> None:
    """The child: what a new interpreter would have been given, then the module as `__main__`."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    for target, path, flags in ((0, os.devnull, os.O_RDONLY), (1, stdout, os.O_WRONLY | os.O_APPEND | os.O_CREAT)):
        _point(target, path, flags)
    _point(2, stderr, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path[:0] = [part for part in env.get("PYTHONPATH", "").split(os.pathsep) if part]
    sys.argv = words
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # a fork of `multiprocessing` leaves them out


def _point(target: int, path: str, flags: int) -> None:
    opened = os.open(path, flags, 0o666)
    os.dup2(opened, target)
    os.close(opened)
