"""The inventory: cut to the control group, null with a reason where nothing is known, no torch import."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

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


FREE_BLOCKS = """
import ctypes, sys
from modelwright.hardware import peak_rss_bytes, reset_peak_rss, return_freed_blocks
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
if sys.argv[1] == "return":
    assert return_freed_blocks()
for size in (8 << 20, 24 << 20):  # freeing blocks of these sizes raises glibc's own threshold above them
    libc.free(libc.malloc(size))
blocks = []
for _ in range(16):
    blocks.append(libc.malloc(8 << 20))
    ctypes.memset(blocks[-1], 1, 8 << 20)
last = libc.malloc(8 << 20)  # keeps the end of the heap in use, so that nothing below it can be trimmed
for block in blocks:
    libc.free(block)
reset_peak_rss()
print(peak_rss_bytes() >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed blocks this way")
def test_freed_blocks_go_back_to_the_system() -> None:
    held = {}
    for way in ("keep", "return"):
        done = subprocess.run([sys.executable, "-c", FREE_BLOCKS, way], capture_output=True, text=True, check=True)
        held[way] = int(done.stdout)
    assert held["keep"] - held["return"] >= 100  # MiB, of the 128 that were freed
