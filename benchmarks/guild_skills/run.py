"""How fast binary-arithmetic rows are made: every form at levels 1, 10, 20 and 30, in one process.

python -m benchmarks.guild_skills.run [--rows 5000] [--rounds 5] [--output benchmarks/guild_skills/result.json]

Each cell is the median over the rounds, in which forms and levels alternate; every round makes other rows (another seed) with a skill
that has not made any before, so that building its tables is counted. "mixed" is the shipped configuration: all forms, tasks and keys.
"json" adds what the skill server does with the rows: encoding. "self-check" reads the mixed rows back and recomputes every line.
The target holds for every cell of "mixed" and for every form, by the wall clock and by CPU time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
from benchmarks.common import table, write_result

from guild.skills.binary.auxiliary import TASKS
from guild.skills.binary.forms import FORMS
from guild.skills.binary.skill import BinarySkill

LEVELS = (1, 10, 20, 30)
TARGET_ROWS_PER_S = 5000
Make = Callable[[int, int, int], int]
"""(level, rows, seed) → rows made."""


def ways() -> dict[str, Make]:
    """What is measured, by name."""

    def form(name: str) -> Make:
        return lambda level, rows, seed: len(BinarySkill(forms=(name,), tasks=(), auxiliary_share=0).generate(level, rows, seed))

    def mixed(level: int, rows: int, seed: int) -> int:
        return len(BinarySkill().generate(level, rows, seed))

    def tasks(level: int, rows: int, seed: int) -> int:
        return len(BinarySkill(forms=(), tasks=TASKS, auxiliary_share=1).generate(level, rows, seed))

    def small(level: int, rows: int, seed: int) -> int:
        return len(BinarySkill.small().generate(level, rows, seed))

    def encoded(level: int, rows: int, seed: int) -> int:
        samples = BinarySkill().generate(level, rows, seed)
        orjson.dumps([sample.as_dict() for sample in samples])
        return len(samples)

    return {
        "mixed": mixed,
        **{name: form(name) for name in FORMS},
        "auxiliary tasks": tasks,
        "small configuration": small,
        "mixed, json": encoded,
    }


def measure(rows: int, rounds: int) -> list[dict[str, Any]]:
    """One entry per way and level: rows per second by the wall clock and per CPU second, medians over the rounds."""
    cells = [(name, level, make) for name, make in ways().items() for level in LEVELS]
    found: dict[tuple[str, int], list[tuple[float, float]]] = {(name, level): [] for name, level, _ in cells}
    for number in range(rounds):
        for name, level, make in cells if number % 2 == 0 else reversed(cells):
            begin, used = time.perf_counter(), time.process_time()
            made = make(level, rows, number)
            found[name, level].append((made / (time.perf_counter() - begin), made / (time.process_time() - used)))
        print(f"round {number + 1}/{rounds}", file=sys.stderr)
    return [entry(name, level, rows, figures) for (name, level), figures in found.items()] + checks(rows)


def checks(rows: int) -> list[dict[str, Any]]:
    """The self-check over mixed rows, once per level; every row must pass it."""
    entries = []
    for level in LEVELS:
        skill = BinarySkill()
        samples = skill.generate(level, rows, seed=99)
        begin, used = time.perf_counter(), time.process_time()
        faults = [fault for sample in samples for fault in skill.check(sample)]
        assert not faults, faults[:3]
        figures = [(rows / (time.perf_counter() - begin), rows / (time.process_time() - used))]
        entries.append(entry("self-check", level, rows, figures))
    return entries


def entry(name: str, level: int, rows: int, figures: list[tuple[float, float]]) -> dict[str, Any]:
    """One line of the result."""
    wall, cpu = (statistics.median(column) for column in zip(*figures, strict=True))
    return {"form": name, "level": level, "rows": rows, "rows_per_s": round(wall), "rows_per_cpu_s": round(cpu)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=5000, help="rows per form, level and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", default=str(Path(__file__).with_name("result.json")))
    arguments = parser.parse_args(argv)
    results = measure(arguments.rows, arguments.rounds)
    judged = [row for row in results if row["form"] in ("mixed", *FORMS)]
    met = {
        "rows_per_s": min(row["rows_per_s"] for row in judged) >= TARGET_ROWS_PER_S,
        "rows_per_cpu_s": min(row["rows_per_cpu_s"] for row in judged) >= TARGET_ROWS_PER_S,
    }
    settings = {"rows": arguments.rows, "rounds": arguments.rounds, "levels": list(LEVELS)}
    write_result(
        arguments.output,
        benchmark="guild_skills",
        settings=settings,
        results=results,
        targets={"rows_per_s": TARGET_ROWS_PER_S},
        targets_met=met,
    )
    print(table(results, ["form", "level", "rows", "rows_per_s", "rows_per_cpu_s"]))
    print(f"target: >= {TARGET_ROWS_PER_S} rows/s for the mixed rows and for every form")
    print(", ".join(f"{name}: {'met' if good else 'NOT met'}" for name, good in met.items()))
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
