"""Find run directories below a root and say one line about each, from the files alone.

A directory is a run when it holds `run.json` (or `writer.lock`, whose record was lost). Below a run nothing is
searched; elsewhere the search goes `DEPTH` levels down. Standard library, orjson and light modules of the kernel only:
this is on the path of `modelwright runs list`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from modelwright.errors import DamagedFileError, MissingFileError, ModelwrightError, UsageError, storage_error
from modelwright.files import read_json

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
RESTORE_RECORD = "Restore it from a copy; without it the run's other files stay readable, but the run cannot be resumed"

Signature = str


class RunRow(NamedTuple):
    """One run in a list.

    run_id, attempt: of the record, or of the snapshot when it says nothing; "" and None when neither does. status: what
    `run.json` says, or `damaged`. state: what a reader may conclude: the status when the run has ended, else `running`,
    `stalled`, `dead` or `unreachable`. step, total_steps: of `phase`. eta_s: seconds. beat_at: newest sign of life.
    problem: one sentence when a file could not be read, else "".
    """

    path: str
    name: str
    run_id: str
    kind: str
    status: str
    state: str
    created_at: str
    updated_at: str
    attempt: int | None
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
    if os.path.exists(f"{root}/{RECORD_NAME}"):
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
            if is_run(path):
                yield path
            elif levels > 1 and not os.path.islink(path):
                waiting.append((path, levels - 1))


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether a directory is a run: it holds the record, or the lock of a run whose record was lost."""
    return any(os.path.exists(f"{os.fspath(path)}/{name}") for name in (RECORD_NAME, LOCK_NAME))


def record_error(folder: str | os.PathLike[str]) -> ModelwrightError | None:
    """Why there is no record in `folder`, in the one sentence that every command says; None when `run.json` is there.

    UsageError: no such directory, or one that is no run. StorageError: it cannot be looked at. MissingFileError: a run
    whose record was lost.
    """
    path = os.fspath(folder)
    try:
        os.stat(f"{path}/{RECORD_NAME}")
        return None
    except (FileNotFoundError, NotADirectoryError, ValueError):
        pass
    except OSError as error:
        return storage_error(error, f"{path}/{RECORD_NAME}", "read")
    todo = "Give the directory of a run; `modelwright runs list` shows them."
    if not os.path.lexists(path):
        return UsageError(f"{path} does not exist. {todo}")
    if not os.path.isdir(path):
        return UsageError(f"{path} is not a directory, so it is no run. {todo}")
    if not is_run(path):
        return UsageError(f"{path} has no {RECORD_NAME}, so it is no run. {todo}")
    return MissingFileError(f"{path}/{RECORD_NAME}, the record of this run, is missing. {RESTORE_RECORD}.", f"{path}/{RECORD_NAME}")


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
    record, problem = _read_record(path)
    files = record.get("files")
    stem = str(files.get("heartbeat") or DEFAULT_STEM) if isinstance(files, dict) else DEFAULT_STEM
    beat, beat_problem = _read_snapshot(f"{path}/{stem}.json")
    status = DAMAGED if problem else str(record["status"])
    same_attempt = beat.get("attempt") == record.get("attempt")
    tags = record.get("tags")
    return {
        "name": os.path.basename(path),
        "run_id": _text(record.get("run_id")) or _text(beat.get("run_id")),
        "kind": _text(record.get("kind")),
        "status": status,
        "beat_status": _text(beat.get("status")) if same_attempt else "",
        "created_at": _text(record.get("created_at")),
        "updated_at": _text(record.get("updated_at")),
        "attempt": _whole(record.get("attempt")) or _whole(beat.get("attempt")),
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


def _read_record(path: str) -> tuple[dict[str, Any], str]:
    """The record of a run as far as it is an object, and a sentence about what is wrong with it, or ""."""
    file = f"{path}/{RECORD_NAME}"
    try:
        record = read_json(file)
    except DamagedFileError as error:
        return {}, str(damaged_record(file, error.where))
    except ModelwrightError as error:
        return {}, str(record_error(path) or error)
    if not isinstance(record, dict):
        return {}, str(damaged_record(file, "it is not an object"))
    if not (isinstance(record.get("run_id"), str) and isinstance(record.get("status"), str)):
        return record, str(damaged_record(file, "no run_id or no status"))
    return record, ""


def damaged_record(file: str | os.PathLike[str], where: str) -> DamagedFileError:
    """The error for a record that is there and is none; where: what is wrong with it."""
    return DamagedFileError(file, where, "a run record", RESTORE_RECORD)


def _read_snapshot(file: str) -> tuple[dict[str, Any], str]:
    """The snapshot and "", or {} and a sentence about what is wrong; a run without one is in order."""
    try:
        snapshot = read_json(file)
    except MissingFileError:
        return {}, ""
    except ModelwrightError as error:
        return {}, str(error)
    if not isinstance(snapshot, dict):
        return {}, str(DamagedFileError(file, "it is not an object", "a heartbeat snapshot"))
    return snapshot, ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
