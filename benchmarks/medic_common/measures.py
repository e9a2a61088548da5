"""What a damaged cache costs, measured against the clean one, by text.

Letters as in `subjects`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from benchmarks.medic_common.subjects import Damage, Subject, checks_of, continuations, damaged, prefill
from torch import Tensor

from cachemedicpp.inputs.tasks import Example
from cachemedicpp.repair.operator import RepairOperator
from modelwright.probes.passkey import MAX_NEW_TOKENS, Passkey
from modelwright.probes.protocol import ProbeItem


def paired_kl(clean: Tensor, logits: Tensor) -> Tensor:
    """`KL(clean, logits)` of next-token distributions in nats, mean over the tail, `[B]` float64. Logits `[B, n, V]`."""
    log_p, log_q = clean.double().log_softmax(-1), logits.double().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean(-1)


def agreement(clean: Tensor, logits: Tensor) -> Tensor:
    """Share of tail positions whose most probable token is that of the clean cache, `[B]`. Logits `[B, n, V]`."""
    return (clean.argmax(-1) == logits.argmax(-1)).double().mean(-1)


def same_continuation(clean: Tensor, ids: Tensor) -> Tensor:
    """1 where a whole greedy continuation equals that of the clean cache, else 0, `[B]`. Ids `[B, count]`."""
    return (clean == ids).all(-1).double()


def nats_per_token(logits: Tensor, tail: Tensor) -> Tensor:
    """Mean negative log-likelihood of the tokens behind the first of the tail, `[B]`; `exp` of its mean over texts is the perplexity."""
    chosen = logits[:, :-1].double().log_softmax(-1).gather(-1, tail[:, 1:, None])
    return -chosen.squeeze(-1).mean(-1)


def recall_scores(
    subject: Subject, prompts: Sequence[Example], damage: Damage | None = None, operator: RepairOperator | None = None
) -> list[float]:
    """1 for each prompt whose greedy answer on the (damaged, repaired) cache begins with the key, else 0; in order of `prompts`."""
    probe, found = Passkey(), dict[int, float]()
    ordered = sorted(prompts, key=lambda one: (len(one.prefix), one.index))  # equal lengths together: no padding
    for draw, (_, same) in enumerate(groupby(ordered, key=lambda one: len(one.prefix))):
        group = list(same)
        pairs = prefill(subject, _ids(subject, [one.prefix for one in group]))
        checks = None if operator is None else checks_of(operator, pairs)
        stored = pairs if damage is None else damaged(pairs, damage, draw)
        answers = continuations(subject, _ids(subject, [one.lead for one in group]), stored, MAX_NEW_TOKENS, operator, checks)
        for one, answer in zip(group, answers.tolist(), strict=True):
            key = str(subject.tokenizer.decode(list(one.continuations[0]))).strip()
            found[one.index] = probe.score(ProbeItem((), key, 0.0, 0, MAX_NEW_TOKENS), str(subject.tokenizer.decode(answer)))
    return [found[one.index] for one in prompts]


def _ids(subject: Subject, rows: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor([list(row) for row in rows], device=subject.model.device)
