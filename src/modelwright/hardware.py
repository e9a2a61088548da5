"""What this machine has, as far as this process may use it. Units are GiB.

Memory and processors are cut to what the control groups and the affinity mask allow. No GPU is a normal machine
(``gpu_count`` 0). A value that could not be found is null and ``unknown`` says why; no value is ever assumed.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import resource
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from modelwright.cgroup import CGROUP, PROC, CgroupLimits, read_limits
from modelwright.gpus import Gpu, find_gpus

GIB = 1 << 30


class Cpu(BaseModel):
    """Processors: ``logical`` in the machine, ``usable`` by this process (affinity mask and cgroup quota, may be a
    fraction).
    """

    model_config = ConfigDict(frozen=True)

    model: str | None
    logical: int
    usable: float


class HardwareInventory(BaseModel):
    """The machine, as ``hardware.json`` holds it. All sizes in GiB; null means not found, with the reason in
    ``unknown``.
    """

    model_config = ConfigDict(frozen=True)

    gpu_name: str | None
    vram_total: float | None = Field(description="GiB, summed over the GPUs this process may use; 0 without a GPU")
    vram_free: float | None
    gpu_count: int | None
    ram_total: float | None = Field(description="GiB this process may use: the machine's or the cgroup's, whichever is less")
    ram_free: float | None
    gpus: tuple[Gpu, ...] = ()
    cuda: str | None = None
    driver: str | None = None
    interconnect: str | None = None
    cpu: Cpu
    disk_free_gb: float | None
    detected_by: tuple[str, ...] = ()
    unknown: dict[str, str] = Field(default_factory=dict)


def inventory(
    disk: Path | None = None,
    *,
    proc: Path = PROC,
    cgroup: Path = CGROUP,
    device: Path = Path("/dev"),
    environ: Mapping[str, str] | None = None,
) -> HardwareInventory:
    """Look at the machine. Takes milliseconds without a GPU.

    Args:
        disk: a path on the file system whose free space matters (default: the working directory).
        proc, cgroup, device: where the kernel shows itself; tests pass trees of files.
        environ: environment, for ``CUDA_VISIBLE_DEVICES``.
    """
    unknown: dict[str, str] = {}
    limits = read_limits(proc, cgroup)
    total, free, memory_how = _memory(proc, limits, unknown)
    found = find_gpus(device, os.environ if environ is None else environ)
    if not found.known:
        unknown |= dict.fromkeys(("gpu_name", "gpu_count", "vram_total", "vram_free"), found.why)
    free_vram = [gpu.vram_free_gb for gpu in found.gpus]
    if found.known and None in free_vram:
        unknown["vram_free"] = f"{found.how} does not say how much is free"
    names = sorted({gpu.name for gpu in found.gpus})
    return HardwareInventory(
        gpu_name=", ".join(names) if names else None,
        vram_total=_rounded(sum(gpu.vram_total_gb for gpu in found.gpus)) if found.known else None,
        vram_free=_rounded(sum(value for value in free_vram if value is not None)) if found.known and None not in free_vram else None,
        gpu_count=len(found.gpus) if found.known else None,
        ram_total=total,
        ram_free=free,
        gpus=tuple(found.gpus),
        cuda=found.cuda,
        driver=found.driver,
        interconnect=found.interconnect if len(found.gpus) > 1 else "none",
        cpu=_cpu(proc, limits),
        disk_free_gb=_disk_free(disk or Path.cwd(), unknown),
        detected_by=tuple(filter(None, (memory_how, f"cgroup v{limits.version}" if limits.version else "", found.how))),
        unknown=unknown,
    )


def peak_rss_bytes() -> int:
    """Greatest resident memory of this process so far, in bytes (since :func:`reset_peak_rss`, where that works)."""
    match = re.search(r"^VmHWM:\s+(\d+) kB", _text(PROC / "self" / "status"), re.MULTILINE)
    if match:
        return int(match.group(1)) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_rss() -> bool:
    """Start the peak anew (Linux: 5 written to ``/proc/self/clear_refs``); false where the system does not allow it."""
    try:
        (PROC / "self" / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def return_freed_blocks(threshold_bytes: int = 1 << 20) -> bool:
    """Make the C library give freed blocks of at least this size back to the system at once; false where it cannot be told.

    glibc raises its own threshold to 32 MiB as a program frees larger blocks, and keeps what is freed below it. Training on a
    CPU frees every activation of a step, of many sizes, so that nearly a second set stays resident. Giving blocks back costs a
    page fault per page when they are needed again: a few per cent of a step at long lengths, more than half of one at short
    lengths with narrow models. Source: mallopt(3), M_MMAP_THRESHOLD; figures: benchmarks/memory.
    """
    m_mmap_threshold = -3  # malloc.h
    try:
        return bool(ctypes.CDLL(None).mallopt(m_mmap_threshold, threshold_bytes))
    except (OSError, AttributeError):  # no glibc
        return False


def cgroup_peak_bytes() -> int | None:
    """Greatest memory use of this process' whole control group (children included), or None where the kernel does not
    keep it.
    """
    return read_limits().memory_peak


def _memory(proc: Path, limits: CgroupLimits, unknown: dict[str, str]) -> tuple[float | None, float | None, str]:
    text = _text(proc / "meminfo")
    fields = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    total, free, how = fields.get("MemTotal"), fields.get("MemAvailable"), "procfs"
    if total is None:
        total, free, how = _memory_by_psutil()
    if limits.memory_limit is not None:
        total = min(total, limits.memory_limit) if total is not None else limits.memory_limit
    if limits.memory_headroom is not None and free is not None:
        free = min(free, limits.memory_headroom)
    if total is None:
        unknown["ram_total"] = "neither /proc/meminfo nor psutil gives it"
    if free is None:
        unknown["ram_free"] = "neither /proc/meminfo nor psutil gives it"
    return _gib(total), _gib(free), how


def _memory_by_psutil() -> tuple[int | None, int | None, str]:
    try:
        import psutil
    except ImportError:
        return None, None, ""
    state = psutil.virtual_memory()
    return int(state.total), int(state.available), "psutil"


def _cpu(proc: Path, limits: CgroupLimits) -> Cpu:
    logical = os.cpu_count() or 1
    usable = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical)
    if limits.cpu_quota is not None:
        usable = min(usable, limits.cpu_quota)
    named = re.search(r"^model name\s*:\s*(.+)$", _text(proc / "cpuinfo"), re.MULTILINE)
    return Cpu(
        model=named.group(1).strip() if named else platform.processor() or None,
        logical=logical,
        usable=round(usable, 2),
    )


def _disk_free(path: Path, unknown: dict[str, str]) -> float | None:
    existing = next((place for place in (path, *path.absolute().parents) if place.exists()), Path("/"))
    try:
        return _gib(shutil.disk_usage(existing).free)
    except OSError as error:
        unknown["disk_free_gb"] = f"{existing}: {error.strerror}"
        return None


def _gib(value: int | None) -> float | None:
    return None if value is None else _rounded(value / GIB)


def _rounded(value: float) -> float:
    return round(value, 3)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
