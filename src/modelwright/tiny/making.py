"""From a recipe to a finished model folder: train, save, load what was saved, measure it, write figures and card."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelwright.files import make_folder, sha256_file, write_json, write_text
from modelwright.precision import choose_matmul_precision
from modelwright.tiny import tiny_model_path, training
from modelwright.tiny.card import render_card
from modelwright.tiny.recipe import Recipe

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

WORK_FOLDER = ".training"


def make(
    recipe: Recipe,
    prepared: training.Prepared,
    seed: int,
    out: Path,
    *,
    resume: bool = False,
    report: Callable[[training.Progress], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train `recipe` and fill the folder `out` with a model that plain transformers loads; returns its figures.

    The checkpoint lies in `out/.training` until the folder is complete. Raises what `training.train` raises.
    """
    import torch

    precision = choose_matmul_precision()
    work = make_folder(out / WORK_FOLDER)
    seconds_before = _seconds_spent(work) if resume else 0.0
    started = time.monotonic()

    def reporting(progress: training.Progress) -> None:
        write_json(work / "time.json", {"seconds": seconds_before + time.monotonic() - started}, durable=False)
        if report is not None:
            report(progress)

    model = training.train(recipe, prepared, seed, work, resume=resume, report=reporting)
    seconds = seconds_before + time.monotonic() - started
    say(f"saving to {out}")
    save(model, prepared.tokenizer, out)
    facts = {
        "name": recipe.name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "recipe": asdict(recipe),
        "seed": seed,
        "steps": recipe.steps,
        "tokens": recipe.tokens,
        "train_seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "matmul_precision": precision.as_dict(),
    }
    if recipe.grown_from is not None:
        facts["grown_from_sha256"] = sha256_file(tiny_model_path(recipe.grown_from) / "model.safetensors")
    figures = finish(out, prepared, facts, say)
    for leftover in work.iterdir():
        leftover.unlink()
    work.rmdir()
    return figures


def finish(out: Path, prepared: training.Prepared, facts: dict[str, Any], say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Load the saved model as a user would, measure it and write `figures.json` and the card beside it."""
    import torch
    import transformers

    from modelwright.tiny.evaluation import measure

    model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    corpus = prepared.corpus
    figures = {
        **facts,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "data": {
            "interpreter": corpus.interpreter,
            "digest": corpus.digest,
            "train_files": len(corpus.train),
            "train_bytes": corpus.train_bytes,
            "held_out_files": len(corpus.held_out),
            "held_out_bytes": corpus.held_out_bytes,
        },
        "weights_sha256": sha256_file(out / "model.safetensors"),
        "measured": measure(model, tokenizer, corpus, say),
    }
    write_json(out / "figures.json", figures)
    write_text(out / "README.md", render_card(json.loads((out / "figures.json").read_text(encoding="utf-8"))))
    return figures


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write config, generation config, tokenizer and bfloat16 weights; the weights of `model` itself are rounded to
    bfloat16.

    `config.json` names float32 as the type to compute in: transformers then widens the stored weights on loading.
    """
    import torch

    model.generation_config.do_sample = False
    model.generation_config.max_new_tokens = 64
    model.to(torch.bfloat16).save_pretrained(out)
    model.to(torch.float32)
    tokenizer.save_pretrained(out)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    write_json(out / "config.json", {**config, "dtype": "float32"})


def _seconds_spent(work: Path) -> float:
    path = work / "time.json"
    return float(json.loads(path.read_text(encoding="utf-8"))["seconds"]) if path.exists() else 0.0
