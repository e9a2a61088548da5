"""What `modelwright runs show` prints: everything a run directory holds, and what is wrong with it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from modelwright.checkpoints import CheckpointStore
from modelwright.control import answers
from modelwright.errors import MissingFileError, ModelwrightError
from modelwright.files import read_json
from modelwright.heartbeat import read_heartbeat
from modelwright.memory import MEASURED_FILE
from modelwright.metrics import read_metrics
from modelwright.record import RECORD_NAME, read_record
from modelwright.runs_view import latest_metrics, metric_lines, read_object, screen_lines
from modelwright.scan import RunRow, printable, row, summarise


@dataclass
class Study:
    """All that can be found out about one run; every problem is one sentence in `problems`."""

    row: RunRow
    record: dict[str, Any]
    heartbeat: dict[str, Any]
    metrics: dict[str, Any] = field(default_factory=dict)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    memory: dict[str, Any] | None = None
    problems: list[str] = field(default_factory=list)


def study(run: Path) -> Study:
    """Read everything a run directory holds, tolerating whatever is damaged."""
    summary = summarise(str(run))
    record, record_problem = _read_record(run)
    view = read_heartbeat(run, stem=summary["stem"])
    beat = {"liveness": view.liveness, "state": view.state, "age_s": view.age_s, "snapshot": view.snapshot}
    known = Study(row(str(run), summary), record, beat)
    known.problems += [sentence for sentence in (record_problem, view.problem) if sentence]
    files = record.get("files")
    names = files if isinstance(files, dict) else {}
    _study_metrics(known, run / str(names.get("metrics") or "metrics.jsonl"))
    _study_checkpoints(known, run / str(names.get("checkpoints") or "checkpoints"))
    known.requests = answers(run)
    try:
        known.memory = read_json(run / MEASURED_FILE) if (run / MEASURED_FILE).exists() else None
    except ModelwrightError as error:
        known.problems.append(str(error))
    if summary["problem"] and not known.problems:
        known.problems.append(summary["problem"])
    known.problems = list(dict.fromkeys(known.problems))
    return known


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
        torn = f"{read.files[-1]}: the last line is torn, because its writer died; nothing acknowledged is lost."
        known.problems.append(torn)


def _study_checkpoints(known: Study, folder: Path) -> None:
    try:
        store = CheckpointStore(folder, writer=False)
        found = store.list()
        known.problems += store.problems()
    except ModelwrightError as error:
        known.problems.append(str(error))
        return
    known.checkpoints = [{"name": item.name, "step": item.step, "created_at": item.created_at, "bytes": item.size_bytes} for item in found]


def show_json(known: Study) -> str:
    """A run in full for a program."""
    document = {
        "schema_version": 1,
        "run": known.row.as_dict(),
        "record": known.record or None,
        "heartbeat": known.heartbeat,
        "metrics": known.metrics,
        "checkpoints": known.checkpoints,
        "requests": known.requests,
        "memory": known.memory,
        "problems": [printable(sentence) for sentence in known.problems],
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()


def show_text(known: Study) -> str:
    """A run in full for a person."""
    record, entry = known.record, known.row
    lines = [f"{entry.name}  {entry.state}", ""]
    environment = record.get("environment") if isinstance(record.get("environment"), dict) else {}
    assert isinstance(environment, dict)
    facts = {
        "path": entry.path,
        "run id": entry.run_id,
        "kind": entry.kind,
        "created": entry.created_at,
        "attempt": str(entry.attempt),
        "ended": _ended(entry),
        "command": shlex.join(map(str, record.get("command") or [])),
        "in": str(record.get("cwd") or ""),
        "config": str(record.get("config_sha256") or ""),
        "host": str(environment.get("hostname") or ""),
        "tags": ", ".join(entry.tags),
        "group": entry.group,
    }
    lines += [f"  {name:<9} {value}" for name, value in facts.items() if value]
    lines += _section("phases", [_phase(item) for item in record.get("entries") or [] if isinstance(item, dict)])
    lines += _section("progress", screen_lines(entry, known.heartbeat)[1:])
    lines += _section("latest metrics", metric_lines(known.metrics.get("latest", {})))
    lines += _section(
        "checkpoints",
        [f"{item['name']:<24} step {item['step']}  {item['created_at']}  {_size(item['bytes'])}" for item in known.checkpoints],
    )
    lines += _section(
        "requests",
        [f"{item.get('asked_at')}  {item.get('kind')} by {item.get('actor')}: {item.get('outcome') or 'taken'}" for item in known.requests],
    )
    if known.memory:
        predicted, measured = known.memory.get("predicted_bytes"), known.memory.get("measured_bytes")
        lines += _section("memory", [f"predicted {_size(predicted)}, measured {_size(measured)}"])
    lines += _section("problems", known.problems)
    return "\n".join(lines)


def _read_record(run: Path) -> tuple[dict[str, Any], str]:
    """`run.json` as far as it is an object, and one sentence when it is not a proper record."""
    problem = ""
    try:
        read_record(run)
    except ModelwrightError as error:
        problem = str(error)
    return read_object(run / RECORD_NAME), problem


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"{title}:", *(f"  {line}" for line in lines)] if lines else []


def _phase(entry: dict[str, Any]) -> str:
    times = f"{entry.get('started_at')} – {entry.get('ended_at') or 'now'}"
    reason = f" ({entry['reason']})" if entry.get("reason") else ""
    return f"{entry.get('phase')!s:<16} attempt {entry.get('attempt')}  {entry.get('status')}{reason}  {times}"


def _ended(entry: RunRow) -> str:
    if entry.exit_code is None:
        return ""
    return f"exit code {entry.exit_code}" + (f", {entry.reason}" if entry.reason else "")


def _size(count: Any) -> str:
    if not isinstance(count, (int, float)):
        return "?"
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"
