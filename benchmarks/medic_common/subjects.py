"""Models, texts and recall prompts of the studies, and passes over stored caches.

Letters: B texts, T cached tokens, n tokens of a tail, L layers, Hkv KV heads, d head dimension, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cachemedicpp.config.sections import DataSettings
from cachemedicpp.inputs.needle import passkey_examples
from cachemedicpp.inputs.sources import Split
from cachemedicpp.inputs.tasks import Example
from cachemedicpp.inputs.texts import load_text
from cachemedicpp.inputs.token_stream import token_stream
from cachemedicpp.repair.attention import protecting
from cachemedicpp.repair.cache import Checks, extend_cache
from cachemedicpp.repair.operator import RepairOperator, layout_of
from cachemedicpp.repair.spec import HeadLayout
from modelwright.errors import UsageError
from modelwright.loading import load_model, load_tokenizer, resolve_model

Pair = tuple[Tensor, Tensor]
"""Keys and values of one layer, `[B, Hkv, T, d]` each."""
Pairs = list[Pair]
Damage = Callable[[Tensor, Tensor, int, int], Pair]
"""Stored keys and values `[B, Hkv, T, d]`, layer and draw in; what is stored after the damage out. Equal draws, equal damage."""
_DATA = DataSettings.model_validate(
    {
        "use_offline": True,
        "offline_paths": {"wikitext2": "data/offline/wikitext2_sample.txt", "sst2": "data/offline/sst2_sample.jsonl"},
        "long_context": {
            "seed": 0,
            "context_len": 160,
            "needle_token": "the_key",
            "needle_value": "violet-7",
            "position_frac": 0.35,
            "question_template": "Question: What is {needle_token}? Answer:",
        },
    }
)
"""The text that the project made itself and the tiny models can read. (cachemedicpp.inputs.offline)"""


@dataclass(frozen=True)
class Subject:
    """A frozen model in float32 with its tokenizer. layers: L. layout: heads. window: tokens it was trained on."""

    name: str
    model: Any
    tokenizer: Any
    layers: int
    layout: HeadLayout
    window: int


def load_subject(name: str, device: str = "cpu") -> Subject:
    """A packaged model (`modelwright/tiny-1.5m`) or a local folder, frozen. Raises LoadError."""
    source = resolve_model(name, offline=True)
    model = load_model(source, dtype="float32", device=device).requires_grad_(False).eval()
    config = model.config
    return Subject(
        name, model, load_tokenizer(source), int(config.num_hidden_layers), layout_of(model), int(config.max_position_embeddings)
    )


def text_stream(subject: Subject, split: Split) -> Tensor:
    """All tokens of a split, int64 `[N]` on the CPU."""
    return token_stream(subject.tokenizer, load_text(_DATA, split).items)


def texts(subject: Subject, split: Split, count: int, tokens: int, seed: int = 0) -> Tensor:
    """`count` stretches of the split's text, drawn by `seed` from those that lie end to end: int64 `[count, tokens]`.

    No two overlap, and no line stands in two splits. Raises UsageError when the split has fewer.
    """
    stream = text_stream(subject, split)
    whole = stream.numel() // tokens
    if count > whole:
        raise UsageError(
            f"The {split} text has {whole} stretches of {tokens} tokens; {count} were asked for. Ask for fewer or shorter ones."
        )
    order = torch.randperm(whole, generator=torch.Generator().manual_seed(seed))[:count]
    return stream[: whole * tokens].reshape(whole, tokens)[order].to(subject.model.device)


def recall_prompts(subject: Subject, count: int, tokens: int, seed: int = 0) -> list[Example]:
    """`count` passkey prompts of the kernel's probe, answer included about `tokens` long, at all depths.

    `prefix` is cached, `lead` asks, `continuations[0]` holds the ids of the key. Raises UsageError below 128 tokens.
    """
    return passkey_examples(subject.tokenizer, count, tokens, seed)


@torch.no_grad()
def prefill(subject: Subject, ids: Tensor) -> Pairs:
    """Clean keys and values of `ids` `[B, T]`, by layer."""
    cache = empty_cache(subject)
    subject.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return [(layer.keys, layer.values) for layer in cache.layers]


@torch.no_grad()
def damaged(pairs: Sequence[Pair], damage: Damage, draw: int = 0) -> Pairs:
    """Every layer of a cache after `damage`, in new tensors or, where it leaves them alone, the same ones."""
    return [damage(key, value, layer, draw) for layer, (key, value) in enumerate(pairs)]


def checks_of(operator: RepairOperator, pairs: Sequence[Pair]) -> Checks | None:
    """The checksums of a cache as it is now, for family D with `checksum`; None for any other operator."""
    gate = operator.spec.token_gate
    if gate is None or not gate.checksum:
        return None
    return {layer: operator.checks(layer, *pairs[layer]) for layer in operator.spec.protect_layers}


@torch.no_grad()
def tail_logits(
    subject: Subject, tail: Tensor, pairs: Sequence[Pair], operator: RepairOperator | None = None, checks: Checks | None = None
) -> Tensor:
    """Logits `[B, n, V]`, float32, of the ids `tail` `[B, n]` on stored keys and values; row i predicts token i + 1.

    operator: repairs in the form that serves. checks: `checks_of` the cache before the damage.
    """
    with _serving(subject, pairs, operator, checks) as cache:
        return subject.model(input_ids=tail, past_key_values=cache, use_cache=True).logits.float()  # type: ignore[no-any-return]


@torch.no_grad()
def continuations(
    subject: Subject,
    lead: Tensor,
    pairs: Sequence[Pair],
    count: int,
    operator: RepairOperator | None = None,
    checks: Checks | None = None,
) -> Tensor:
    """Greedy continuations of `count` tokens, ids `[B, count]`, after the ids `lead` `[B, n]` on stored keys and values.

    New tokens enter the cache in full precision and undamaged.
    """
    found, ids = [], lead
    with _serving(subject, pairs, operator, checks) as cache:
        for _ in range(count):
            logits = subject.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            ids = logits[:, -1:].float().argmax(-1)
            found.append(ids)
    return torch.cat(found, dim=1)


@contextmanager
def _serving(subject: Subject, pairs: Sequence[Pair], operator: RepairOperator | None, checks: Checks | None) -> Iterator[Any]:
    cache = filled_cache(subject, pairs)
    if operator is None:
        yield cache
        return
    if operator.spec.serving_form == "extended":
        extend_cache(cache, operator, checks)
    with protecting(subject.model, operator):
        yield cache


def empty_cache(subject: Subject) -> Any:
    """A `DynamicCache` of the model without tokens."""
    from transformers import DynamicCache

    return DynamicCache(config=subject.model.config)


def filled_cache(subject: Subject, pairs: Sequence[Pair]) -> Any:
    """A `DynamicCache` of the model that holds `pairs`."""
    cache = empty_cache(subject)
    for layer, (key, value) in enumerate(pairs):
        cache.update(key, value, layer)
    return cache
