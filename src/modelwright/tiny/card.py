"""The model card of a tiny model, rendered from its `figures.json` and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TEMPLATE = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
language: en
tags: [llama, tiny, reference-model]
---

# modelwright/{name}

A Llama of {parameters:,} parameters with a window of {context} tokens: width {hidden}, {layers} layers,
{heads} attention heads, {kv_heads} key/value heads, feed-forward {ffn}, tied embeddings, byte-level BPE of
{vocabulary:,} entries. It exists so that demos and tests have a model that predicts text, finds a passkey inside its
window and fails beyond it. It is of no use as an assistant.

## Measured

From the saved weights, greedy decoding, float32.

{text_table}

Bits per byte: over the first so many tokens of held-out files of the same library.

{passkey_table}

Passkey accuracy over {passkey_samples} keys per length, spread over all depths.
No training row shares the probe's wording or its keys.

Sentiment labels, {sentiment_samples} fresh reviews in the training rows' style: {sentiment:.1%} right.

## Recipe

{steps:,} steps and {tokens:,} tokens ({stages}).{growth}
Muon for the hidden matrices (rate {matrix_rate:g}), AdamW for embeddings and norms ({vector_rate:g}). Seed {seed}.
The rows: source text of the Python standard library, random runs repeated, key and value lists, facts hidden in filler,
small instructions and labelled sentences. Synthetic rows have a loss on their answers only.

| | |
|---|---|
| Interpreter whose library was read | Python {interpreter} |
| Data digest (SHA-256 of paths and contents) | `{digest}` |
| Training text | {train_bytes:,} bytes in {train_files} files |
| Held-out text | {held_out_bytes:,} bytes in {held_out_files} files |
| Trained with | torch {torch}, transformers {transformers}, {threads} CPU threads |
| Float32 matrix products | "{precision}" |
| Time | {seconds:,.0f} s |
| Weights (SHA-256) | `{weights}` |

To train it again: `modelwright models make-tiny --size {size} --seed {seed}`. The same interpreter version gives the
same data; the same machine, library versions and thread count give the same weights.

The weights are stored as bfloat16; `config.json` names float32, so that plain `AutoModelForCausalLM.from_pretrained`
computes in float32, the faster choice on CPUs without bfloat16 instructions. Pass `dtype=torch.bfloat16` to keep them
as stored.

## Licence

Weights and card: Apache-2.0. The training text is the source code of the Python standard library, copyright Python
Software Foundation and others, used under the PSF License Agreement (https://docs.python.org/3/license.html), and
sentences that the project generates itself.
"""

_GROWTH = """
Not from random weights: it starts as `modelwright/{}` (weights {}), made wider and deeper so that it computes the same
(`modelwright.tiny.growth`)."""


def render_card(figures: Mapping[str, Any]) -> str:
    """The whole README.md of a model from its figures."""
    recipe, data = figures["recipe"], figures["data"]
    return _TEMPLATE.format(
        name=figures["name"],
        size=figures["name"].removeprefix("tiny-"),
        parameters=figures["parameters"],
        hidden=recipe["hidden_size"],
        layers=recipe["layers"],
        heads=recipe["heads"],
        kv_heads=recipe["kv_heads"],
        ffn=recipe["ffn_size"],
        vocabulary=recipe["vocabulary_size"],
        context=recipe["context"],
        text_table=_table("Tokens", "Bits per byte", figures["measured"]["bits_per_byte"], "{:.3f}"),
        passkey_table=_passkey_table(figures["measured"]["passkey"]),
        passkey_samples=figures["measured"]["passkey_samples"],
        sentiment=figures["measured"]["sentiment_accuracy"],
        sentiment_samples=figures["measured"]["sentiment_samples"],
        steps=figures["steps"],
        tokens=figures["tokens"],
        stages=", ".join(f"{stage['steps']} steps at {stage['length']}" for stage in recipe["stages"]),
        matrix_rate=recipe["matrix_rate"],
        vector_rate=recipe["vector_rate"],
        growth=_GROWTH.format(recipe["grown_from"], figures["grown_from_sha256"][:12]) if recipe.get("grown_from") else "",
        seed=figures["seed"],
        interpreter=data["interpreter"],
        digest=data["digest"],
        train_bytes=data["train_bytes"],
        train_files=data["train_files"],
        held_out_bytes=data["held_out_bytes"],
        held_out_files=data["held_out_files"],
        torch=figures["torch"],
        transformers=figures["transformers"],
        threads=figures["threads"],
        precision=figures["matmul_precision"]["precision"],
        seconds=figures["train_seconds"],
        weights=figures["weights_sha256"],
    )


def _table(head: str, row: str, values: Mapping[str, float], form: str) -> str:
    lengths = list(values)
    return "\n".join(
        (
            f"| {head} | {' | '.join(lengths)} |",
            "|---" * (len(lengths) + 1) + "|",
            f"| {row} | {' | '.join(form.format(values[length]) for length in lengths)} |",
        )
    )


def _passkey_table(passkey: Mapping[str, Mapping[str, float]]) -> str:
    chat = " | ".join(f"{value:.0%}" for value in passkey["chat"].values())
    return _table("Tokens", "Passkey, plain text", passkey["raw"], "{:.0%}") + f"\n| Passkey, ChatML | {chat} |"
