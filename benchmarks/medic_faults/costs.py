"""What each defence costs in time and bytes, for one sequence. Milliseconds by the clock, medians over rounds in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

import torch
from benchmarks.medic_common.subjects import Subject, checks_of, prefill, tail_logits, texts
from benchmarks.medic_faults.defences import CHECKSUM_BYTES, Limits, checksum_alarms, defend, remember
from benchmarks.medic_faults.training import Study, as_float, stored_as

from cachemedicpp.repair.operator import RepairOperator


@torch.no_grad()
def measure_costs(subject: Subject, study: Study, limits: Limits, operators: Mapping[str, RepairOperator], rounds: int) -> dict[str, Any]:
    """`ms` by action, and `extra_bytes_share`: what a defence keeps beside a stored block, as a share of the block.

    prefill: the whole prefix, what a fresh prefill of the last block takes. prefill_block: the last block's tokens alone, on
    the cache before them; equal to the former up to rounding. checksum, guard, clip: one look at every block of all layers.
    step: one decode step; step of an operator: with its terms computed from what is stored now, as a fault after the write
    needs (specs/medic.md, 12.3 rule 7). step_extra_ms: what that adds to a step, the median of differences within a round.
    """
    ids = texts(subject, "validation", 1, study.prefix + 1, study.seed)
    prefix, last = ids[:, : study.prefix], ids[:, study.prefix :]
    stored = stored_as(prefill(subject, prefix), study.stored_dtype)
    read, written = as_float(stored), remember(stored, stored, study.size)
    before = [(key[:, :, : -study.size], value[:, :, : -study.size]) for key, value in read]
    actions: dict[str, Callable[[], Any]] = {
        "prefill": partial(prefill, subject, prefix),
        "prefill_block": partial(tail_logits, subject, prefix[:, -study.size :], before),
        "checksum": partial(checksum_alarms, stored, written),
        "guard": partial(defend, "guard", stored, limits, written),
        "clip": partial(defend, "clip", stored, limits, written),
        "step": partial(tail_logits, subject, last, read),
    }
    for name, operator in operators.items():
        actions[f"step {name}"] = partial(tail_logits, subject, last, read, operator, checks_of(operator, read))
    times: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(-2, rounds):
        for name, action in actions.items():
            began = time.perf_counter()
            action()
            if turn >= 0:
                times[name].append(1000 * (time.perf_counter() - began))
    blocks = 2 * len(stored) * study.shape(subject.layers).blocks
    return {
        "ms": {name: median(found) for name, found in times.items()},
        "step_extra_ms": {
            name: median(own - plain for own, plain in zip(times[f"step {name}"], times["step"], strict=True)) for name in operators
        },
        "rounds": rounds,
        "blocks": blocks,
        "us_per_block": {name: 1000 * median(times[name]) / blocks for name in ("checksum", "guard", "clip")},
        "extra_bytes_share": _extra_bytes(subject, study, operators),
    }


def _checked(operator: RepairOperator) -> bool:
    gate = operator.spec.token_gate
    return gate is not None and gate.checksum


def _extra_bytes(subject: Subject, study: Study, operators: Mapping[str, RepairOperator]) -> dict[str, float]:
    """A checksum for each block; the residual's checks, r numbers of float32 for each token and head."""
    width, heads = subject.layout.head_dim * study.stored_dtype.itemsize, subject.layout.kv_heads
    shares = {"recompute": CHECKSUM_BYTES / (study.size * heads * width), "zero_block": CHECKSUM_BYTES / (study.size * heads * width)}
    return shares | {name: operator.spec.rank * 4 / width if _checked(operator) else 0.0 for name, operator in operators.items()}
