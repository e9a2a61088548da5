"""Houses (base directories of the guild) to measure in, with rows to train.

Built from the pieces that `guild init`, `guild campaign new` and `guild queue add` are made of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guild.campaigns.activation import activate
from guild.campaigns.store import create_campaign
from guild.init import initialise
from guild.places import Places
from modelwright.files import read_yaml, write_text, write_yaml
from modelwright.tiny import tiny_model_path

ON_CPU = {"trainer": "cpu", "inference": "cpu"}
PACKAGED = ("tiny-0.4m", "tiny-1.5m", "tiny-5m")
SCHEMA = "chat_sft_v1"


def write_rows(path: Path, count: int, *, first: int = 0) -> Path:
    """Chat rows of some seventy tokens each, all different: a number, and the one behind it."""
    rows = []
    for number in range(first, first + count):
        messages = [
            {"role": "user", "content": f"Round {number // 10}: which number follows {number}?"},
            {"role": "assistant", "content": f"After {number} comes {number + 1}, and that is the whole answer to it."},
        ]
        rows.append(json.dumps({"schema_id": SCHEMA, "messages": messages}) + "\n")
    write_text(path, "".join(rows))
    return path


def make_house(
    base: Path, *, model: Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None, skills: Sequence[str] = ()
) -> Places:
    """A new house on the processor with one active campaign. model: replaces fields of the tiny hero's `model`; overrides: of the
    campaign's settings."""
    places = Places(base)
    initialise(places, devices=ON_CPU)
    if model is not None:
        hero = places.heroes / "tiny.yaml"
        content = read_yaml(hero)
        write_yaml(hero, {**content, "model": {**content["model"], **model}})
    folder = create_campaign(places, "tiny", "Benchmark", skills=list(skills), config_overrides=dict(overrides or {}))
    activate(places, *folder.key)
    return places


def model_fields(name: str, folder: Path) -> dict[str, Any]:
    """What a hero says of a model: a packaged one by name, or random weights as `random-<width>x<layers>`, which are written below
    `folder`. Raises ValueError for another name."""
    if name in PACKAGED:
        path = tiny_model_path(f"modelwright/{name}")
        return _fields(f"modelwright/{name}", json.loads((path / "config.json").read_text(encoding="utf-8")))
    kind, _, size = name.partition("-")
    width, _, layers = size.partition("x")
    if kind != "random" or not width.isdecimal() or not layers.isdecimal() or int(width) % 64 or not int(width) or not int(layers):
        raise ValueError(f"found {name!r}; allowed: {', '.join(PACKAGED)}, or random-WIDTHxLAYERS with a width that 64 divides")
    target = folder / name
    _write_random(target, int(width), int(layers))
    return _fields(str(target), json.loads((target / "config.json").read_text(encoding="utf-8")))


def _fields(path: str, config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "hf_name": path,
        "architecture": config["architectures"][0],
        "vocab_size": config["vocab_size"],
        "context_length": config["max_position_embeddings"],
    }


def _write_random(folder: Path, width: int, layers: int) -> None:
    """A Llama of random weights with heads of 64 numbers and the tokenizer of the tiny model."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path("modelwright/tiny-0.4m"))
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
