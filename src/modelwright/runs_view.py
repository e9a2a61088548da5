"""What `modelwright runs list` and `watch` print: the table of runs, the one-screen view of one run's progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson

from modelwright.errors import EXIT_PAUSED, ModelwrightError
from modelwright.files import read_json, read_jsonl
from modelwright.index import Found
from modelwright.runs_arguments import EXIT_UNREADABLE
from modelwright.scan import DAMAGED, RunRow, printable, row, summarise

BAR_CELLS = 30
TAIL_BYTES = 64 * 1024
LATEST_METRICS = 12
ENDED = frozenset({"completed", "failed", "stopped", "paused", "aborted", "dead", DAMAGED})
COLUMNS = ("name", "kind", "state", "phase", "progress", "eta", "updated", "id", "tags")


def list_json(rows: Sequence[RunRow], total: int, problems: Sequence[str]) -> str:
    """The list for a program."""
    document = {
        "schema_version": 1,
        "runs": [entry.as_dict() for entry in rows],
        "total": total,
        "problems": [printable(sentence) for sentence in problems],
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()


def list_table(rows: Sequence[RunRow], total: int, roots: Sequence[Path]) -> str:
    """The list for a person."""
    where = ", ".join(str(root) for root in roots) or "./runs (no such folder)"
    if not total:
        return f"No runs to show below {where}."
    lines = [[_cell(entry, column) for column in COLUMNS] for entry in rows]
    widths = [max(len(line[number]) for line in [list(COLUMNS), *lines]) for number in range(len(COLUMNS))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in [list(COLUMNS), *lines]]
    if len(rows) < total:
        text.append(f"… and {total - len(rows)} more; --limit 0 shows all.")
    text += [f"{entry.name}: {entry.problem}" for entry in rows if entry.problem]
    return "\n".join(text)


def watch(run: Path, *, follow: bool, stop_on_terminal: bool, every_s: float, as_json: bool) -> int:
    """Print the one-screen view, again whenever it changes when following; returns the exit code."""
    last = ""
    while True:
        view, state = _glance(run)
        text = orjson.dumps(view).decode() if as_json else "\n".join(view["lines"])
        if text != last:
            if as_json:
                print(text, flush=True)
            else:
                _print_screen(text, clear=follow and sys.stdout.isatty())
            last = text
        if not follow or (stop_on_terminal and state in ENDED):
            break
        time.sleep(every_s)
    if state == DAMAGED:
        return EXIT_UNREADABLE
    if not stop_on_terminal or state == "completed":
        return 0
    return EXIT_PAUSED if state == "paused" else 1


def screen_lines(entry: RunRow, heartbeat: dict[str, Any]) -> list[str]:
    """Progress of a run as a few lines: state, bar, throughput and ETA, checkpoint, message, age of the last sign of
    life.
    """
    beat = heartbeat.get("snapshot") or {}
    lines = ["  ".join(filter(None, (entry.name, entry.kind, f"attempt {entry.attempt}" if entry.attempt else "")))]
    state = entry.state + (f" ({entry.reason})" if entry.reason and entry.state == entry.status else "")
    lines.append(f"state       {state}" + (f", phase {entry.phase}" if entry.phase else ""))
    if entry.step is not None:
        lines.append(f"progress    {bar(entry.step, entry.total_steps)}")
    speed = [f"{entry.throughput:,.0f} {entry.unit}".strip()] if entry.throughput is not None else []
    if entry.state == "running" and entry.eta_s is not None:
        speed.append(f"about {duration(entry.eta_s)} left")
    if isinstance(beat.get("elapsed_s"), (int, float)):
        speed.append(f"{duration(beat['elapsed_s'])} so far")
    lines += [f"speed       {', '.join(speed)}"] if speed else []
    lines += [f"checkpoint  {entry.latest_checkpoint}"] if entry.latest_checkpoint else []
    lines += [f"message     {beat['message']}"] if beat.get("message") else []
    if heartbeat.get("age_s") is not None and entry.state in ("running", "stalled", "dead", "unreachable", DAMAGED):
        lines.append(f"last sign   {duration(heartbeat['age_s'])} ago, writer {heartbeat.get('liveness')}")
    return lines


def bar(step: int, total: int | None) -> str:
    """`[██████░░░░] 60.0 %  120 / 200`, or only the step when the total is unknown."""
    if not total or total < 1:
        return f"step {step:,}"
    share = min(1.0, max(0.0, step / total))
    full = int(share * BAR_CELLS)
    return f"[{'█' * full}{'░' * (BAR_CELLS - full)}] {share * 100:.1f} %  {step:,} / {total:,}"


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def reindex_text(found: Found, roots: Sequence[Path], *, as_json: bool) -> str:
    """What a rebuild found."""
    if as_json:
        problems = [printable(sentence) for sentence in found.problems]
        return orjson.dumps({"runs": len(found.rows), "roots": [printable(str(root)) for root in roots], "problems": problems}).decode()
    damaged = [f"{entry.path}: {entry.problem}" for entry in found.rows if entry.problem]
    return "\n".join([f"indexed {len(found.rows)} runs below {len(roots)} folders", *damaged, *found.problems])


def _glance(run: Path) -> tuple[dict[str, Any], str]:
    """The one-screen view as lines and fields, and the state."""
    from modelwright.heartbeat import read_heartbeat

    summary = summarise(str(run))
    entry = row(str(run), summary)
    view = read_heartbeat(run, stem=summary["stem"])
    heartbeat = {"liveness": view.liveness, "age_s": view.age_s, "snapshot": view.snapshot}
    latest = _tail_metrics(run)
    problems = [sentence for sentence in (entry.problem, view.problem) if sentence]
    lines = [*screen_lines(entry, heartbeat), *(f"metric      {line}" for line in metric_lines(latest)), *problems]
    return {"run": entry.as_dict(), **heartbeat, "metrics": latest, "problems": problems, "lines": lines}, entry.state


def _print_screen(text: str, *, clear: bool) -> None:
    print(f"\x1b[H\x1b[2J{text}" if clear else f"{text}\n", flush=True)


def _tail_metrics(run: Path) -> dict[str, Any]:
    """The newest event of each metric in the last 64 KiB of the metrics file; a partial first line there is not
    looked at.
    """
    files = read_object(run / "run.json").get("files")
    path = run / str((files.get("metrics") if isinstance(files, dict) else None) or "metrics.jsonl")
    try:
        size = path.stat().st_size
        read = read_jsonl(path, offset=max(0, size - TAIL_BYTES), missing_ok=True)
    except (OSError, ModelwrightError):
        return {}
    return latest_metrics(event for event in read.records if isinstance(event.get("metric"), str))


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, or {} when there is none to be had; whoever tells the reason reads the file itself."""
    try:
        document = read_json(path)
    except ModelwrightError:
        return {}
    return document if isinstance(document, dict) else {}


