"""Asking something of a run: requests with their answer, resuming, exporting metrics."""

from __future__ import annotations

import csv
import getpass
import io
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from modelwright.control import KINDS, REFUSED, answer, ask
from modelwright.environment import REDACTED
from modelwright.errors import ModelwrightError, UsageError, storage_error
from modelwright.files import write_text
from modelwright.lock import describe_holder, read_holder, writer_liveness
from modelwright.metrics import CORE_KEYS, read_metrics
from modelwright.record import RunRecord, read_record
from modelwright.runs_arguments import EXIT_DECLINED, EXIT_NO_ANSWER, EXIT_NO_WRITER, EXIT_NOT_RESUMABLE
from modelwright.scan import printable

POLL_S = 0.1
DECLINED = frozenset({REFUSED, "lost", "ended"})
RESUME_LOG = "resume.log"
DETACH_PATIENCE_S = 60.0
WATCH_IT = "Watch it with `modelwright runs watch`, or ask it to pause with `modelwright runs pause`."


def parse_body(text: str) -> dict[str, Any]:
    """The JSON object of `--body`. Raises UsageError."""
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"--body: found {text!r} ({error.msg}); allowed: a JSON object.") from error
    if not isinstance(body, dict):
        raise UsageError(f"--body: found {text!r}; allowed: a JSON object.")
    return body


def ask_and_wait(run: Path, kind: str, *, wait_s: float, body: dict[str, Any] | None, as_json: bool) -> int:
    """Put a request before a run, wait for its answer, print it; returns the exit code."""
    if kind not in KINDS:
        raise UsageError(f"request: found {kind!r}; allowed: {', '.join(KINDS)}.")
    alive = writer_liveness(run)
    if alive == "dead":
        text = f"No live process writes {run} ({_status(run)}), so nobody would answer a {kind} request; none was written."
        return _tell(EXIT_NO_WRITER, text, as_json, run=str(run), kind=kind, outcome="no-writer")
    request = ask(run, kind, body=body, actor=f"cli:{getpass.getuser()}@{socket.gethostname()}")
    deadline = time.monotonic() + wait_s
    while wait_s > 0:
        answered = answer(run, request)
        if answered is not None and answered.get("outcome"):
            return _tell_answer(run, kind, answered, as_json)
        if writer_liveness(run) == "dead" and answer(run, request) is None:
            text = f"The writer of {run} ended before it took the {kind} request, which stays for the next one."
            return _tell(EXIT_NO_WRITER, text, as_json, run=str(run), kind=kind, id=request, outcome="no-writer")
        if time.monotonic() >= deadline:
            text = f"{run} has not answered the {kind} request within {wait_s:g} s; the request stays in place."
            return _tell(EXIT_NO_ANSWER, text, as_json, run=str(run), kind=kind, id=request, outcome=None)
        time.sleep(POLL_S)
    text = f"The {kind} request was put before {run}."
    return _tell(0, text, as_json, run=str(run), kind=kind, id=request, outcome=None)


def resume(run: Path, *, detach: bool, as_json: bool) -> int:
    """Start the recorded resume command in the recorded directory; returns its exit code, 0 once a detached one writes
    the run, or EXIT_NOT_RESUMABLE when it is refused or another process became the writer first.
    """
    record = read_record(run)
    refusal = _why_not_resumable(run, record)
    if refusal:
        return _tell(EXIT_NOT_RESUMABLE, refusal, as_json, run=str(run), resumed=False)
    command, cwd = record.resume_command, record.cwd
    if detach:
        return _detached(run, command, cwd, as_json)
    print(f"{cwd}$ {shlex.join(command)}", file=sys.stderr)
    sys.stdout.flush()
    children: list[subprocess.Popen[bytes]] = []
    received: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        received.append(number)
        for child in children:
            child.send_signal(number)

    # The terminal interrupts the command as well, which then saves its state; this process only waits for it. A
    # service manager's SIGTERM reaches this process alone and is passed on, so that no command stays behind.
    former = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGHUP)}
    former[signal.SIGINT] = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        children.append(_start(command, cwd))
        for number in received:
            children[0].send_signal(number)
        code = children[0].wait()
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    overtaken = _overtaken(run, record.attempt) if code else ""
    if overtaken:
        return _tell(EXIT_NOT_RESUMABLE, overtaken, as_json, run=str(run), resumed=False)
    return code if code >= 0 else 128 - code


def export_metrics(run: Path, *, format_: str, out: Path | None, only: Sequence[str], every_attempt: bool) -> int:
    """Write a run's metric events as CSV or JSON; damage in the file is told on standard error and hides nothing
    else.
    """
    record = read_record(run)
    read = read_metrics(run / record.files.metrics, newest_attempt=not every_attempt)
    events = [event for event in read.events if not only or event["metric"] in only]
    if only and not events:
        names = sorted({event["metric"] for event in read.events})
        raise UsageError(f"--metric: found {', '.join(only)}, of which there is no event; allowed: {', '.join(names)}.")
    text = _csv(events) if format_ == "csv" else orjson.dumps(events, option=orjson.OPT_INDENT_2).decode() + "\n"
    if out is None:
        sys.stdout.write(text)
    else:
        write_text(out, text)
        print(f"wrote {len(events)} events to {out}", file=sys.stderr)
    for sentence in read.damage:
        print(sentence, file=sys.stderr)
    return 0


