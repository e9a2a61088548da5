"""Limits are read from trees of real files laid out as the kernel lays them out."""

from __future__ import annotations

from pathlib import Path

from modelwright.cgroup import read_limits

MIB = 1 << 20


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_version_2_takes_the_tightest_level(tmp_path: Path) -> None:
    proc = write(tmp_path / "proc", {"self/cgroup": "0::/slice/job\n"})
    cgroup = write(
        tmp_path / "cgroup",
        {
            "cgroup.controllers": "cpu memory\n",
            "slice/memory.max": f"{900 * MIB}\n",
            "slice/memory.current": f"{500 * MIB}\n",
            "slice/memory.stat": f"anon 1\ninactive_file {100 * MIB}\n",
            "slice/cpu.max": "150000 100000\n",
            "slice/job/memory.max": "max\n",
            "slice/job/memory.current": "7\n",
            "slice/job/memory.peak": f"{321 * MIB}\n",
            "slice/job/cpu.max": "max 100000\n",
        },
    )
    limits = read_limits(proc, cgroup)
    assert limits.version == 2
    assert limits.memory_limit == 900 * MIB
    assert limits.memory_headroom == 500 * MIB  # 900 - 500 + 100 that the kernel can drop
    assert limits.cpu_quota == 1.5
    assert limits.memory_peak == 321 * MIB


def test_a_group_that_the_mount_does_not_show_means_the_root(tmp_path: Path) -> None:
    proc = write(tmp_path / "proc", {"self/cgroup": "0::/../../elsewhere\n"})
    cgroup = write(tmp_path / "cgroup", {"cgroup.controllers": "", "memory.max": "1000\n", "memory.current": "400\n"})
    limits = read_limits(proc, cgroup)
    assert (limits.memory_limit, limits.memory_headroom, limits.cpu_quota) == (1000, 600, None)


def test_version_1_ignores_the_number_that_means_no_limit(tmp_path: Path) -> None:
    proc = write(tmp_path / "proc", {"self/cgroup": "5:memory:/box\n4:cpu,cpuacct:/box\n"})
    cgroup = write(
        tmp_path / "cgroup",
        {
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/box/memory.limit_in_bytes": f"{64 * MIB}\n",
            "memory/box/memory.usage_in_bytes": f"{60 * MIB}\n",
            "memory/box/memory.stat": f"total_inactive_file {2 * MIB}\n",
            "memory/box/memory.max_usage_in_bytes": f"{63 * MIB}\n",
            "cpu/cpu.cfs_quota_us": "-1\n",
            "cpu/box/cpu.cfs_quota_us": "50000\n",
            "cpu/box/cpu.cfs_period_us": "100000\n",
        },
    )
    limits = read_limits(proc, cgroup)
    assert limits.version == 1
    assert (limits.memory_limit, limits.memory_headroom) == (64 * MIB, 6 * MIB)
    assert (limits.cpu_quota, limits.memory_peak) == (0.5, 63 * MIB)


def test_no_control_groups_and_torn_files_limit_nothing(tmp_path: Path) -> None:
    assert read_limits(tmp_path, tmp_path / "none").version == 0
    cgroup = write(tmp_path / "cgroup", {"cgroup.controllers": "", "memory.max": "", "cpu.max": "x y z"})
    limits = read_limits(tmp_path, cgroup)
    assert (limits.memory_limit, limits.memory_headroom, limits.cpu_quota) == (None, None, None)
