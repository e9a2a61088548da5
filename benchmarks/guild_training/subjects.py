"""What is trained: models of random weights in the shapes of Qwen3, rows of our own generator, and heroes with the low-memory recipe.

The tokenizer is the packaged tiny one; the embedding has the real vocabulary's rows, so memory and arithmetic are those of the real model.
Nothing is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guild.places import Places
from modelwright.files import make_folder, read_yaml, write_json, write_text
from modelwright.model_shape import ModelShape

RECIPE_HERO = "titan-qwen3-4b"
RECIPE_STEPS = 5
QWEN3 = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 151936,
    "head_dim": 128,
    "num_key_value_heads": 8,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
}


@dataclass(frozen=True)
class Size:
    """What a size means. body: of `config.json`. precision, max_length (tokens), accumulation (windows of one step), learning_rate
    (AdamW's), rows: of the optimizers' runs. recipe_rows: of the recipe's file, enough for its steps."""

    name: str
    body: dict[str, Any]
    precision: str
    max_length: int
    accumulation: int
    learning_rate: float
    rows: int = 200
    recipe_rows: int = 1200

    @property
    def shape(self) -> ModelShape:
        return ModelShape.from_config(self.body)


SIZES = {
    "tiny": Size(
        "tiny",
        QWEN3
        | {
            "vocab_size": 1024,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 1024,
        },
        "fp32",
        256,
        12,
        4e-3,
    ),
    "0.6b": Size(
        "0.6b",
        QWEN3 | {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
        "bf16_mixed",
        512,
        4,
        4e-4,
    ),
    "4b": Size(
        "4b",
        QWEN3 | {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
        "bf16",
        512,
        4,
        2e-4,
    ),
}


@dataclass(frozen=True)
class Subjects:
    """What lies in the scratch folder, ready to be trained. house: the guild's, with the model under `models/`."""

    size: str
    root: str

    @property
    def house(self) -> Places:
        return Places(Path(self.root) / "house")

    @property
    def model(self) -> Path:
        return self.house.models / model_name(self.size)

    @property
    def rows(self) -> Path:
        return Path(self.root) / "rows.jsonl"

    @property
    def recipe_rows(self) -> Path:
        return Path(self.root) / "recipe_rows.jsonl"


def model_name(size: str) -> str:
    """The last part of the base model's name, by which a house finds it."""
    return "Qwen3-4B" if size == "4b" else f"random-qwen3-{size}"


def hero_id(size: str, *, plain: bool = False) -> str:
    """The hero whose recipe is trained. plain: with what every installation has, in place of 8-bit states and fused kernels."""
    own = RECIPE_HERO if size == "4b" else f"recipe-{size}"
    return f"{own}-plain" if plain else own


def write_subjects(size: Size, root: Path, device: str, optimizers: bool, recipe: bool) -> dict[str, Any]:
    """Write model, rows and house; returns what was written, in numbers. The weights are made on the device."""
    from guild.init import initialise

    subjects = Subjects(size.name, str(root))
    places = subjects.house
    initialise(places)
    parameters = write_model(size, subjects.model, device)
    if optimizers:
        write_rows(subjects.rows, size.rows, seed=1)
    if recipe:
        write_rows(subjects.recipe_rows, size.recipe_rows, seed=2)
        write_heroes(places, size, plain_precision(device))
    return {"parameters": parameters, "model_bytes": sum(file.stat().st_size for file in subjects.model.glob("*.safetensors"))}


def write_model(size: Size, folder: Path, device: str) -> int:
    """A model of random weights in bfloat16 (float32 at tiny size) with the tiny tokenizer; returns the number of its parameters."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from modelwright.tiny import tiny_model_path

    torch.manual_seed(0)
    settings = {name: value for name, value in size.body.items() if name != "model_type"}
    config = AutoConfig.for_model(size.body["model_type"], **settings)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path("modelwright/tiny-0.4m"))
    config.eos_token_id, config.pad_token_id, config.bos_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id, None
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32 if size.precision == "fp32" else torch.bfloat16)
    model.save_pretrained(make_folder(folder))
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def write_rows(path: Path, count: int, *, seed: int, level: int = 5) -> None:
    """Chat rows of the skill BIN."""
    from guild.skills.binary.skill import BinarySkill

    lines = []
    for sample in BinarySkill().generate(level, count, seed):
        messages = [{"role": "user", "content": sample.user_prompt}, {"role": "assistant", "content": sample.assistant_response}]
        lines.append(json.dumps({"messages": messages}, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


def plain_precision(device: str) -> str:
    """Of the plain twin: a processor without instructions for bfloat16 takes a hundred times as long with it."""
    return "fp32" if device == "cpu" else "bf16"


def write_heroes(places: Places, size: Size, precision: str) -> None:
    """The shipped hero of the recipe as it is (4b), or with another model under it; and its plain twin, in that precision."""
    shipped = read_yaml(places.heroes / f"{RECIPE_HERO}.yaml")
    shape = size.shape
    if size.name != "4b":
        shipped["model"] |= {
            "hf_name": f"random/{model_name(size.name)}",
            "size_b": shape.parameters() / 1e9,
            "vocab_size": shape.vocabulary,
            "context_length": shape.context,
        }
    plain = {**shipped["training_defaults"], "precision": precision, "optimizer": "adamw", "liger_kernel": {"enabled": False}}
    for id, defaults in ((hero_id(size.name), shipped["training_defaults"]), (hero_id(size.name, plain=True), plain)):
        if id != RECIPE_HERO:
            write_json(places.heroes / f"{id}.yaml", {**shipped, "id": id, "training_defaults": defaults})


def matmul_rates(device: str, precisions: Sequence[str]) -> dict[str, Any]:
    """By precision: arithmetic operations per second of a large matrix product in its arithmetic, the best of some within two seconds."""
    import time

    import torch

    side, times = (512, 4) if device == "cpu" else (8192, 8)
    found = {}
    for precision in precisions:
        one = torch.randn(side, side, device=device, dtype=torch.float32 if precision == "fp32" else torch.bfloat16)
        best, until = 0.0, time.perf_counter() + 2
        while not best or time.perf_counter() < until:
            begin = time.perf_counter()
            for _ in range(times):
                one @ one
            if device != "cpu":
                torch.cuda.synchronize()
            best = max(best, times * 2 * side**3 / (time.perf_counter() - begin))
        found[precision] = best
    return found