def _status(run: Path) -> str:
    try:
        record = read_record(run)
    except ModelwrightError:
        return "its record cannot be read"
    if record.status == "running":
        return "the record says running, its writer is dead: `modelwright runs resume` continues it"
    return f"it is {record.status}"


def _tell_answer(run: Path, kind: str, answered: dict[str, Any], as_json: bool) -> int:
    outcome, detail = str(answered["outcome"]), answered.get("detail") or {}
    said = ", ".join(f"{name} {value}" for name, value in detail.items() if value not in ("", None))
    text = f"{run}: {kind} request answered: {outcome}" + (f" ({said})" if said else "")
    code = EXIT_DECLINED if outcome in DECLINED else 0
    return _tell(code, text, as_json, run=str(run), kind=kind, id=answered.get("id"), outcome=outcome, detail=detail)


def _tell(code: int, text: str, as_json: bool, **fields: Any) -> int:
    if as_json:
        shown = {name: printable(value) if isinstance(value, str) else value for name, value in {**fields, "message": text}.items()}
        print(orjson.dumps({**shown, "exit_code": code}).decode())
    else:
        print(text, file=sys.stderr if code else sys.stdout)
    return code


def _why_not_resumable(run: Path, record: RunRecord) -> str:
    """One sentence against resuming, or ""."""
    alive = writer_liveness(run)
    if alive != "dead":
        word = "is being written by" if alive == "alive" else "was last written, and may still be, by"
        return f"{run} {word} {describe_holder(read_holder(run))}; a run has one writer. {WATCH_IT}"
    if record.status == "completed":
        return f"{run} is completed; there is nothing to resume."
    if not record.resume_command:
        return f"{run} records no resume command, so it cannot be resumed from here."
    if any(REDACTED in word for word in record.resume_command):
        command_line = shlex.join(record.resume_command)
        return (
            f"The resume command of {run} cannot be started from here: a secret was taken out of it when it was recorded, and "
            f"{REDACTED} stands in its place. Start it by hand, with the secret in the environment or in its place: {command_line}"
        )
    if not Path(record.cwd).is_dir():
        return f"The directory {record.cwd}, in which {run} was started, is gone; make it again."
    return ""


def _overtaken(run: Path, before: int) -> str:
    """The sentence for a resume command that failed while another process writes the run as the attempt after
    `before`; "" when nobody does, or when that command was the writer itself and its successor is there already."""
    holder = read_holder(run)
    if writer_liveness(run, holder) != "alive" or read_record(run).attempt > before + 1:
        return ""
    return f"{run} was not resumed by this command: {describe_holder(holder)} became its writer first. {WATCH_IT}"


def _start(command: Sequence[str], cwd: str, **options: Any) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(list(command), cwd=cwd, **options)
    except OSError as error:
        raise ModelwrightError(f"The resume command cannot be started ({error}): {shlex.join(command)}") from error


def _detached(run: Path, command: Sequence[str], cwd: str, as_json: bool) -> int:
    """Start in a session of its own, output on a file, and wait until it is seen to write the run (or to end)."""
    log = run / RESUME_LOG
    before = read_record(run).attempt
    try:
        output = open(log, "ab")  # noqa: SIM115  (closed below, where an OSError is another fault)
    except OSError as error:
        raise storage_error(error, log, "write") from error
    with output:
        child = _start(command, cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
    deadline = time.monotonic() + DETACH_PATIENCE_S
    while time.monotonic() < deadline:
        code = child.poll()
        begun = read_record(run).attempt > before
        if begun and (code == 0 or (code is None and _writes(child, run))):
            break
        overtaken = _overtaken(run, before) if code else ""
        if overtaken:
            return _tell(EXIT_NOT_RESUMABLE, overtaken, as_json, run=str(run), resumed=False, log=str(log))
        if code is not None:
            text = f"The resume command of {run} ended with code {code}{'' if begun else ' before it wrote the run'}; see {log}."
            return _tell(code if code > 0 else 1, text, as_json, run=str(run), resumed=False, log=str(log))
        time.sleep(POLL_S)
    else:
        text = f"Process {child.pid} runs, but has not begun to write {run} after {DETACH_PATIENCE_S:g} s; see {log}."
        return _tell(0, text, as_json, run=str(run), resumed=True, pid=child.pid, log=str(log))
    text = f"{run} goes on in process {child.pid}; output in {log}."
    return _tell(0, text, as_json, run=str(run), resumed=True, pid=child.pid, log=str(log))


def _writes(child: subprocess.Popen[bytes], run: Path) -> bool:
    """Whether the recorded writer is the child, or a process that it started in its session."""
    try:
        return os.getsid(int(read_holder(run)["pid"])) == child.pid
    except (KeyError, TypeError, ValueError, OSError):
        return False


def _csv(events: Sequence[dict[str, Any]]) -> str:
    core = ["timestamp", "metric", "step", "value", "nonfinite", "attempt"]
    extras = sorted({key for event in events for key in event} - CORE_KEYS)
    target = io.StringIO()
    writer = csv.DictWriter(target, [*core, *extras], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in event.items()} for event in events)
    return target.getvalue()


def _cell(value: Any) -> Any:
    return orjson.dumps(value).decode() if isinstance(value, (dict, list)) else value
