"""Requests to a running job, as files: written by a command, an HTTP server or `touch`, consumed once, acknowledged.

`control/<kind>.request` asks; its content may be empty or a JSON object. The run takes it by renaming it (a rename
succeeds for one process only), and writes `control/answered/<n>-<kind>.json` with request, outcome, answering process
and time. Nothing is ever signalled.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import uuid4

import orjson

from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.errors import DamagedFileError, ModelwrightError, UsageError, storage_error
from modelwright.files import make_folder, read_json, write_bytes, write_json
from modelwright.identity import current_identity

KINDS = ("pause", "resume", "stop", "skip", "approve", "abort", "rollback")
CONTROL_NAME = "control"
ANSWERED_NAME = "answered"
MAX_BODY = 64 * 1024
REFUSED = "refused"


@dataclass(frozen=True)
class Request:
    """One request, consumed. body: what the asker added (for example `{"target": "phase_1"}`). actor: who asked.
    record: its answer file."""

    id: str
    kind: str
    actor: str
    asked_at: str
    record: Path
    body: dict[str, Any] = field(default_factory=dict)


def ask(run_path: Path | str, kind: str, *, body: dict[str, Any] | None = None, actor: str, clock: Clock = SYSTEM_CLOCK) -> str:
    """Put a request before the run and return its id, by which `answer` finds what became of it.

    Raises UsageError for an unknown kind or a folder that is no run, StorageError when it cannot be written.
    """
    if kind not in KINDS:
        raise UsageError(f"request: found {kind!r}; allowed: {', '.join(KINDS)}.")
    run = Path(run_path)
    if not run.is_dir():
        raise UsageError(f"{run}: found no directory; allowed: the directory of a run.")
    folder = make_folder(run / CONTROL_NAME)
    request_id = uuid4().hex
    content = {"id": request_id, "kind": kind, "actor": actor, "asked_at": stamp(clock.now()), "body": body or {}}
    temporary = folder / f".{request_id}.new"
    write_json(temporary, content)
    plain = folder / f"{kind}.request"
    try:
        try:
            os.link(temporary, plain)  # fails when such a request is already pending, which must keep its own answer
            temporary.unlink()
        except OSError:
            temporary.rename(folder / f"{kind}.{request_id[:8]}.request")
    except OSError as error:
        raise storage_error(error, plain, "write the request") from error
    return request_id


def answer(run_path: Path | str, request_id: str) -> dict[str, Any] | None:
    """The answer record of a request: `{n, id, kind, actor, asked_at, body, taken_at, taken_by, outcome, answered_at,
    detail}`; None while it is pending. `outcome` is null between taking and acknowledging."""
    return next((record for record in answers(run_path) if record.get("id") == request_id), None)


def answers(run_path: Path | str) -> list[dict[str, Any]]:
    """Every answer record of the run, oldest first; unreadable ones are left out here and named by `read_json` on
    their own path."""
    found = []
    for path in sorted((Path(run_path) / CONTROL_NAME / ANSWERED_NAME).glob("*-*.json")):
        with contextlib.suppress(ModelwrightError):
            record = read_json(path)
            if isinstance(record, dict):
                found.append(record)
    return found


class Control:
    """The run's side. One object per writer; several processes polling the same folder share the requests, each going
    to one of them."""

    def __init__(self, run_path: Path | str, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.folder = make_folder(Path(run_path) / CONTROL_NAME)
        self._answered = make_folder(self.folder / ANSWERED_NAME)
        self._clock = clock
        self._held: deque[Request] = deque()
        self._me = current_identity().as_dict()

    def pending(self) -> list[str]:
        """Kinds that are asked for and not yet taken, oldest request first."""
        return [request.kind for request in self._held] + [path.name.split(".", 1)[0] for path in self._request_files()]

    def poll(self) -> list[Request]:
        """Take every pending request. What cannot be understood is acknowledged as refused, with a sentence, and not
        returned."""
        taken = list(self._held)
        self._held.clear()
        for path in self._request_files():
            request = self._take(path)
            if request is not None:
                taken.append(request)
        return taken

    def ack(self, request: Request, outcome: str, **detail: Any) -> None:
        """Record what became of a request, for example `ack(request, "paused", step=120)`."""
        record = read_json(request.record)
        moment = stamp(self._clock.now())
        record.update(outcome=outcome, answered_at=moment, answered_by=self._me, detail={**record.get("detail", {}), **detail})
        write_json(request.record, record)

    def wait_for(self, kinds: Iterable[str], timeout_s: float | None, clock: Clock | None = None, every_s: float = 0.2) -> Request | None:
        """Wait, alive, for a request of one of `kinds`; None after `timeout_s` seconds (None waits for ever).

        Requests of other kinds that come meanwhile are kept for the next `poll`.
        """
        wanted, clock = set(kinds), clock or self._clock
        deadline = None if timeout_s is None else clock.monotonic() + timeout_s
        while True:
            requests = self.poll()
            match = next((request for request in requests if request.kind in wanted), None)
            self._held.extend(request for request in requests if request is not match)
            if match is not None or (deadline is not None and clock.monotonic() >= deadline):
                return match
            clock.sleep(every_s if deadline is None else max(0.0, min(every_s, deadline - clock.monotonic())))

    def settle(self, outcome: str, **detail: Any) -> int:
        """Answer whatever is still open with `outcome`: pending requests, and those taken by a writer that died;
        returns how many."""
        self.poll()
        open_requests = self._unanswered()
        for request in open_requests:
            self.ack(request, outcome, **detail)
        return len(open_requests)

    def settle_lost(self) -> int:
        """At the start of an attempt: answer what an earlier writer took and never acknowledged; pending requests
        stay pending."""
        lost = self._unanswered()
        for path in self._answered.glob("*.taken"):
            request = self._understand(path, path.name.split(".", 1)[0])
            if request is not None:
                lost.append(request)
        for request in lost:
            self.ack(
                request,
                "lost",
                reason="The writer that took this request died before it acted. Ask again if it is still wanted.",
            )
        return len(lost)

    def _request_files(self) -> list[Path]:
        """Pending request files, oldest first."""
        found = []
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    if entry.name.endswith(".request") and not entry.name.startswith("."):
                        with contextlib.suppress(FileNotFoundError):
                            found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
        except OSError as error:
            raise storage_error(error, self.folder, "read the folder") from error
        return [self.folder / name for _, name in sorted(found)]

    def _take(self, path: Path) -> Request | None:
        """Take one request file; None when another process was faster or the request is refused."""
        kind = path.name.split(".", 1)[0]
        claim = self._answered / f"{kind[:100]}.{uuid4().hex}.taken"
        try:
            path.rename(claim)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(error, path, "take the request") from error
        try:
            return self._understand(claim, kind)
        except ModelwrightError:
            with contextlib.suppress(OSError):  # the request is pending again; the error below says why it could not be taken
                claim.rename(self.folder / f"{kind[:100]}.{claim.suffixes[-2][1:9]}.request")
            raise

    def _understand(self, claim: Path, kind: str) -> Request | None:
        """Read a claimed file, turn it into its answer record, and refuse it there when it makes no sense."""
        content, owner, refusal = _read_request(claim)
        if kind not in KINDS:
            refusal = f"{kind}.request: found an unknown request; allowed: {', '.join(KINDS)}."
        body = content.get("body", {key: value for key, value in content.items() if key not in ("id", "kind", "actor", "asked_at")})
        moment = stamp(self._clock.now())
        record: dict[str, Any] = {
            "id": str(content.get("id") or uuid4().hex),
            "kind": kind,
            "actor": str(content.get("actor") or f"file:{owner}"),
            "asked_at": str(content.get("asked_at") or moment),
            "body": body if isinstance(body, dict) else {"value": body},
            "taken_at": moment,
            "taken_by": self._me,
            "outcome": REFUSED if refusal else None,
            "answered_at": moment if refusal else None,
            "detail": {"reason": refusal} if refusal else {},
        }
        path = self._new_record(record)
        if claim.is_dir() and not claim.is_symlink():
            with contextlib.suppress(OSError):  # a folder with content is not ours to delete; its refusal is on record
                claim.rmdir()
        else:
            claim.unlink(missing_ok=True)
        if refusal:
            return None
        return Request(record["id"], kind, record["actor"], record["asked_at"], path, record["body"])

    def _new_record(self, record: dict[str, Any]) -> Path:
        """Write an answer record under the next free number."""
        names = (path.name.split("-", 1)[0] for path in self._answered.glob("*-*.json"))
        number = max((int(name) for name in names if name.isdigit()), default=0)
        kind = record["kind"] if record["kind"] in KINDS else "unknown"
        while True:
            number += 1
            path = self._answered / f"{number:04d}-{kind}.json"
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666))
            except FileExistsError:
                continue
            except OSError as error:
                raise storage_error(error, path, "write the answer") from error
            try:
                write_json(path, {"n": number, **record})
            except ModelwrightError:
                path.unlink(missing_ok=True)
                raise
            return path

    def _unanswered(self) -> list[Request]:
        """Requests that were taken and never acknowledged."""
        found = []
        for path in sorted(self._answered.glob("*-*.json")):
            try:
                record = read_json(path)
                if not isinstance(record, dict):
                    raise DamagedFileError(path, "it is not an object", "an answer")
            except ModelwrightError:
                write_bytes(path, orjson.dumps({"kind": path.stem.split("-", 1)[1], "outcome": None}))  # cut off while being created
                record = read_json(path)
            if record.get("outcome") is None:
                keys = {name: str(record.get(name) or "") for name in ("id", "kind", "actor", "asked_at")}
                found.append(Request(**keys, record=path, body=record.get("body") or {}))
        return found


def _read_request(path: Path) -> tuple[dict[str, Any], str, str]:
    """(content, name of the file's owner, why it is refused or "") of a claimed request file. Links and special files
    are not followed."""
    try:
        status = path.lstat()
        owner = _user_name(status.st_uid)
        if not stat.S_ISREG(status.st_mode):
            return {}, owner, "The request is not a regular file; allowed: an empty file or a JSON object."
        if status.st_size > MAX_BODY:
            return {}, owner, f"The request has {status.st_size} bytes; allowed: up to {MAX_BODY}."
        data = path.read_bytes()
    except OSError as error:
        return {}, "unknown", str(storage_error(error, path.name, "read the request"))
    if not data.strip():
        return {}, owner, ""
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        return (
            {},
            owner,
            f"The request is not valid JSON ({error.msg}, line {error.lineno}); allowed: an empty file or a JSON object.",
        )
    if not isinstance(content, dict):
        return {}, owner, f"The request is a JSON {type(content).__name__}; allowed: an empty file or a JSON object."
    return content, owner, ""


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


class SignalFlag:
    """Set by the first SIGINT or SIGTERM. `requested` and `signal` (its number, None before) are read between steps."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def requested(self) -> bool:
        return self.signal is not None

    @property
    def name(self) -> str:
        """SIGINT, SIGTERM or ""."""
        return "" if self.signal is None else signal.Signals(self.signal).name

    def __bool__(self) -> bool:
        return self.requested


@contextlib.contextmanager
def signals_as_requests() -> Iterator[SignalFlag]:
    """Within the block SIGINT and SIGTERM set a flag instead of ending the process; a SIGINT after any first signal
    raises KeyboardInterrupt. The former handlers come back at the end. Outside the main thread Python allows no
    handlers: the flag stays unset.
    """
    flag = SignalFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def note(number: int, frame: FrameType | None) -> None:
        if flag.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        flag.signal = flag.signal if flag.signal is not None else number

    former = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in former.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
