"""What the control groups of this process allow: memory, processor time and peak use, for cgroup v2 and v1.

A container's limit is what counts, not the host's size. Every level from this process' group up to the root is looked
at, because a parent may be tighter. Paths are parameters so that tests can lay out a tree of real files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")
NO_LIMIT = 1 << 60  # v1 writes a number near 2^63 where there is no limit


@dataclass(frozen=True)
class CgroupLimits:
    """Limits in bytes and processors; None where nothing limits. ``version`` is 0 when there are no control groups."""

    version: int
    memory_limit: int | None
    memory_headroom: int | None
    cpu_quota: float | None
    memory_peak: int | None


def read_limits(proc: Path = PROC, cgroup: Path = CGROUP) -> CgroupLimits:
    """Read the limits of the calling process. Never raises: what cannot be read limits nothing."""
    unified, controllers = _membership(proc)
    if (cgroup / "cgroup.controllers").is_file():
        levels = list(_levels(cgroup, unified or "/"))
        return CgroupLimits(2, *_memory_v2(levels), _quota_v2(levels), _number(levels[0] / "memory.peak"))
    memory_root, cpu_root = cgroup / "memory", _first_existing(cgroup / "cpu", cgroup / "cpu,cpuacct")
    if memory_root.is_dir() or cpu_root is not None:
        memory_levels = list(_levels(memory_root, controllers.get("memory", "/")))
        cpu_levels = list(_levels(cpu_root, controllers.get("cpu", "/"))) if cpu_root is not None else []
        peak = _number(memory_levels[0] / "memory.max_usage_in_bytes")
        return CgroupLimits(1, *_memory_v1(memory_levels), _quota_v1(cpu_levels), peak)
    return CgroupLimits(0, None, None, None, None)


def _membership(proc: Path) -> tuple[str | None, dict[str, str]]:
    """This process' group in the unified hierarchy, and per v1 controller."""
    unified: str | None = None
    controllers: dict[str, str] = {}
    for line in _text(proc / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            unified = path
        for name in filter(None, names.split(",")):
            controllers[name] = path
    return unified, controllers


def _levels(root: Path, group: str) -> Iterator[Path]:
    """The group's directory and its parents up to the root. A path the mount does not show (no own namespace) means
    the root alone.
    """
    parts = [part for part in group.split("/") if part not in ("", "..", ".")]
    shown = root.joinpath(*parts)
    if not shown.is_dir():
        yield root
        return
    while shown != root:
        yield shown
        shown = shown.parent
    yield root


def _memory_v2(levels: list[Path]) -> tuple[int | None, int | None]:
    limits, rooms = [], []
    for level in levels:
        limit, used = _number(level / "memory.max"), _number(level / "memory.current")
        if limit is None:
            continue
        limits.append(limit)
        if used is not None:
            rooms.append(max(0, limit - used + _statistic(level / "memory.stat", "inactive_file")))
    return min(limits, default=None), min(rooms, default=None)


def _memory_v1(levels: list[Path]) -> tuple[int | None, int | None]:
    limits, rooms = [], []
    for level in levels:
        limit, used = _number(level / "memory.limit_in_bytes"), _number(level / "memory.usage_in_bytes")
        if limit is None or limit >= NO_LIMIT:
            continue
        limits.append(limit)
        if used is not None:
            rooms.append(max(0, limit - used + _statistic(level / "memory.stat", "total_inactive_file")))
    return min(limits, default=None), min(rooms, default=None)


def _quota_v2(levels: list[Path]) -> float | None:
    quotas = []
    for level in levels:
        quota, _, period = _text(level / "cpu.max").partition(" ")
        if quota.isdigit() and period.strip().isdigit() and int(period) > 0:
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def _quota_v1(levels: list[Path]) -> float | None:
    quotas = []
    for level in levels:
        quota, period = _number(level / "cpu.cfs_quota_us"), _number(level / "cpu.cfs_period_us")
        if quota is not None and period and quota > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def _first_existing(*paths: Path) -> Path | None:
    return next((path for path in paths if path.is_dir()), None)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _statistic(path: Path, name: str) -> int:
    for line in _text(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdigit():
            return int(value)
    return 0
