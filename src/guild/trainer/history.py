"""`logs/run_history.jsonl`: one line for each file that was trained or tried. (specs/guild.md 2.1.1)"""

from __future__ import annotations

import sys

from guild.places import Places
from guild.training.interface import TrainerConfig, TrainingResult
from modelwright.clock import Clock, stamp
from modelwright.files import JsonlAppender, make_folder


def append_run_history(places: Places, dataset: str, samples: int, result: TrainingResult, config: TrainerConfig, clock: Clock) -> None:
    """Append the line; what is not known is null. max_length_config and observed_max_tokens in tokens."""
    hyper = config.hyperparams
    line = {
        "timestamp": stamp(clock.now()),
        "dataset": dataset,
        "samples": samples,
        "success": result.success,
        "outcome": result.outcome,
        "runtime_sec": round(result.runtime_sec, 3),
        "batch_size": hyper.batch_size,
        "gradient_accumulation": hyper.gradient_accumulation,
        "effective_batch": hyper.batch_size * hyper.gradient_accumulation,
        "max_length_config": hyper.max_length,
        "observed_max_tokens": result.summary.get("longest_row"),
        "tokens_per_sec_avg": result.summary.get("tokens_per_second"),
        "gpu_peak_alloc_gb": _gpu_peak(),
        "error_type": result.error_type or None,
    }
    make_folder(places.logs)
    with JsonlAppender(places.logs / "run_history.jsonl") as history:
        history.append(line)


def _gpu_peak() -> float | None:
    """Peak allocation of this process in 10^9 bytes; None without a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return round(torch.cuda.max_memory_allocated() / 1e9, 3)
