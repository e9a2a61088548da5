"""The memory plan of a job: a forecast per rung from the kernel's estimator, against what this machine has free. No torch."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

from modelwright.memory import MemoryForecast, MemoryRequest, forecast, suggest
from modelwright.model_shape import ModelShape
from scaler_wizard.adaptive_scaling import HardwareProfile
from scaler_wizard.resolved import ResolvedJob, RungPlan

GIB = 1 << 30
COMFORTABLE = 0.8  # of free memory: below it nothing is given up for memory
RUNTIME_BYTES = GIB // 2  # Python, PyTorch, transformers and PEFT on a CPU before a model is loaded, as measured


def planning_profile(runtime: str, hardware: HardwareProfile) -> HardwareProfile:
    """The profile to plan with: a machine without GPU when the run is to stay on the CPU."""
    return replace(hardware, gpu_count=0) if runtime == "cpu" else hardware


def compute_format(job: ResolvedJob, hardware: HardwareProfile) -> str:
    """`bfloat16` or `float32`: what was asked for, else bfloat16 on a GPU and float32 on a CPU (where bf16 can be very slow)."""
    if job.training.precision != "auto":
        return {"fp32": "float32", "bf16": "bfloat16"}[job.training.precision]
    return "float32" if planning_profile(job.model.runtime, hardware).gpu_count <= 0 else "bfloat16"


def memory_request(job: ResolvedJob, rung: RungPlan, hardware: HardwareProfile, runtime_bytes: int = RUNTIME_BYTES) -> MemoryRequest:
    """What one rung asks of the memory, computed the way the run will do it.

    Where memory would be tight, first freed blocks go back to the system (CPU), then, if that is left to `auto`, blocks are
    recomputed in the backward pass; the run as a whole does what its hungriest rung needs. `runtime_bytes` is what the
    process holds before the model; it counts on a CPU.
    """
    hungriest = max(job.rungs, key=lambda other: other.length * other.micro_batch_size)
    cpu = planning_profile(job.model.runtime, hardware).gpu_count <= 0
    comfortable = int(COMFORTABLE * hardware.free_gb * GIB)
    again = {"on": (True,), "off": (False,), "auto": (False, True)}[job.training.gradient_checkpointing]
    settings: dict[str, Any] = {}
    for recomputed, kept in product(again, (True, False) if cpu else (False,)):  # the fastest first
        settings = {"checkpointing": recomputed, "keeps_freed": kept, "runtime_bytes": runtime_bytes if cpu else 0}
        if forecast(replace(_plain_request(job, hungriest, hardware), **settings)).fits(comfortable):
            break
    return replace(_plain_request(job, rung, hardware), **settings)


def _plain_request(job: ResolvedJob, rung: RungPlan, hardware: HardwareProfile) -> MemoryRequest:
    compute = compute_format(job, hardware)
    trained = job.scaling.train_embeddings
    return MemoryRequest(
        shape=ModelShape.from_config(job.model_config),
        length=rung.length,
        batch=rung.micro_batch_size,
        weight_format="nf4" if job.scaling.use_qlora else compute,  # type: ignore[arg-type]
        compute_format=compute,  # type: ignore[arg-type]
        lora_rank=job.scaling.lora_rank,
        train_embeddings=trained,
        train_norms=trained,
        loss_chunk=job.training.loss_chunk,
        parameters=job.base_params or None,
    )


def rung_forecast(job: ResolvedJob, rung: RungPlan, hardware: HardwareProfile) -> MemoryForecast:
    """Predicted peak of one rung."""
    return forecast(memory_request(job, rung, hardware))


def memory_plan(job: ResolvedJob, hardware: HardwareProfile) -> dict[str, Any]:
    """The `memory_plan` of hardware.json and plan.json: one entry per rung, the limit, whether all fit, and what would help.

    `smallest_change` is the first change the estimator names for the longest rung that does not fit, or None.
    """
    hardware = planning_profile(job.model.runtime, hardware)
    limit = int(hardware.free_gb * GIB)
    entries = []
    failing: RungPlan | None = None
    for rung in job.rungs:
        predicted = rung_forecast(job, rung, hardware)
        fits = predicted.fits(limit)
        failing = failing if fits else rung
        entries.append({"length": rung.length, "fits": fits, **predicted.as_dict()})
    change = None
    if failing is not None:
        options = suggest(memory_request(job, failing, hardware), limit)
        change = options[0].change if options else None
    return {
        "device": "cpu" if hardware.gpu_count <= 0 else "gpu",
        "compute_format": compute_format(job, hardware),
        "limit_gib": round(limit / GIB, 3),
        "fits": failing is None,
        "rungs": entries,
        "smallest_change": change,
    }


def shortfall_sentence(plan: dict[str, Any]) -> str:
    """What is missing and what to do, for a plan that does not fit."""
    worst = max(plan["rungs"], key=lambda entry: entry["total_bytes"])
    advice = plan["smallest_change"] or "use a smaller model or a machine with more memory"
    kind = "available RAM" if plan["device"] == "cpu" else "free VRAM"
    return (
        f"The rung of {worst['length']} tokens needs about {worst['total_gib']:.2f} GiB and {plan['limit_gib']:.2f} GiB of "
        f"{kind} is there; smallest change that fits: {advice}."
    )
