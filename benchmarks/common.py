"""What every benchmark records beside its figures: the machine, the versions, the date."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelwright.clock import stamp
from modelwright.environment import package_versions
from modelwright.files import make_folder, write_json

LOAD_AT_START = os.getloadavg()[0]
"""Load average over one minute when this module was imported: before the benchmark itself made any."""


def cpu_name() -> str:
    """Model name of the processor, as the kernel reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def machine_info() -> dict[str, Any]:
    """Processor, cores this process may use, memory (GiB), system, Python, package versions, load at the start and now.

    No host name: results are published.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": cpu_name(),
        "cores": cores,
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "packages": package_versions(),
        "load_average_1m": round(LOAD_AT_START, 2),
        "load_average_1m_at_end": round(os.getloadavg()[0], 2),
    }


def write_result(path: Path | str, *, benchmark: str, settings: dict[str, Any], results: Any, **more: Any) -> None:
    """Write one committed result: `{benchmark, date, machine, settings, results, …}`."""
    make_folder(Path(path).parent)
    document = {
        "benchmark": benchmark,
        "date": stamp(datetime.now(UTC)),
        "machine": machine_info(),
        "settings": settings,
        "results": results,
        **more,
    }
    write_json(path, document)


def table(rows: list[dict[str, Any]], columns: list[str]) -> str:
    """Rows as aligned text under their column names."""
    cells = [[str(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[at]) for line in cells)) for at, column in enumerate(columns)]
    lines = [columns, ["-" * width for width in widths], *cells]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines)
