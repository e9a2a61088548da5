"""One fault kind under every defence, and clean caches.

A trial is a test text with one fault. Its prefix is prefilled in float32, stored in the cache's dtype, struck, read by a
defence and scored on the tail of the text (paired divergence) and on the greedy continuation of the clean stored cache:
one pass over that continuation shows whether the damaged cache would have generated it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from benchmarks.medic_common.measures import nats_per_token, paired_kl
from benchmarks.medic_common.subjects import Pairs, Subject, checks_of, continuations, prefill, tail_logits, texts
from benchmarks.medic_faults.defences import (
    PLAIN,
    TRAINED,
    Limits,
    Written,
    checksum_alarms,
    defend,
    gate_scores,
    gates,
    range_alarms,
    remember,
)
from benchmarks.medic_faults.patterns import Kind, strike_row, struck_blocks, trial_generator
from benchmarks.medic_faults.training import Study, as_float, stored_as
from benchmarks.medic_faults.verdicts import auc
from torch import Tensor

from cachemedicpp import seeds
from cachemedicpp.faults.cache_faults import as_words, count_flipped_bits
from cachemedicpp.repair.cache import Checks
from cachemedicpp.repair.operator import RepairOperator


@dataclass(frozen=True)
class Batch:
    """Test texts with what is known of their clean caches. numbers: of the trials. greedy_tail: the first token of the tail
    and the clean continuation but its last; greedy: the continuation. text_logits: of the tail on the clean stored cache."""

    numbers: Sequence[int]
    tail: Tensor
    stored: Pairs
    written: Written
    text_logits: Tensor
    greedy_tail: Tensor
    greedy: Tensor


@dataclass(frozen=True)
class Bench:
    """Everything a measurement needs: model, sizes, ranges, operators by defence (one for each seed), gate thresholds alike."""

    subject: Subject
    study: Study
    limits: Limits
    operators: Mapping[str, Sequence[RepairOperator]]
    thresholds: Mapping[str, Sequence[Tensor]]

    @property
    def ceiling(self) -> float:
        """Nats at which a divergence is capped, log V: what an answer that knows nothing at all costs at most on average. An
        answer with logits that are not finite counts as much."""
        return math.log(self.subject.model.config.vocab_size)


def make_batches(subject: Subject, study: Study) -> list[Batch]:
    """The test texts, `study.rows` at a time."""
    ids = texts(subject, "test", study.trials, study.prefix + study.tail, study.seed)
    batches, numbers = [], list(range(study.trials))
    for first in range(0, study.trials, study.rows):
        prefix, tail = ids[first : first + study.rows].split((study.prefix, study.tail), dim=1)
        stored = stored_as(prefill(subject, prefix), study.stored_dtype)
        fresh = stored_as(prefill(subject, prefix), study.stored_dtype)
        read = as_float(stored)
        greedy = continuations(subject, tail[:, :1], read, study.greedy)
        greedy_tail = torch.cat([tail[:, :1], greedy[:, :-1]], dim=1)
        written = remember(stored, fresh, study.size)
        clean = tail_logits(subject, tail, read)
        batches.append(Batch(numbers[first : first + study.rows], tail, stored, written, clean, greedy_tail, greedy))
    return batches


def readings(bench: Bench, stored: Pairs, batch: Batch) -> Iterator[tuple[str, int, Pairs, RepairOperator | None]]:
    """Every defence with every seed: its name, the seed's number, what it reads (float32) and its operator."""
    read = {name: as_float(defend(name, stored, bench.limits, batch.written)) for name in PLAIN}
    for name in PLAIN:
        yield name, 0, read[name], None
    for defence in TRAINED:
        for number, operator in enumerate(bench.operators[defence.name]):
            yield defence.name, number, read[defence.front], operator


