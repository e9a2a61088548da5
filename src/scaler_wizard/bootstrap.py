"""Step 2: look at the machine, decide how to compute, and make sure that the plan fits before anything is loaded.

Arithmetic choices (device, number format, matmul precision, threads) are written to `arithmetic.json` and kept when a
run is
resumed: the same sums in another order would not be the same run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modelwright.errors import MissingFileError
from modelwright.files import read_json, write_json
from modelwright.hardware import HardwareInventory, inventory, peak_rss_bytes, reset_peak_rss, return_freed_blocks
from modelwright.memory import MemoryForecast, MemoryRequest, forecast
from scaler_wizard.adaptive_scaling import HardwareProfile
from scaler_wizard.memory_plan import memory_plan, memory_request, shortfall_sentence
from scaler_wizard.outcomes import HardwareShortfall
from scaler_wizard.profile_recommender import profile_of
from scaler_wizard.resolved import ResolvedJob

ARITHMETIC_FILE = "arithmetic.json"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arithmetic:
    """How sums are done. `weights` and `compute` are number formats; `matmul` is torch's fp32 precision, `reason`
    why.
    """

    device: str  # cpu | cuda
    weights: str  # float32 | bfloat16
    bf16: bool  # autocast to bfloat16
    matmul: str
    threads: int
    reason: str = ""


@dataclass(frozen=True)
class Runtime:
    """The machine and how it will be used."""

    hardware: HardwareInventory
    profile: HardwareProfile
    arithmetic: Arithmetic
    forecast: MemoryForecast

    @property
    def checkpointing(self) -> bool:
        """Whether blocks are recomputed in the backward pass."""
        return self.forecast.request.checkpointing

    @property
    def device(self) -> str:
        return self.arithmetic.device

    @property
    def cpu(self) -> bool:
        return self.device == "cpu"


def bootstrap(job: ResolvedJob, run_path: Path) -> Runtime:
    """Inventory, arithmetic and memory plan of this run; writes `hardware.json` and `arithmetic.json`.

    Raises HardwareShortfall (exit 4) when the device that was named is absent or the plan does not fit, with the
    estimate and the smallest change that would fit.
    """
    quiet_libraries()
    hardware = inventory(disk=run_path)
    profile = profile_of(hardware)
    plan = memory_plan(job, profile)
    write_json(run_path / "hardware.json", {**hardware.model_dump(mode="json"), "memory_plan": plan})
    if not plan["fits"]:
        raise HardwareShortfall(shortfall_sentence(plan))
    arithmetic = settle_arithmetic(job, run_path)
    predicted = forecast(hungriest_request(job, profile, peak_rss_bytes()))
    if not predicted.request.keeps_freed and arithmetic.device == "cpu":
        return_freed_blocks()
    reset_peak_rss()
    return Runtime(hardware, profile, arithmetic, predicted)


def settle_arithmetic(job: ResolvedJob, run_path: Path) -> Arithmetic:
    """Decide how to compute, or repeat what an earlier attempt of this run decided."""
    import torch

    from modelwright.precision import choose_matmul_precision

    earlier = _earlier(run_path)
    device = choose_device(job, torch.cuda.is_available())
    wanted = job.training.precision
    bf16 = wanted == "bf16" or (wanted == "auto" and device == "cuda" and torch.cuda.is_bf16_supported())
    threads = int(earlier.get("threads", torch.get_num_threads()))
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    matmul = choose_matmul_precision(recorded=earlier.get("matmul"))
    arithmetic = Arithmetic(
        device=device,
        weights="bfloat16" if bf16 and device == "cuda" else "float32",
        bf16=bf16,
        matmul=matmul.precision,
        threads=threads,
        reason=matmul.reason,
    )
    write_json(run_path / ARITHMETIC_FILE, {**asdict(arithmetic), "measured": matmul.as_dict()})
    return arithmetic


def choose_device(job: ResolvedJob, cuda: bool) -> str:
    """`cuda` or `cpu` for `model.runtime`. Raises HardwareShortfall for a GPU that is not there, or for several
    machines.
    """
    runtime = job.model.runtime
    if runtime in ("auto", "cpu"):
        return "cuda" if cuda and runtime == "auto" else "cpu"
    if not cuda:
        raise HardwareShortfall(f"model.runtime is {runtime}, but no CUDA device is visible. Use --runtime cpu or auto.")
    if runtime != "single_gpu":
        raise HardwareShortfall(f"model.runtime {runtime} is not part of this version: use single_gpu, cpu or auto.")
    return "cuda"


def hungriest_request(job: ResolvedJob, profile: HardwareProfile, held_bytes: int) -> MemoryRequest:
    """What the rung with most tokens in memory asks of the estimator, in a process that holds `held_bytes` already."""
    return memory_request(job, max(job.rungs, key=lambda rung: rung.length * rung.micro_batch_size), profile, held_bytes)


def measured_peak(device: str) -> tuple[int, str]:
    """Peak memory of this process so far in bytes, and how it was measured."""
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated()), "torch.cuda.max_memory_allocated"
    return peak_rss_bytes(), "peak resident set (VmHWM)"


def quiet_libraries() -> None:
    """Keep the bars and notices of the libraries off the terminal; errors still show."""
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    for name in ("accelerate", "peft"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _earlier(run_path: Path) -> Mapping[str, Any]:
    try:
        return dict(read_json(run_path / ARITHMETIC_FILE))
    except MissingFileError:
        return {}
