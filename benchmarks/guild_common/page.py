"""The guild's benchmarks as lines of the results page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]
Column = tuple[str, str, int]
"""What a column is called, the field of a row, digits behind the point."""


def validation_page(result: Result) -> Iterator[str]:
    """`guild_validation`: the three levels beside bare parsing and others."""
    columns = (
        ("way", "way", 0), ("MB/s", "mb_per_s", 1), ("MB per processor second", "mb_per_cpu_s", 1), ("rows/s", "rows_per_s", 0),
        ("peak memory, MB", "peak_rss_mb", 0),
    )  # fmt: skip
    yield from _table(columns, result["results"])
    yield from _targets(result, {"quick": "QUICK at least 150 MB/s on two cores", "deep": "DEEP at least 15 MB/s on two cores"})


def queue_page(result: Result) -> Iterator[str]:
    """`guild_queue`: jobs put in and taken, beside other queues."""
    columns = (
        ("queue", "queue", 0), ("on disk before the answer", "keeps", 0), ("put in per second, batch", "enqueue_per_s", 0),
        ("one put in, p50 ms", "enqueue_one_p50_ms", 2), ("taken, p50 ms", "take_p50_ms", 2), ("taken, p99 ms", "take_p99_ms", 2),
        ("done, p50 ms", "done_p50_ms", 2), ("done, p99 ms", "done_p99_ms", 2), ("jobs/s", "jobs_per_s", 0),
    )  # fmt: skip
    yield from _table(columns, result["results"])
    yield from _targets(result, {"enqueue_10000_s": "10,000 jobs put in within 2 s", "take_p99_ms": "a take's p99 at most 5 ms"})


def skills_page(result: Result) -> Iterator[str]:
    """`guild_skills`: rows of binary arithmetic."""
    rows = [row for row in result["results"] if row["form"] in ("mixed", "brief", "trace", "mixed, json", "self-check")]
    columns = (("rows", "form", 0), ("level", "level", 0), ("rows/s", "rows_per_s", 0), ("rows per processor second", "rows_per_cpu_s", 0))
    yield from _table(columns, rows)
    yield "Every other form and the auxiliary tasks stand in the JSON."
    yield from _targets(
        result,
        {
            "rows_per_s": "at least 5,000 rows/s for the mixed rows and for every form",
            "rows_per_cpu_s": "the same per processor second",
        },
    )


def analytics_page(result: Result) -> Iterator[str]:
    """`guild_analytics`: drift, stability, the record of a file."""
    weights = [row for row in result["results"] if "mb_per_s" in row]
    columns = (
        ("way", "way", 0), ("MB/s", "mb_per_s", 0), ("processor seconds", "cpu_seconds", 3), ("first call", "first_cpu_seconds", 3),
        ("memory on top, MB", "peak_rss_growth_mb", 0),
    )  # fmt: skip
    yield from _table(columns, weights)
    for row in result["results"]:
        if "ms" in row:
            yield f"- {row['way']}: {row['ms']:,.1f} ms with {row['records']:,} records"
    words = {
        "stability_share_of_600_s": "parameter stability every ten minutes takes at most 1 % of a processor",
        "peak_rss_growth_mb": "at most 64 MB on top, whatever the model",
        "impact_ms_per_file": "the record of a file costs at most 250 ms",
    }
    yield from _targets(result, words)


def daemon_page(result: Result) -> Iterator[str]:
    """`guild_daemon`: an idle daemon."""
    columns = (
        ("house", "case", 0), ("daemon and children, % of a core", "percent", 2), ("daemon alone, %", "daemon", 2),
        ("with the regular jobs, %", "with_regular", 2), ("wakeups per second", "wakeups_per_s", 1), ("memory (PSS), MB", "pss_mb", 0),
    )  # fmt: skip
    yield from _table(columns, result["results"])
    yield from _targets(result, {"idle_percent": "at most 1 % of a core"})


def overhead_page(result: Result) -> Iterator[str]:
    """`guild_overhead`: a training step of the guild beside the same by hand."""
    columns = (
        ("way", "way", 0), ("mean step, ms", "step_ms", 2), ("processor time, ms", "step_cpu_ms", 2), ("median, ms", "median_step_ms", 2),
        ("steps compared", "steps_compared", 0),
    )  # fmt: skip
    yield from _table(columns, result["results"])
    for name, ratio in result["ratios"].items():
        wall = ratio["wall"]
        yield f"- {name}: {wall['percent']:+.2f} % by the clock (95 %: {wall['low']:+.2f} to {wall['high']:+.2f})"
    yield f"- measured inside: the guild's own calls take {result['hooks']['percent']:.2f} % of a step"
    yield from _targets(
        result, {"against_stock_percent": "less than 1 % over the stock Trainer", "hooks_percent": "less than 1 % in the guild's own calls"}
    )


def training_page(result: Result) -> Iterator[str]:
    """`guild_training`: optimizers and the low-memory recipe."""
    for rows in result["results"].values():
        yield from _table(
            (
                ("optimizer", "name", 0), ("trained by", "side", 0), ("loss, first → last", "loss", 0), ("ms/step", "ms_per_step", 1),
                ("tokens/s", "tokens_per_s", 0), ("MFU, %", "mfu_percent", 1), ("peak memory, GB", "peak_gb", 2),
                ("predicted, GB", "predicted_gb", 2), ("optimizer state, MB", "state_mb", 1),
            ),
            [_trained(row) for row in rows],
        )  # fmt: skip
    wrong = [name for name, good in result["checks"].items() if not good]
    yield f"Checks: {len(result['checks'])}, " + ("all hold." if not wrong else f"and these do not hold: {', '.join(wrong)}.")


def _trained(row: Result) -> dict[str, Any]:
    name = row.get("optimizer") or row.get("hero")
    if row["outcome"] != "trained":
        return {"name": name, "note": row["message"]}
    return {
        "name": name,
        "side": row.get("side", "recipe"),
        "loss": f"{row['loss_first']:.3f} → {row['loss_last']:.3f}",
        "ms_per_step": row["ms_per_step"],
        "tokens_per_s": row["tokens_per_s"],
        "mfu_percent": None if row["mfu"] is None else 100 * row["mfu"],
        "peak_gb": row["peak"]["bytes"] / 1e9,
        "predicted_gb": row["forecast"]["bytes"] / 1e9,
        "state_mb": row["state"]["bytes"] / 1e6,
    }


def _targets(result: Result, words: Mapping[str, str]) -> Iterator[str]:
    yield ""
    for name, met in result["targets_met"].items():
        found = result.get("figures", {}).get(name)
        yield f"- Target: {words[name]}: {'met' if met else 'missed'}{f' ({found:g})' if found is not None else ''}"


def _table(columns: Sequence[Column], rows: Iterable[Result]) -> Iterator[str]:
    yield ""
    yield f"| {' | '.join(name for name, _, _ in columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        cells = [_cell(row.get(field), digits) for _, field, digits in columns]
        if row.get("note"):
            cells = [cells[0], " ".join(str(row["note"]).split()), *[""] * (len(columns) - 2)]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _cell(value: Any, digits: int) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:,.{digits}f}"