def measure_kind(bench: Bench, batches: Sequence[Batch], kind: Kind) -> dict[str, Any]:
    """All trials of one kind: `kl`, `unchanged`, `finite` as defence → `[S][N]`; blocks that were struck and found; AUC of gates."""
    tables = _Tables()
    found: dict[str, list[int]] = {"checksum": [0], "range": [0]} | {one.name: [0] * len(bench.operators[one.name]) for one in TRAINED}
    scores: dict[tuple[str, int], tuple[list[float], list[float]]] = {}
    struck = bits = 0
    for batch in batches:
        stored = list(batch.stored)
        places = []
        for row, number in enumerate(batch.numbers):
            generator = trial_generator(bench.study.seed, seeds.BENCHMARK, kind, number)
            places.append(strike_row(stored, row, kind, bench.study.shape(bench.subject.layers), generator))
        truth = _truth(batch.stored, stored, bench.study.size)
        struck += int(truth.sum())
        bits += sum(count_flipped_bits(a, b) for was, now in zip(batch.stored, stored, strict=True) for a, b in zip(was, now, strict=True))
        found["checksum"][0] += int((checksum_alarms(stored, batch.written) & truth).sum())
        found["range"][0] += int((range_alarms(stored, bench.limits, bench.study.size) & truth).sum())
        for name, number, read, operator in readings(bench, stored, batch):
            checks = None if operator is None else checks_of(operator, as_float(batch.stored))
            tables.add(name, number, *_outcome(bench, batch, read, operator, checks))
            if operator is None:
                continue
            opened = gates(operator, read, checks)
            found[name][number] += int((_gate_alarms(bench, name, number, opened) & truth).sum())
            hit, clean = scores.setdefault((name, number), ([], []))
            for row, place in enumerate(places):
                was, now = batch.stored[place.layer][place.side][row], stored[place.layer][place.side][row]
                changed = (as_words(was) != as_words(now)).any(-1)  # [Hkv, T]
                values = opened[place.layer, place.side, row]
                hit += values[changed].tolist()
                clean += values[~changed].tolist()
    return {
        "kind": kind.name,
        **tables.values,
        "struck_blocks": struck,
        "found_blocks": found,
        "flipped_bits": bits / bench.study.trials,
        "auc": {one.name: [auc(*scores[one.name, number]) for number in range(len(bench.operators[one.name]))] for one in TRAINED},
    }


def measure_clean(bench: Bench, batches: Sequence[Batch]) -> dict[str, Any]:
    """Undamaged caches: the same tables, `nats` (of the text, per token) as defence → `[S][N]`, and false alarms of each detector."""
    tables, alarms, blocks = _Tables(), {name: [0] for name in ("checksum", "range")}, 0
    alarms |= {one.name: [0] * len(bench.operators[one.name]) for one in TRAINED}
    for batch in batches:
        found = checksum_alarms(batch.stored, batch.written)
        blocks += found.numel()
        alarms["checksum"][0] += int(found.sum())
        alarms["range"][0] += int(range_alarms(batch.stored, bench.limits, bench.study.size).sum())
        for name, number, read, operator in readings(bench, batch.stored, batch):
            checks = None if operator is None else checks_of(operator, as_float(batch.stored))
            tables.add(name, number, *_outcome(bench, batch, read, operator, checks))
            logits = tail_logits(bench.subject, batch.tail, read, operator, checks)
            tables.extend("nats", name, number, nats_per_token(logits, batch.tail).tolist())
            if operator is not None:
                alarms[name][number] += int(_gate_alarms(bench, name, number, gates(operator, read, checks)).sum())
    return {**tables.values, "clean_blocks": blocks, "false_alarms": alarms}


class _Tables:
    """Quantity → defence → seed → values by trial."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, list[list[float]]]] = {}

    def add(self, name: str, number: int, kl: list[float], unchanged: list[float], finite: list[float]) -> None:
        for quantity, values in (("kl", kl), ("unchanged", unchanged), ("finite", finite)):
            self.extend(quantity, name, number, values)

    def extend(self, quantity: str, name: str, number: int, values: list[float]) -> None:
        rows = self.values.setdefault(quantity, {}).setdefault(name, [])
        if number == len(rows):
            rows.append([])
        rows[number] += values


def _outcome(
    bench: Bench, batch: Batch, read: Pairs, operator: RepairOperator | None, checks: Checks | None
) -> tuple[list[float], list[float], list[float]]:
    """By trial: capped divergence, whether the greedy continuation stays, whether all logits are finite."""
    text = tail_logits(bench.subject, batch.tail, read, operator, checks)
    ahead = tail_logits(bench.subject, batch.greedy_tail, read, operator, checks)
    finite = text.isfinite().flatten(1).all(1) & ahead.isfinite().flatten(1).all(1)
    kl = paired_kl(batch.text_logits, text).nan_to_num(nan=bench.ceiling, posinf=bench.ceiling).clamp(0, bench.ceiling)
    kl = torch.where(finite, kl, torch.full_like(kl, bench.ceiling))
    same = (ahead.argmax(-1) == batch.greedy).all(-1) & finite
    return kl.tolist(), same.double().tolist(), finite.double().tolist()


def _gate_alarms(bench: Bench, name: str, number: int, opened: Tensor) -> Tensor:
    return gate_scores(opened, bench.study.size) > bench.thresholds[name][number][..., None, None]


def _truth(clean: Pairs, stored: Pairs, size: int) -> Tensor:
    """Blocks with a changed word, bool `[layers, 2, B, N]`."""
    return torch.stack(
        [torch.stack([struck_blocks(a, b, size) for a, b in zip(was, now, strict=True)]) for was, now in zip(clean, stored, strict=True)]
    )
