"""The pass or fail test of a trial, the same in both stages, and the words for why it failed. Pure. (specs/autotune.md, 5.2 and 5.4)"""

from __future__ import annotations

import re
from collections.abc import Sequence

from macprovider.autotune.measuring.measure import Replicate, p95

LOG_TAIL_CHARACTERS = 240
NOTES_CHARACTERS = 480
_TROUBLE = re.compile("error|oom|out of memory|traceback", re.IGNORECASE)
_NO_MEMORY = re.compile(r"\boom\b|out of memory|memoryerror|cannot allocate memory", re.IGNORECASE)
RC_KILLED = 137


def verdict(replicates: Sequence[Replicate], gate_ttft_ms: int) -> str:
    """Why these requests fail the gate, "" when they pass. The first request that failed names the reason, then a leak, then
    slowness. No request at all passes nothing.
    """
    for replicate in replicates:
        if replicate.error:
            return f"request error: {replicate.error}"
    for replicate in replicates:
        if replicate.leak:
            return f"stop-token leak: {replicate.leak}"
    times = [replicate.ttft_ms for replicate in replicates if replicate.ttft_ms is not None]
    if not times:
        return "request error: no request was answered"
    if max(times) > gate_ttft_ms:
        slowest = p95(times) if p95(times) > gate_ttft_ms else max(times)
        return f"ttft p95 {slowest:.0f}ms > gate {gate_ttft_ms}ms"
    return ""


def exited_in_load(rc: int, log: str) -> str:
    """The reason for a candidate that ended before it was ready. rc: as a shell counts it (128 + signal)."""
    guess = " (likely OOM)" if rc == RC_KILLED or _NO_MEMORY.search(log) else ""
    return notes(f"provider exited rc={rc} during load{guess}; log tail: {log_tail(log)}")


def exited_in_probe(rc: int, log: str) -> str:
    """The reason for a candidate that ended while it was measured."""
    return notes(f"provider exited rc={rc} during probe; log tail: {log_tail(log)}")


def not_ready(seconds: float, last: str) -> str:
    """The reason for a candidate that never became ready."""
    return notes(f"ready timeout after {seconds:.0f}s (last: {last})")


def log_tail(log: str) -> str:
    """The first line that speaks of trouble, at most 240 characters of it, else the last 240 characters."""
    for line in log.splitlines():
        if _TROUBLE.search(line):
            return line.strip()[:LOG_TAIL_CHARACTERS]
    return " ".join(log[-LOG_TAIL_CHARACTERS:].split())


def notes(text: str) -> str:
    """Cut to what the database keeps."""
    return text[:NOTES_CHARACTERS]
