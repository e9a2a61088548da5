"""The inventory: cut to the control group, null with a reason where nothing is known, no torch import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from modelwright.hardware import inventory, peak_rss_bytes, reset_peak_rss

SPEC_FIELDS = {
    "gpu_name", "vram_total", "vram_free", "gpu_count", "ram_total", "ram_free", "gpus", "cuda", "driver", "interconnect", "cpu",
    "disk_free_gb", "detected_by",
}  # fmt: skip
MEMINFO = "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\n"


def machine(tmp_path: Path, **cgroup: str) -> dict[str, Path]:
    proc, groups, device = tmp_path / "proc", tmp_path / "cgroup", tmp_path / "dev"
    for folder in (proc / "self", groups, device):
        folder.mkdir(parents=True)
    (proc / "meminfo").write_text(MEMINFO)
    (proc / "cpuinfo").write_text("processor : 0\nmodel name\t: Test CPU 9000\n")
    (proc / "self" / "cgroup").write_text("0::/\n")
    for name, text in cgroup.items():
        (groups / name.replace("__", ".")).write_text(text)
    return {"proc": proc, "cgroup": groups, "device": device}


def test_a_machine_without_gpu_is_normal(tmp_path: Path) -> None:
    found = inventory(tmp_path, **machine(tmp_path), environ={})
    assert (found.gpu_count, found.gpu_name, found.vram_total, found.vram_free) == (0, None, 0.0, 0.0)
    assert (found.ram_total, found.ram_free) == (16.0, 8.0)
    assert found.cpu.model == "Test CPU 9000" and found.cpu.usable >= 1
    assert found.interconnect == "none" and found.unknown == {}
    assert found.disk_free_gb is not None and found.detected_by == ("procfs",)
    assert set(found.model_dump()) >= SPEC_FIELDS


def test_the_control_group_is_what_counts(tmp_path: Path) -> None:
    parts = machine(
        tmp_path,
        cgroup__controllers="memory cpu",
        memory__max=str(4 << 30),
        memory__current=str(3 << 30),
        cpu__max="50000 100000",
    )
    found = inventory(tmp_path, **parts, environ={})
    assert (found.ram_total, found.ram_free, found.cpu.usable) == (4.0, 1.0, 0.5)
    assert "cgroup v2" in found.detected_by


def test_what_is_not_found_is_null_with_a_reason(tmp_path: Path) -> None:
    parts = machine(tmp_path)
    (parts["device"] / "kfd").touch()
    found = inventory(tmp_path / "not" / "yet" / "there", **parts, environ={})
    assert (found.gpu_count, found.gpu_name, found.vram_total, found.vram_free) == (None, None, None, None)
    assert set(found.unknown) == {"gpu_count", "gpu_name", "vram_total", "vram_free"}
    assert found.disk_free_gb is not None  # of the file system where the folder would be made


def test_this_machine_and_no_torch() -> None:
    script = "import sys; from modelwright.hardware import inventory; print(inventory().ram_total); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0.1


def test_the_peak_follows_what_is_used() -> None:
    reset_peak_rss()
    before = peak_rss_bytes()
    block = bytearray(64 << 20)
    block[::4096] = b"x" * len(block[::4096])
    assert peak_rss_bytes() >= before + (48 << 20)
    del block
    if reset_peak_rss():
        assert peak_rss_bytes() < before + (32 << 20)