def latest_metrics(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Metric name → its last event."""
    return {event["metric"]: {key: value for key, value in event.items() if key != "metric"} for event in events}


def metric_lines(latest: dict[str, Any]) -> list[str]:
    """The newest metrics, a line each."""
    lines = []
    for name, event in sorted(latest.items(), key=lambda item: str(item[1].get("timestamp")), reverse=True)[:LATEST_METRICS]:
        value = event.get("value")
        shown = event.get("nonfinite") or "null" if value is None else f"{value:.6g}" if isinstance(value, (int, float)) else repr(value)
        lines.append(f"{name:<32} {shown}" + (f"  at step {event['step']}" if event.get("step") is not None else ""))
    return sorted(lines)


def _cell(entry: RunRow, column: str) -> str:
    if column == "progress":
        if entry.step is None:
            return "-"
        return f"{entry.step}/{entry.total_steps}" if entry.total_steps else str(entry.step)
    if column == "eta":
        return duration(entry.eta_s) if entry.state == "running" and entry.eta_s is not None else "-"
    values = {
        "name": entry.name,
        "kind": entry.kind,
        "state": entry.state,
        "phase": entry.phase,
        "updated": max(entry.updated_at, entry.beat_at)[:19].replace("T", " "),
        "id": entry.run_id[:8],
        "tags": ",".join(entry.tags),
    }
    return values[column] or "-"
