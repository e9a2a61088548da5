"""One phase of a run of a sweep, as a process of its own. (specs/medic.md, 8.3, 8.8; [C34])

A crash, a kill or the memory of a phase stays with its process. It runs in a session of its own, so that a Ctrl-C at the
terminal reaches the sweep alone, which turns it into the run's own pause request; its output goes to
`<run>/logs/<phase>_output.txt`, so that it outlives the sweep. Where the process of an earlier, killed sweep still writes
the run, it is waited for: the lock of the run admits one writer, and nothing is done twice.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from modelwright.control import CONTROL_NAME, ask
from modelwright.errors import ModelwrightError, storage_error
from modelwright.files import make_folder, read_json
from modelwright.heartbeat import read_snapshot
from modelwright.lock import describe_holder, read_holder, writer_liveness

POLL_S = 0.25
GRACE_S = 5.0
"""How long a process may save its state when the sweep itself has to leave."""
TAIL_BYTES, TAIL_LINES = 8192, 5
EXIT_PAUSED = 3


@dataclass(frozen=True)
class Outcome:
    """How the process of a phase ended. reason: of its last heartbeat, or the name of the signal that ended it. error: in
    words, of a failure. exit_code: negative for a signal. seconds: it ran."""

    status: Literal["completed", "paused", "failed"]
    reason: str
    exit_code: int
    seconds: float
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As the summary holds it."""
        known = {"status": self.status, "reason": self.reason, "exit_code": self.exit_code, "seconds": round(self.seconds, 3)}
        return known if self.error is None else {**known, "error": self.error}


def phase_process(
    command: Sequence[str],
    folder: Path,
    phase: str,
    *,
    stop_asked: Callable[[], bool],
    tell: Callable[[str], None],
    pausable: bool = True,
) -> Outcome | None:
    """Run `command` as `phase` of the run in `folder` and wait for its end; None when a stop was asked before it could begin.

    stop_asked: looked at all the time; once true, the run gets a pause request of its own. tell: takes a sentence for
    people. pausable: whether the phase looks at requests; the others are waited for.
    """
    while True:
        _wait_for_another(folder, stop_asked, tell)
        if stop_asked():
            return None
        outcome = _one_process(command, folder, phase, stop_asked, pausable)
        if outcome.exit_code == 1 and writer_liveness(folder) == "alive":
            continue  # a process that an earlier sweep had just started became the writer first
        return outcome


def _wait_for_another(folder: Path, stop_asked: Callable[[], bool], tell: Callable[[str], None]) -> None:
    if writer_liveness(folder) != "alive":
        return
    tell(f"{folder.name} is still being written by {describe_holder(read_holder(folder))}; waiting for it.")
    with _forwarding(folder, stop_asked) as forward:
        while writer_liveness(folder) == "alive":
            forward()
            time.sleep(POLL_S)


def _one_process(command: Sequence[str], folder: Path, phase: str, stop_asked: Callable[[], bool], pausable: bool) -> Outcome:
    output = make_folder(folder / "logs") / f"{phase}_output.txt"
    began = time.monotonic()
    try:
        with open(output, "ab") as stream:
            start = stream.tell()
            child = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
            )
    except OSError as error:
        raise storage_error(error, output, "start a phase with its output in") from error
    with _ended_with_us(child), _forwarding(folder, stop_asked) as forward:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = child.wait(POLL_S)
                break
            if pausable:
                forward()
    return _outcome(code, time.monotonic() - began, folder, phase, child.pid, output, start)


@contextlib.contextmanager
def _ended_with_us(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """When the block is left by an exception the process is asked to pause, and killed if it does not: its state is safe
    from that at any moment."""
    try:
        yield
    except BaseException:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(GRACE_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            child.kill()
            child.wait()
        raise


@contextlib.contextmanager
def _forwarding(folder: Path, stop_asked: Callable[[], bool]) -> Iterator[Callable[[], None]]:
    """Within the block, calling what it yields asks the run to pause, once, as soon as a stop is asked.

    Afterwards a request that nobody took is withdrawn, or it would stop the next phase of the run.
    """
    asked: list[str] = []

    def forward() -> None:
        if not asked and stop_asked():
            asked.append(ask(folder, "pause", actor="sweep"))

    try:
        yield forward
    finally:
        for request in asked:
            _withdraw(folder, request)


def _withdraw(folder: Path, request: str) -> None:
    for path in (folder / CONTROL_NAME).glob("pause*.request"):
        with contextlib.suppress(ModelwrightError, OSError):  # somebody's own request, or one that was taken just now
            content = read_json(path)
            if isinstance(content, dict) and content.get("id") == request:
                path.unlink()


def _outcome(code: int, seconds: float, folder: Path, phase: str, pid: int, output: Path, start: int) -> Outcome:
    beat, _ = read_snapshot(folder / "logs" / f"{phase}_heartbeat.json")
    writer = (beat or {}).get("writer")
    own: dict[str, Any] = (beat or {}) if isinstance(writer, dict) and writer.get("pid") == pid else {}
    reason = str(own.get("reason") or "")
    if code == 0:
        return Outcome("completed", reason or "completed", code, seconds)
    if code == EXIT_PAUSED:
        return Outcome("paused", reason or "pause_request", code, seconds)
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        what = f"The process was ended by {name}" + (", perhaps for want of memory." if -code == signal.SIGKILL else ".")
        return Outcome("failed", name, code, seconds, what)
    if own.get("status") == "failed":
        return Outcome("failed", reason, code, seconds, f"{own.get('error')}")
    return Outcome("failed", f"exit_{code}", code, seconds, _last_words(output, start) or f"exit status {code}, see {output}")


def _last_words(output: Path, start: int) -> str:
    """The last lines that the process wrote, at most TAIL_LINES."""
    try:
        with open(output, "rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(start, size - TAIL_BYTES))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join([line.rstrip() for line in text.splitlines() if line.strip()][-TAIL_LINES:])


def phase_command(phase: str, folder: Path, config: Path) -> list[str]:
    """The command line of a phase, with absolute paths. Plots read what lies in the run."""
    words = [sys.executable, "-m", f"cachemedicpp.{phase}"]
    return [*words, "--run_dir", str(folder)] if phase == "plots" else [*words, "--config", str(config), "--run_dir", str(folder)]
