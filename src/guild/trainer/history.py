"""`logs/run_history.jsonl`: one line for each file that was trained or tried. (specs/guild.md 2.1.1)"""

from __future__ import annotations

from typing import Any

from guild.places import Places
from guild.training.gpu_memory import peak_gb
from guild.training.interface import TrainerConfig, TrainingResult
from modelwright.clock import Clock, stamp
from modelwright.files import JsonlAppender, make_folder, read_jsonl

NAME = "run_history.jsonl"
TAIL_BYTES = 200_000
"""How far back a look at the history goes: some hundred files."""


def append_run_history(
    places: Places, dataset: str, samples: int, result: TrainingResult, config: TrainerConfig, clock: Clock
) -> dict[str, Any]:
    """Append the line and return it; what is not known is null. max_length_config and observed_max_tokens in tokens, gpu_peak_alloc_gb the
    file's own peak in 10^9 bytes."""
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
        "gpu_peak_alloc_gb": peak_gb(),
        "error_type": result.error_type or None,
        "campaign": f"{config.environment.hero_id}/{config.environment.campaign_id}",
    }
    make_folder(places.logs)
    with JsonlAppender(places.logs / NAME) as history:
        history.append(line)
    return line


def lines_like(places: Places, line: dict[str, Any]) -> list[dict[str, Any]]:
    """The newest lines of the same campaign and the same longest row, oldest first; those of earlier versions, which name no campaign, are
    left out. Raises StorageError."""
    path = places.logs / NAME
    size = path.stat().st_size if path.exists() else 0
    found = read_jsonl(path, offset=max(0, size - TAIL_BYTES), missing_ok=True).records  # a line cut by the offset reads as damage
    same = ("campaign", "max_length_config")
    return [one for one in found if all(one.get(name) == line[name] for name in same) and isinstance(one.get("batch_size"), int)]
