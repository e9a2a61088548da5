"""Servers under measurement: started as they are by a user, waited for, billed for processor time and memory, ended."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import psutil

READY_S = 180.0


@dataclass
class Server:
    """A running server. model: the name it answers to. memory_mb: the largest resident set seen while it was at
    work, of it and its children."""

    name: str
    url: str
    model: str
    process: subprocess.Popen[bytes]
    memory_mb: float = 0.0
    at_work: bool = False
    _stop: threading.Event = field(default_factory=threading.Event)

    def cpu_s(self) -> float:
        """Processor seconds of the server and its children so far."""
        return sum(times.user + times.system for times in (process.cpu_times() for process in self._family()))

    def watch(self) -> None:
        """Look at the memory four times a second while the server is at work, until it is ended: looking at all servers all the time took
        a fifth of a processor."""
        while not self._stop.wait(0.25):
            if self.at_work:
                try:
                    self.memory_mb = max(self.memory_mb, sum(process.memory_info().rss for process in self._family()) / 2**20)
                except psutil.NoSuchProcess:
                    return

    def _family(self) -> list[psutil.Process]:
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ours(
    folder: Path, context: int, slots: int, engine: str = "transformers", kv_bits: int | None = None, threads: int = 1
) -> tuple[list[str], str]:
    """(command, model name) of our own server; `{port}` stands for the port. threads: named, since OpenVINO does not look at
    `OMP_NUM_THREADS`."""
    command = [
        sys.executable,
        "-m",
        "macprovider.cli",
        "serve",
        "--model",
        str(folder),
        "--no-join",
        "--port",
        "{port}",
        "--engine",
        engine,
    ]
    command += ["--max-batch", str(slots), "--max-context", str(context), "--threads", str(threads), "--log-level", "warning"]
    return command + (["--kv-bits", str(kv_bits)] if kv_bits else []), str(folder)


def transformers_serve(folder: Path, continuous: bool) -> tuple[list[str], str] | None:
    """`transformers serve`; None where its command is missing."""
    program = shutil.which("transformers", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if program is None:
        return None
    command = [program, "serve", "--port", "{port}", "--host", "127.0.0.1", "--dtype", "float32", "--device", "cpu"]
    return command + (["--continuous-batching"] if continuous else []), str(folder)


def llama_server(gguf: Path, context: int, slots: int, cache: str, threads: int) -> tuple[list[str], str] | None:
    """`llama-server` from PATH; None where it is missing. cache: `f16`, `q8_0` or `q4_0`, keys and values alike."""
    program = shutil.which("llama-server")
    if program is None:
        return None
    command = [program, "-m", str(gguf), "--port", "{port}", "--host", "127.0.0.1", "-c", str(context * slots), "-np", str(slots)]
    command += ["-ctk", cache, "-ctv", cache, "-fa", "on", "-fit", "off", "-t", str(threads), "-tb", str(threads), "--jinja"]
    return command, gguf.stem


@contextmanager
def running(name: str, command: Sequence[str], model: str, log: Path, threads: int) -> Iterator[Server]:
    """Start a server, wait until `GET /v1/models` (or `/health`) answers, end it. Raises RuntimeError with the end of its log."""
    port = free_port()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [part.replace("{port}", str(port)) for part in command], stdout=sink, stderr=sink, env=environment, start_new_session=True
        )
    server = Server(name, f"http://127.0.0.1:{port}", model, process)
    watcher = threading.Thread(target=server.watch, daemon=True)
    try:
        _wait_ready(server, log)
        watcher.start()
        yield server
    finally:
        server._stop.set()
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def measured(server: Server, *, clients: int, rounds: int, words: int, max_tokens: int, seed: int) -> dict[str, Any]:
    """Drive the server once: tokens per processor second and per second, times to the first token (seconds)."""
    before = server.cpu_s()
    arguments = ["--clients", clients, "--rounds", rounds, "--prompt-words", words, "--max-tokens", max_tokens, "--seed", seed]
    command = [sys.executable, "-m", "benchmarks.serve_common.load", "--url", server.url, "--model", server.model, *map(str, arguments)]
    server.at_work = True
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    finally:
        server.at_work = False
    if done.returncode:
        raise RuntimeError(f"{server.name}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}")
    cpu = server.cpu_s() - before
    found = json.loads(done.stdout)
    answers = found["answers"]
    tokens = sum(answer["tokens"] for answer in answers)
    firsts = sorted(answer["first_s"] for answer in answers)
    return {
        "tokens": tokens,
        "prompt_tokens": median(answer["prompt_tokens"] for answer in answers),
        "cpu_s": round(cpu, 3),
        "wall_s": round(found["wall_s"], 3),
        "tokens_per_cpu_s": round(tokens / cpu, 2) if cpu else None,
        "tokens_per_s": round(tokens / found["wall_s"], 2),
        "first_median_s": round(median(firsts), 3),
        "first_p95_s": round(firsts[max(0, int(0.95 * len(firsts)) - 1)] if len(firsts) >= 20 else firsts[-1], 3),
    }


def _wait_ready(server: Server, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        for path in ("/v1/models", "/health"):
            try:
                with urlopen(server.url + path, timeout=2) as answer:
                    if answer.status == 200:
                        return
            except (URLError, OSError):
                pass
        time.sleep(0.3)
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
    raise RuntimeError(f"{server.name} did not become ready: {' | '.join(tail)}")
