"""What `modelwright runs show` prints: everything a run directory holds, and what is wrong with it (see `runs_study`)."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import orjson

from modelwright.lock import describe_holder
from modelwright.runs_study import Study
from modelwright.runs_view import metric_lines, screen_lines
from modelwright.scan import RunRow, printable


def show_json(known: Study) -> str:
    """A run in full for a program."""
    document = {
        "schema_version": 1,
        "run": known.row.as_dict(),
        "record": known.record or None,
        "heartbeat": known.heartbeat,
        "writer": known.holder or None,
        "metrics": known.metrics,
        "checkpoints": known.checkpoints,
        "requests": known.requests,
        "memory": known.memory or None,
        "problems": [printable(sentence) for sentence in known.problems],
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()


def show_text(known: Study) -> str:
    """A run in full for a person."""
    record, entry = known.record, known.row
    lines = [f"{entry.name}  {entry.state}", ""]
    if known.record_problem:
        lines += [f"The record of this run cannot be read. {known.record_problem}", "What follows is what can still be read.", ""]
    environment = record.get("environment") if isinstance(record.get("environment"), dict) else {}
    assert isinstance(environment, dict)
    facts = {
        "path": entry.path,
        "run id": entry.run_id + _origin(record, "run_id", entry.run_id),
        "kind": entry.kind,
        "created": entry.created_at,
        "attempt": str(entry.attempt or "") + _origin(record, "attempt", entry.attempt),
        "ended": _ended(entry),
        "command": shlex.join(map(str, _items(record.get("command")))),
        "in": str(record.get("cwd") or ""),
        "config": str(record.get("config_sha256") or ""),
        "host": str(environment.get("hostname") or ""),
        "tags": ", ".join(entry.tags),
        "group": entry.group,
        "writer": describe_holder(known.holder) if known.record_problem and known.holder else "",
    }
    lines += [f"  {name:<9} {value}" for name, value in facts.items() if value]
    lines += _section("phases", [_phase(item) for item in _items(record.get("entries")) if isinstance(item, dict)])
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
    lines += _section("problems", [sentence for sentence in known.problems if sentence != known.record_problem])
    return "\n".join(lines)


def _origin(record: dict[str, Any], name: str, value: Any) -> str:
    return " (as the heartbeat says)" if value and not record.get(name) else ""


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


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
