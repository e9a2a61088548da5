"""One quantised cache, with or without a repair, on texts and passkeys: how far the model is from its clean cache.

The cache of a prefix is quantised once; the tail runs on it and stays in full precision, as the newest tokens of a stream do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from benchmarks.medic_common.measures import agreement, nats_per_token, paired_kl, recall_scores, same_continuation
from benchmarks.medic_common.subjects import Damage, Pairs, Subject, continuations, damaged, prefill, recall_prompts, tail_logits, texts
from torch import Tensor

from cachemedicpp.inputs.sources import Split
from cachemedicpp.inputs.tasks import Example
from cachemedicpp.repair.operator import RepairOperator

BATCH = 16
Scores = dict[str, list[float]]
"""By text: `kl` (nats), `nats` per token, `agreement` (share of the tail), `same` (0 or 1); by prompt: `recall` (0 or 1)."""


@dataclass(frozen=True)
class Size:
    """Tokens of prefix, tail, passkey prompt and greedy continuation; how many texts and prompts; rounds of the timing."""

    prefix: int = 192
    tail: int = 32
    texts: int = 48
    validation_texts: int = 16
    prompts: int = 22
    prompt_tokens: int = 192
    greedy: int = 16
    rounds: int = 20


@dataclass(frozen=True)
class Batch:
    """Texts with their clean cache: pairs, tail ids `[B, n]`, logits `[B, n, V]` and greedy continuations `[B, greedy]` of it."""

    pairs: Pairs
    tail: Tensor
    logits: Tensor
    greedy: Tensor


@dataclass(frozen=True)
class Exam:
    """What every setting is measured on."""

    batches: tuple[Batch, ...]
    prompts: tuple[Example, ...]


def new_exam(subject: Subject, size: Size, split: Split) -> Exam:
    """The texts of a split on the clean cache; passkeys with the test texts only. Raises UsageError when the split is too short."""
    count = size.texts if split == "test" else size.validation_texts
    batches = []
    for ids in texts(subject, split, count, size.prefix + size.tail).split(BATCH):
        pairs, tail = prefill(subject, ids[:, : size.prefix]), ids[:, size.prefix :]
        greedy = continuations(subject, tail[:, :1], pairs, size.greedy if split == "test" else 1)
        batches.append(Batch(pairs, tail, tail_logits(subject, tail, pairs), greedy))
    prompts = recall_prompts(subject, size.prompts, size.prompt_tokens) if split == "test" else []
    return Exam(tuple(batches), tuple(prompts))


def scores(subject: Subject, exam: Exam, damage: Damage | None, operator: RepairOperator | None = None, *, greedy: bool = True) -> Scores:
    """All measures of one setting; without `greedy` only those that need no generated token. damage: None for the clean cache."""
    found: Scores = {"kl": [], "nats": [], "agreement": []}
    if greedy:
        found["same"] = []
    for batch in exam.batches:
        stored = batch.pairs if damage is None else damaged(batch.pairs, damage)
        logits = tail_logits(subject, batch.tail, stored, operator)
        found["kl"] += paired_kl(batch.logits, logits).tolist()
        found["nats"] += nats_per_token(logits, batch.tail).tolist()
        found["agreement"] += agreement(batch.logits, logits).tolist()
        if greedy:
            ids = continuations(subject, batch.tail[:, :1], stored, batch.greedy.shape[1], operator)
            found["same"] += same_continuation(batch.greedy, ids).tolist()
    if greedy:
        found["recall"] = recall_scores(subject, exam.prompts, damage, operator)
    return {name: _rounded(values) for name, values in found.items()}


def mean_kl(subject: Subject, exam: Exam, damage: Damage) -> float:
    """Mean nats over the texts of `exam`."""
    return float(torch.tensor(scores(subject, exam, damage, greedy=False)["kl"], dtype=torch.float64).mean())


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.7g}") for value in values]
