"""A whole job that runs in seconds: a one-layer random Llama, a few documents, three rungs of a few steps."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from helpers.tiny_random import random_llama, save_model

BASE_CONTEXT = 512
LENGTHS = (512, 1024, 2048)
WORDS = "amber birch cedar dune ember fjord grove heron inlet juniper kelp lagoon maple north ochre pine quartz reef".split()  # noqa: SIM905
CONTRACT = {
    "version": "1.0.0",
    "authorized_by": "A. Tester",
    "approved_at": "2026-01-01T00:00:00Z",
    "session_id": "test-session",
    "scope": {"max_context": 2048},
    "rollback_plan": "phase_0",
    "signoff": "I accept responsibility for this run",
}


def write_model(folder: Path, **overrides: Any) -> Path:
    """A random Llama with a window of 512 tokens and the byte tokenizer."""
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    return save_model(folder, random_llama(max_position_embeddings=BASE_CONTEXT, **{**shape, **overrides}))


def write_text(path: Path, documents: int = 24, seed: int = 0) -> Path:
    """Rows of plain text, 400 to 3,000 characters each, as JSON lines."""
    rng = random.Random(seed)
    rows = [{"text": " ".join(rng.choice(WORDS) for _ in range(rng.randint(70, 500)))} for _ in range(documents)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def small_job(root: Path, name: str = "run", **sections: dict[str, Any]) -> dict[str, Any]:
    """A job document over a model and a dataset below `root`, which are made when they are not there yet.

    Keyword arguments are sections whose values replace the ones here (`training={"steps_per_rung": 2}`).
    """
    model, data = root / "model", root / "data.jsonl"
    if not model.exists():
        write_model(model)
        write_text(data)
    job: dict[str, Any] = {
        "model": {"base_model": str(model), "runtime": "cpu"},
        "scaling": {
            "target_context": LENGTHS[-1],
            "adaptive_rank": False,  # the adaptive rule follows free memory, and these runs are compared bit for bit
            "lora_rank": 4,
            "lora_alpha": 8,
            "lora_dropout": 0.1,
            "context_method": "yarn",
            "template": "balanced_scaling",
            "train_embeddings": "on",
        },
        "dataset": {"source": "local_upload", "identifier": str(data)},
        "safety": {
            "circuit_breaker": {"min_accuracy": 0.0, "window_steps": 5, "max_perplexity_delta": 1e9},
            "telemetry": {"profile": "high_resolution"},
        },
        "contract": dict(CONTRACT),
        "training": {"steps_per_rung": 4, "learning_rate": 1e-3, "micro_batch_size": 1, "batch_tokens": 512, "save_every": 2},
        "evaluation": {"probe_samples": 1, "eval_every": 2, "eval_tokens": 2048},
        "seed": 7,
        "output_dir": str(root / name),
    }
    for section, values in sections.items():
        job[section] = {**job.get(section, {}), **values}
    return job


def write_job(root: Path, name: str = "run", **sections: dict[str, Any]) -> Path:
    """The same as a file, for `--config`."""
    path = root / f"{name}.job.json"
    path.write_text(json.dumps(small_job(root, name, **sections)), encoding="utf-8")
    return path
