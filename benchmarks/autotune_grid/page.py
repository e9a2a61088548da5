"""`autotune_grid` as lines of the results page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

MIB = 2**20


def page(result: Mapping[str, Any]) -> Iterator[str]:
    """Decisions and times of both methods, then every cell of the grid with its memory."""
    for family in result["results"]:
        yield ""
        limit = f", {family['limit_mb']:,} MB of memory for a server" if family["limit_mb"] else ""
        yield f"**{family['family']}**: {', '.join(family['models'])}; {family['cells']} cells each{limit}."
        yield ""
        yield "| method | runs | seconds, median | requests, median | decisions (times) |"
        yield "|---|---|---|---|---|"
        for method, words in (("grid", "every candidate, every cell"), ("autotune", "`autotune --prune`")):
            runs = family[method]
            decisions = ", ".join(f"{name} ({times})" for name, times in Counter(run["decision"] for run in runs).most_common())
            requests = median(run["requests"] for run in runs)
            yield f"| {words} | {len(runs)} | {median(run['seconds'] for run in runs):.0f} | {requests:.0f} | {decisions} |"
        yield ""
        yield "| cell | tokens per second | memory predicted, MiB | at its peak, MiB | difference |"
        yield "|---|---|---|---|---|"
        yield from (_cell(cell) for cell in family["cells_of_grid"])
    yield ""
    for one in result["decisions"]:
        yield f"- {one['figure']}: {one['measured']:g}, target {one['target']}: {'met' if one['met'] else '**missed**'}"


def _cell(cell: Mapping[str, Any]) -> str:
    predicted, peak = cell["predicted_bytes"], cell["peak_bytes"]
    if cell["tps"] is None:
        reason = str(cell["why_not"] or "").replace("|", "/")
        return f"| {cell['cell']} | {reason[:160]} | {_mib(predicted)} | {_mib(peak)} | – |"
    against = None if predicted is None else max(predicted, predicted + (cell["loading_bytes"] or 0))
    off = "–" if against is None or not peak else f"{100 * (against / peak - 1):+.0f} %"
    return f"| {cell['cell']} | {cell['tps']:.1f} | {_mib(against)} | {_mib(peak)} | {off} |"


def _mib(count: int | None) -> str:
    return "–" if count is None else f"{count / MIB:,.0f}"
