"""A real `macprovider-cli serve` child on a free port, for tests of everything that talks to a server.

with served("modelwright/tiny-0.4m", "--max-batch", "2") as server:
    server.client().chat.completions.create(model=server.model, messages=[...])
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.warm_process import WarmProcess

READY_S = 120.0
PREFIX = "MACPROVIDER_"

Child = subprocess.Popen[bytes] | WarmProcess

Refused = Callable[..., bool]
"""`refused(feature, call, *arguments, **fields)`, the fixture of the serving tests."""


@dataclass
class Served:
    """A running server. log: its stderr. process: the child itself, in a process group of its own."""

    model: str
    port: int
    log: Path
    process: Child

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`, without `/v1`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def client(self, **more: Any) -> Any:
        """The `openai` client for this server: no retries, any key."""
        import openai

        return openai.OpenAI(base_url=f"{self.url}/v1", **{"api_key": "none", "max_retries": 0, "timeout": 60.0, **more})

    def entries(self, event: str | None = None) -> list[dict[str, Any]]:
        """The entries of its JSON log, or those of one event."""
        return [entry for entry in read_log(self.log) if event in (None, entry["event"])]

    def stop(self, number: int = signal.SIGTERM, timeout: float = 40.0) -> int:
        """Send a signal, wait for the end, return the exit status; the status alone when it has ended already."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout)

    def kill(self) -> None:
        """End whatever is left of it, by its process group."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)


def read_log(log: Path) -> list[dict[str, Any]]:
    """The JSON entries of a log; other lines (a library's, a half-written last one) are left out."""
    entries = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "event" in entry:
            entries.append(entry)
    return entries


def start_serve(
    model: str | Path, *arguments: str, log: Path, env: Mapping[str, str] | None = None, port: int = 0, cold: bool = False
) -> Child:
    """The child alone, not waited for: `serve --model MODEL --port PORT --no-join`, an empty configuration file beside the log, no
    `MACPROVIDER_*` variable of this process. Nothing may inherit its stderr but the log file. cold: in a new interpreter."""
    config = log.with_suffix(".empty.yaml")
    config.write_text("")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environment = {**inherited, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MACPROVIDER_CONFIG": str(config), **(env or {})}
    words = ["serve", "--model", str(model), "--port", str(port), *arguments]
    if "--coordinator" not in arguments:
        words.append("--no-join")
    if not cold:
        return WarmProcess("macprovider.cli", words, env=environment, stderr=log)
    with log.open("ab") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", "macprovider.cli", *words],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True,
        )  # fmt: skip


def wait_ready(process: Child, log: Path, timeout: float = READY_S) -> int:
    """The port, once the child says that it serves. Raises AssertionError with the log when it ends or takes too long."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        serving = [entry for entry in read_log(log) if entry["event"] == "serving" and entry["pid"] == process.pid]
        if serving:
            return int(serving[0]["port"])
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"serve is not ready (exit status {process.poll()}):\n{log.read_text(errors='replace')[-4000:]}")


@contextmanager
def served(
    model: str | Path,
    *arguments: str,
    log: Path | None = None,
    env: Mapping[str, str] | None = None,
    port: int = 0,
    ready_timeout: float = READY_S,
) -> Iterator[Served]:
    """A server that is ready, stopped by SIGTERM at the end and killed if that does not help.

    arguments: further flags. log: file for its stderr, a temporary one when left out. env: added to the environment. port: 0 for a
    free one.
    """
    import tempfile

    with tempfile.TemporaryDirectory(prefix="served-") as folder:
        log = log or Path(folder) / "serve.log"
        process = start_serve(model, *arguments, log=log, env=env, port=port)
        server = Served(str(model), port, log, process)
        try:
            server.port = wait_ready(process, log, ready_timeout)
            yield server
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(40)
                except subprocess.TimeoutExpired:
                    pass
        finally:
            server.kill()
