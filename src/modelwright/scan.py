"""Find run directories below a root and say one line about each, from the files alone.

A directory is a run when it holds `run.json` (or `writer.lock`, whose record was lost). Below a run nothing is
searched; elsewhere the search goes `DEPTH` levels down. Standard library and orjson only: this is on the path of
`modelwright runs list`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

RECORD_NAME = "run.json"
LOCK_NAME = "writer.lock"
DEFAULT_STEM = "heartbeat"
DEPTH = 4
RACY_NS = 50_000_000
"""A file changed less than this long ago may change again within one tick of the file system's clock, so it is read
again next time.
"""

TERMINAL = frozenset({"completed", "failed", "stopped", "paused", "aborted"})
DAMAGED = "damaged"

Signature = str


class RunRow(NamedTuple):
    """One run in a list.

    status: what `run.json` says, or `damaged`. state: what a reader may conclude: the status when the run has ended,
    else `running`, `stalled`, `dead` or `unreachable`. step, total_steps: of `phase`. eta_s: seconds. beat_at: newest
    sign of life. problem: one sentence when a file could not be read, else "".
    """

    path: str
    name: str
    run_id: str
    kind: str
    status: str
    state: str
    created_at: str
    updated_at: str
    attempt: int
    phase: str
    step: int | None
    total_steps: int | None
    throughput: float | None
    unit: str
    eta_s: float | None
    beat_at: str
    latest_checkpoint: str
    reason: str
    exit_code: int | None
    tags: tuple[str, ...]
    group: str
    problem: str

    def as_dict(self) -> dict[str, Any]:
        """JSON form; a path that is no Unicode is shown with its odd bytes escaped."""
        shown = {name: printable(getattr(self, name)) for name in ("path", "name", "problem")}
        return {**self._asdict(), **shown}


def find_runs(root: Path, problems: list[str], depth: int = DEPTH) -> Iterator[str]:
    """Paths of the runs below (or at) a root, in no order. Folders that cannot be read are named in `problems`."""
    if _has_record(str(root)):
        yield str(root)
        return
    waiting = [(str(root), depth)]
    while waiting:
        folder, levels = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                inner = [entry.path for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
        except OSError as error:
            problems.append(f"{folder} cannot be searched ({error.strerror}).")
            continue
        for path in inner:
            if _has_record(path) or os.path.exists(path + "/" + LOCK_NAME):
                yield path
            elif levels > 1 and not os.path.islink(path):
                waiting.append((path, levels - 1))


def signature(path: str, stem: str) -> Signature:
    """Size, change time and inode of record and snapshot: equal signatures mean unchanged files. Empty: look again."""
    parts = []
    newest = 0
    for name in (RECORD_NAME, stem + ".json"):
        try:
            state = os.stat(path + "/" + name)
        except OSError:
            parts.append("-")
            continue
        newest = max(newest, state.st_mtime_ns)
        parts.append(f"{state.st_mtime_ns}:{state.st_size}:{state.st_ino}")
    return "" if time.time_ns() - newest < RACY_NS else "|".join(parts)


def summarise(path: str) -> dict[str, Any]:
    """What one run's record and snapshot say, as plain JSON values: the fields of `RunRow` but `state`, and `stem`."""
    record, problem = _read_object(path + "/" + RECORD_NAME)
    files = record.get("files")
    stem = str(files.get("heartbeat") or DEFAULT_STEM) if isinstance(files, dict) else DEFAULT_STEM
    beat, beat_problem = _read_object(f"{path}/{stem}.json", missing_ok=True)
    if not problem and not (isinstance(record.get("run_id"), str) and isinstance(record.get("status"), str)):
        problem = f"{path}/{RECORD_NAME} is damaged (no run_id or no status); expected a run record."
    status = DAMAGED if problem else str(record["status"])
    same_attempt = beat.get("attempt") == record.get("attempt")
    tags = record.get("tags")
    return {
        "name": os.path.basename(path),
        "run_id": _text(record.get("run_id")),
        "kind": _text(record.get("kind")),
        "status": status,
        "beat_status": _text(beat.get("status")) if same_attempt else "",
        "created_at": _text(record.get("created_at")),
        "updated_at": _text(record.get("updated_at")),
        "attempt": _whole(record.get("attempt")) or 1,
        "phase": _text(beat.get("phase")),
        "step": _whole(beat.get("step")),
        "total_steps": _whole(beat.get("total_steps")),
        "throughput": _number(beat.get("throughput")),
        "unit": _text(beat.get("unit")),
        "eta_s": _number(beat.get("eta_s")),
        "beat_at": _text(beat.get("alive_at") or beat.get("beat_at")),
        "latest_checkpoint": _text(beat.get("latest_checkpoint")),
        "reason": _text(record.get("reason")),
        "exit_code": _whole(record.get("exit_code")),
        "tags": [str(tag) for tag in tags] if isinstance(tags, list) else [],
        "group": _text(record.get("group")),
        "problem": " ".join(filter(None, (problem, beat_problem))),
        "stem": stem,
    }


def row(path: str, summary: dict[str, Any]) -> RunRow:
    """The row of one run. Only a run that has not ended costs a look at its writer."""
    values = dict(summary)
    stem, beat_status = values.pop("stem"), values.pop("beat_status")
    values["tags"] = tuple(values["tags"])
    status = values["status"]
    if status in TERMINAL or status == DAMAGED:
        state = status
    else:
        from modelwright.heartbeat import read_heartbeat

        seen = read_heartbeat(path, stem=stem).state
        state = (beat_status or status) if seen == "terminal" else seen
    return RunRow(path=path, state=state, **values)


def is_text(path: str) -> bool:
    """Whether a path is valid Unicode; another one cannot be kept in the index or in JSON."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """The text with what is no Unicode escaped."""
    return text if is_text(text) else os.fsencode(text).decode("utf-8", "backslashreplace")


def _has_record(path: str) -> bool:
    return os.path.exists(path + "/" + RECORD_NAME)


def _read_object(path: str, missing_ok: bool = False) -> tuple[dict[str, Any], str]:
    """The JSON object in a file and "", or {} and a sentence about what is wrong."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return {}, "" if missing_ok else f"{path} is missing; the run's other files are still there."
    except OSError as error:
        return {}, f"{path} cannot be read ({error.strerror})."
    if not data.strip():
        return {}, f"{path} is damaged (it is empty, {len(data)} bytes); expected a JSON object."
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        return (
            {},
            f"{path} is damaged (line {error.lineno}, column {error.colno}: {error.msg}); expected a JSON object.",
        )
    if not isinstance(document, dict):
        return {}, f"{path} is damaged (it is no JSON object); expected a JSON object."
    return document, ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
