"""The machine as a recipe names it: memory, chip, system, program. (specs/autotune.md, 9.2 and D24)"""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import modelwright

GIB = 1 << 30
OS_RELEASE = Path("/etc/os-release")
_WITH_ACCELERATOR = frozenset({"transformers", "llamacpp", "vllm"})
"""Engines that use a GPU where there is one."""


@dataclass(frozen=True)
class Machine:
    """ram_gb: GiB, rounded to the nearest. chip: the processor, and ` + ` the accelerator that the engine uses."""

    ram_gb: int
    chip: str
    os_version: str
    binary_version: str


def this_machine(engine: str | None) -> Machine:
    """Look at the machine. engine: decides whether an accelerator counts; None for no engine."""
    import psutil

    return Machine(
        ram_gb=round(psutil.virtual_memory().total / GIB),
        chip=_chip(engine),
        os_version=_os_version(),
        binary_version=modelwright.__version__,
    )


def _chip(engine: str | None) -> str:
    from modelwright.hardware import inventory

    if sys.platform == "darwin":
        return _told("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or "unknown"
    found = inventory()
    chip = found.cpu.model or platform.machine() or "unknown"
    return f"{chip} + {found.gpu_name}" if engine in _WITH_ACCELERATOR and found.gpu_count and found.gpu_name else chip


def _os_version(release: Path = OS_RELEASE) -> str:
    if sys.platform == "darwin":
        return f"macOS {_told('sw_vers', '-productVersion') or platform.mac_ver()[0]}"
    try:
        for line in release.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition("=")
            if name.strip() == "PRETTY_NAME":
                return value.strip().strip("\"'")
    except OSError:
        return platform.platform()
    return platform.platform()


def _told(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
