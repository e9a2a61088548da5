"""Everything that can be found out about one run from its files, and one sentence per file that is damaged."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelwright.checkpoints import CheckpointStore
from modelwright.control import answers
from modelwright.errors import DamagedFileError, MissingFileError, ModelwrightError, storage_error
from modelwright.files import read_json, read_jsonl, read_yaml
from modelwright.heartbeat import read_heartbeat
from modelwright.lock import read_holder
from modelwright.memory import MEASURED_FILE
from modelwright.metrics import read_metrics
from modelwright.record import RECORD_NAME, read_record
from modelwright.runs_view import latest_metrics, read_object
from modelwright.scan import RunRow, row, summarise
from modelwright.schema_registry import run_files


@dataclass
class Study:
    """All that is known of one run.

    record: `run.json` as far as it is an object; record_problem: one sentence when it is no proper record, else "".
    holder: who last wrote the run, by its lock. problems: one sentence per thing that is wrong, that of the record first.
    """

    row: RunRow
    record: dict[str, Any]
    record_problem: str
    heartbeat: dict[str, Any]
    holder: dict[str, Any]
    metrics: dict[str, Any] = field(default_factory=dict)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def study(run: Path) -> Study:
    """Read everything a run directory holds, tolerating whatever is damaged."""
    summary = summarise(str(run))
    record, record_problem = _read_record(run)
    view = read_heartbeat(run, stem=summary["stem"])
    beat = {"liveness": view.liveness, "state": view.state, "age_s": view.age_s, "snapshot": view.snapshot}
    known = Study(row(str(run), summary), record, record_problem, beat, read_holder(run))
    known.problems += [sentence for sentence in (record_problem, view.problem) if sentence]
    files = record.get("files")
    names = files if isinstance(files, dict) else {}
    metrics = run / str(names.get("metrics") or "metrics.jsonl")
    _study_metrics(known, metrics)
    _study_checkpoints(known, run / str(names.get("checkpoints") or "checkpoints"))
    known.requests = answers(run)
    known.memory = read_object(run / MEASURED_FILE)
    read_before = {run / RECORD_NAME, run / f"{summary['stem']}.json", metrics}
    for path in sorted({path for pattern in run_files() for path in run.glob(pattern)} - read_before):
        known.problems += document_problems(path)
    known.problems = list(dict.fromkeys(known.problems))
    return known


def document_problems(path: Path) -> list[str]:
    """What is wrong with a JSON, JSONL or YAML file, by its suffix: empty, torn, of another kind, unreadable; in one
    sentence, or none when it is in order."""
    try:
        if path.suffix == ".jsonl":
            return read_jsonl(path).damage
        document = read_yaml(path) if path.suffix == ".yaml" else read_json(path)
    except MissingFileError:
        return []  # it went while the folder was being read
    except ModelwrightError as error:
        return [str(error)]
    if not isinstance(document, dict):
        return [str(DamagedFileError(path, "it is not an object", "an object", "Restore it or delete it"))]
    return []


def _read_record(run: Path) -> tuple[dict[str, Any], str]:
    problem = ""
    try:
        read_record(run)
    except ModelwrightError as error:
        problem = str(error)
    return read_object(run / RECORD_NAME), problem


def _study_metrics(known: Study, path: Path) -> None:
    known.metrics = {"events": 0, "superseded": 0, "latest": {}}
    try:
        read = read_metrics(path)
    except MissingFileError:
        return
    except ModelwrightError as error:
        known.problems.append(str(error))
        return
    known.metrics = {"events": len(read.events), "superseded": read.superseded, "latest": latest_metrics(read.events)}
    known.problems += read.damage
    if read.torn_tail and known.heartbeat["liveness"] == "dead":
        known.problems.append(f"{read.files[-1]}: the last line is torn, as a killed writer leaves it; nothing acknowledged is lost.")


def _study_checkpoints(known: Study, folder: Path) -> None:
    try:
        store = CheckpointStore(folder, writer=False)
        found = store.list()
        known.problems += [sentence for sentence in store.problems() if sentence not in known.problems]
    except ModelwrightError as error:
        known.problems.append(str(error))
        return
    except OSError as error:  # a folder in there that may not be looked into
        known.problems.append(str(storage_error(error, error.filename or folder, "read")))
        return
    known.checkpoints = [{"name": item.name, "step": item.step, "created_at": item.created_at, "bytes": item.size_bytes} for item in found]
