"""GPUs this process may use: NVML when ``nvidia-ml-py`` is installed, else ``nvidia-smi``, else torch if it is loaded
already.

torch is never imported for this. A machine without a GPU device is *known* to have none; a device that nobody can read
is *not known*, and the reason says what was tried.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

GIB = 1 << 30
SMI_FIELDS = "index,uuid,name,memory.total,memory.free,compute_cap,driver_version"


class Gpu(BaseModel):
    """One GPU this process may use."""

    model_config = ConfigDict(frozen=True)

    name: str
    vram_total_gb: float
    vram_free_gb: float | None
    compute_capability: str | None


@dataclass
class GpuFindings:
    """What one way of looking found. ``known`` is false when there are devices but nobody could read them."""

    known: bool
    gpus: list[Gpu] = field(default_factory=list)
    cuda: str | None = None
    driver: str | None = None
    interconnect: str | None = None
    how: str = ""
    why: str = ""


def find_gpus(device: Path, environ: Mapping[str, str]) -> GpuFindings:
    """NVML, nvidia-smi, torch, in this order; a machine without any GPU device is known to have none."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if not (device / "nvidiactl").exists() and not (device / "nvidia0").exists() and not (device / "dxg").exists():
        if (device / "kfd").exists():
            return GpuFindings(known=False, why="an AMD GPU device is present; reading AMD GPUs is not built in")
        if sys.platform == "darwin":
            return GpuFindings(known=False, why="macOS: the GPU shares the machine's memory and is not read")
        return GpuFindings(known=True)
    if visible is not None and visible.strip() in ("", "-1"):
        return GpuFindings(known=True, how="CUDA_VISIBLE_DEVICES hides every GPU")
    reasons: list[str] = []
    for look in (_by_nvml, _by_smi, _by_torch):
        found = look(visible)
        if found.known:
            return found
        reasons.append(found.why)
    return GpuFindings(known=False, why="an NVIDIA device is present but unreadable: " + "; ".join(reasons))


def _by_nvml(visible: str | None) -> GpuFindings:
    try:
        import pynvml
    except ImportError:
        return GpuFindings(known=False, why="nvidia-ml-py is not installed")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return GpuFindings(known=False, why=f"the NVIDIA library does not start ({error})")
    try:
        gpus, linked = [], []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            if not _is_visible(visible, index, _plain(pynvml.nvmlDeviceGetUUID(handle))):
                continue
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
            name = _plain(pynvml.nvmlDeviceGetName(handle))
            gpus.append(_gpu(name, int(memory.total), int(memory.free), f"{major}.{minor}"))
            linked.append(_has_nvlink(pynvml, handle))
        version = int(pynvml.nvmlSystemGetCudaDriverVersion())
        driver = _plain(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError as error:
        return GpuFindings(known=False, why=f"the NVIDIA library answers with an error ({error})")
    finally:
        pynvml.nvmlShutdown()
    cuda = f"{version // 1000}.{version % 1000 // 10}"
    return GpuFindings(True, gpus, cuda, driver, "nvlink" if all(linked) else "pcie", "nvml")


def _has_nvlink(pynvml: Any, handle: Any) -> bool:
    try:
        return any(pynvml.nvmlDeviceGetNvLinkState(handle, link) for link in range(pynvml.NVML_NVLINK_MAX_LINKS))
    except pynvml.NVMLError:
        return False  # the card has no such links


def _by_smi(visible: str | None) -> GpuFindings:
    command = ["nvidia-smi", f"--query-gpu={SMI_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return GpuFindings(known=False, why=f"nvidia-smi does not run ({error})")
    if answer.returncode != 0:
        return GpuFindings(known=False, why=f"nvidia-smi ends with {answer.returncode}")
    gpus, driver = [], None
    for line in answer.stdout.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 7 and cells[3].isdigit() and _is_visible(visible, int(cells[0]), cells[1]):
            free = int(cells[4]) << 20 if cells[4].isdigit() else None
            gpus.append(_gpu(cells[2], int(cells[3]) << 20, free, cells[5]))
            driver = cells[6]
    return GpuFindings(True, gpus, None, driver, None, "nvidia-smi")


def _by_torch(visible: str | None) -> GpuFindings:
    torch = sys.modules.get("torch")
    if torch is None:
        return GpuFindings(known=False, why="torch is not loaded in this process")
    if not torch.cuda.is_available():
        return GpuFindings(known=False, why="torch sees no CUDA device")
    gpus = []
    for index in range(torch.cuda.device_count()):  # torch applies CUDA_VISIBLE_DEVICES itself
        facts = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        gpus.append(_gpu(facts.name, int(total), int(free), f"{facts.major}.{facts.minor}"))
    return GpuFindings(True, gpus, torch.version.cuda, None, None, "torch")


def _is_visible(visible: str | None, index: int, uuid: str) -> bool:
    """Whether ``CUDA_VISIBLE_DEVICES`` (indices or UUID prefixes) lets this process use a GPU."""
    if visible is None:
        return True
    names = [name.strip() for name in visible.split(",")]
    return any(name == str(index) or (name.startswith("GPU-") and uuid.startswith(name)) for name in names)


def _gpu(name: str, total: int, free: int | None, capability: str | None) -> Gpu:
    return Gpu(
        name=name,
        vram_total_gb=round(total / GIB, 3),
        vram_free_gb=None if free is None else round(free / GIB, 3),
        compute_capability=capability,
    )


def _plain(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
